"""What the criteria that judge whole sequences have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor

from fwk.contracts.context import BuildContext, Context
from fwk.contracts.criterion import Criterion, Read
from fwk.contracts.views import View
from fwk.nn.mixed_targets import Distillation
from fwk.nn.pooling import SequenceOptions

OptionsT = TypeVar("OptionsT", bound=SequenceOptions)


class SequenceCriterion(Criterion[OptionsT]):
    """Base class of criteria with a `SequenceHead`: the view, label and states that they read, and their teacher."""

    form_options = ("pooling", "hidden")

    def __init__(self, config: OptionsT, build: BuildContext) -> None:
        super().__init__(config, build)
        self.distillation = Distillation(config, build, config.label)
        self.taught, self.teachers = self.distillation.taught, self.distillation.teachers

    @classmethod
    def reads(cls, config: OptionsT) -> dict[str, Read]:
        return config.reads()

    @classmethod
    def needs_labels(cls, config: OptionsT) -> tuple[str, ...]:
        return (config.label,)

    def states(self) -> tuple[str, ...]:
        return self.config.states()

    def predict(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        """Return the logits of the head, [R, C] for the rows of the view, or [B, C] for the choices of B examples."""
        head = self.get_submodule(self.head_path)
        return {self.config.label: head(views[self.config.view])}
