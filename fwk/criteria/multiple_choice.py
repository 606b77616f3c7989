"""Multiple choice: one score per choice, softmax over the choices of an example (Devlin et al. 2019, section 4.4).

    L = sum over examples i of  -log softmax over its choices c (z_ic)_y     /     examples

The view renders a list of texts (`fields: [context, choices]`), so it has a row per choice, and the rows of an example
have its draw. z is the output of the head (`fwk/nn/pooling.py`), y `view.labels[label]`, the place of the right choice,
-1 where it is unknown. Examples may have different numbers of choices. With a teacher the target
is mixed (`fwk/nn/mixed_targets.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fwk.components.registry import register
from fwk.contracts.alignment import first_rows
from fwk.contracts.context import BuildContext, Context
from fwk.contracts.criterion import Read
from fwk.contracts.heads import HeadOutputs
from fwk.contracts.options import option
from fwk.contracts.views import LossTerm, Output, View
from fwk.nn.mixed_targets import soft_cross_entropy
from fwk.nn.pooling import SequenceHead, SequenceOptions, label_values
from fwk.nn.sequence_criterion import SequenceCriterion


@register("criterion", "multiple_choice")
class MultipleChoice(SequenceCriterion["MultipleChoice.Config"]):
    """Cross-entropy of the right choice among the sequences of an example."""

    roles = ("multiple_choice",)
    head_path = "scores"

    @dataclass(frozen=True, kw_only=True)
    class Config(SequenceOptions):
        view: str = option("choices", "the view with a row per choice")
        fields: tuple[str, ...] = option(
            ("context", "choices"), "the texts of a sequence; one of them is a list"
        )

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        label_values(build, config.label, ("choice",))
        self.scores = ChoiceHead(config, build, 1)

    @classmethod
    def reads(cls, config: Config) -> dict[str, Read]:
        return config.reads({"noiser": "identity", "fields": list(config.fields)})

    def head_outputs(self) -> HeadOutputs:
        return HeadOutputs(form=self.scores.form)

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        view = views[self.config.view]
        first, _ = places_of_choices(view.draws)
        labelled = view.labels[self.config.label][first] >= 0
        return {"multiple_choice": self.distillation.learned(labelled, context).sum()}

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        view = views[self.config.view]
        first, _ = places_of_choices(view.draws)
        target = view.labels[self.config.label][first]  # [B]
        logits = self.logits(view)  # [B, C]
        labelled = target >= 0
        losses = F.cross_entropy(logits, target.clamp(min=0), reduction="none")
        losses = self.distillation.mixed(
            losses, labelled, lambda: self._soft(logits, view, context), context
        )
        learned = self.distillation.learned(labelled, context)
        right = (logits.argmax(-1) == target) & labelled
        return Output(
            terms={"multiple_choice": LossTerm(losses.masked_fill(~learned, 0).sum())},
            statistics={"right": right.sum(), "labelled": labelled.sum()},
        )

    def _soft(self, logits: Tensor, view: View, context: Context) -> Tensor:
        """Return the losses with the teacher's distributions as targets, [B]."""
        teacher = self.distillation.outputs(view, context)  # [R, C'], or [B, C'] of a criterion
        if len(teacher) != len(logits):
            teacher = teacher[places_of_choices(view.draws)[0]]
        missing = logits.shape[1] - teacher.shape[1]
        teacher = F.pad(teacher, (0, missing), value=-torch.inf)  # cut where it is negative
        return soft_cross_entropy(logits, teacher, self.config.temperature)

    @property
    def logits(self) -> ChoiceHead:
        """The head under the name that it has in other criteria."""
        return self.scores

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        return {"accuracy": float(sums["right"] / sums["labelled"].clamp(min=1))}


class ChoiceHead(SequenceHead):
    """A view with R rows, the choices of B examples -> logits [B, C] of each example's choices."""

    absent_is_minus_infinity = True  # which a search for numbers that are not finite passes over

    def forward(self, view: View) -> Tensor:
        """Return the scores of each example's choices; -inf where it has fewer."""
        first, place = places_of_choices(view.draws)
        example = torch.zeros_like(place)
        example[first] = 1
        example = example.cumsum(0) - 1  # [R]
        scores = super().forward(view)[:, 0]  # [R]
        most = int(place.max()) + 1 if len(place) else 1
        logits = scores.new_full((len(first), most), -torch.inf)
        return logits.index_put((example, place), scores)


def places_of_choices(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first row of each example, int64 [B], and the place of each row among its example's, int64 [R].

    draws: int64 [R]; the rows of an example follow each other.
    """
    rows = torch.arange(len(draws), device=draws.device)
    begins = first_rows(draws)
    first = rows[begins]
    return first, rows - first[begins.cumsum(0) - 1]
