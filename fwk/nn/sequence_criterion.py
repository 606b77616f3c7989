"""What the criteria that judge whole sequences have in common."""

from __future__ import annotations

from typing import TypeVar

from fwk.contracts.criterion import Criterion, Read
from fwk.nn.pooling import SequenceOptions

OptionsT = TypeVar("OptionsT", bound=SequenceOptions)


class SequenceCriterion(Criterion[OptionsT]):
    """Base class of criteria with a `SequenceHead`: the view, the label and the encoder states that they read."""

    @classmethod
    def reads(cls, config: OptionsT) -> dict[str, Read]:
        return config.reads()

    @classmethod
    def needs_labels(cls, config: OptionsT) -> tuple[str, ...]:
        return (config.label,)

    def states(self) -> tuple[str, ...]:
        return self.config.states()
