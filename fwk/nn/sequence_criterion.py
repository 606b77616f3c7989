"""What the criteria that judge whole sequences have in common."""

from __future__ import annotations

from typing import TypeVar

from fwk.contracts.context import BuildContext
from fwk.contracts.criterion import Criterion, Read
from fwk.nn.mixed_targets import Distillation
from fwk.nn.pooling import SequenceOptions

OptionsT = TypeVar("OptionsT", bound=SequenceOptions)


class SequenceCriterion(Criterion[OptionsT]):
    """Base class of criteria with a `SequenceHead`: the view, label and states that they read, and their teacher."""

    def __init__(self, config: OptionsT, build: BuildContext) -> None:
        super().__init__(config, build)
        self.distillation = Distillation(config, build, config.label)
        self.taught, self.teachers = self.distillation.taught, self.distillation.teachers

    form_options = ("pooling", "hidden")

    @classmethod
    def reads(cls, config: OptionsT) -> dict[str, Read]:
        return config.reads()

    @classmethod
    def needs_labels(cls, config: OptionsT) -> tuple[str, ...]:
        return (config.label,)

    def states(self) -> tuple[str, ...]:
        return self.config.states()
