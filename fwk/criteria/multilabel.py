"""Several classes at once: one logistic output per class.

    L = sum over labelled rows i and classes c of  -[ w y_ic log s(z_ic) + (1 - y_ic) log(1 - s(z_ic)) ]
        /  (labelled rows x C)

z are the logits of the head (`fwk/nn/pooling.py`), s the logistic function, y the 0 and 1 of `view.labels[label]`
[R, C] (-1 where a row has no label), and w `positive_weight`. With a teacher y is mixed (`fwk/nn/mixed_targets.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fwk.components.registry import register
from fwk.contracts.context import BuildContext, Context
from fwk.contracts.heads import HeadOutputs
from fwk.contracts.options import option
from fwk.contracts.views import LossTerm, Output, View
from fwk.nn.mixed_targets import soft_binary_cross_entropy
from fwk.nn.pooling import SequenceHead, SequenceOptions, label_values
from fwk.nn.sequence_criterion import SequenceCriterion


@register("criterion", "multilabel")
class Multilabel(SequenceCriterion["Multilabel.Config"]):
    """Binary cross-entropy of each class, for sequences that may belong to any number of classes."""

    roles = ("multilabel_classification",)
    head_path = "logits"

    @dataclass(frozen=True, kw_only=True)
    class Config(SequenceOptions):
        positive_weight: float = option(1.0, "factor of the loss where a class applies", above=0)

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        self.classes = label_values(build, config.label, ("classes",))
        self.logits = SequenceHead(config, build, len(self.classes))

    def head_outputs(self) -> HeadOutputs:
        return HeadOutputs(names=self.classes, form=self.logits.form)

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        target = views[self.config.view].labels[self.config.label]
        return {"multilabel": self.distillation.learned(target >= 0, context).sum()}

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        view = views[self.config.view]
        target, logits = view.labels[self.config.label], self.logits(view)  # [R, C] each
        labelled = target >= 0
        losses = F.binary_cross_entropy_with_logits(
            logits,
            target.clamp(min=0).to(logits.dtype),
            reduction="none",
            pos_weight=torch.full_like(logits[0], self.config.positive_weight)
            if len(logits)
            else None,
        )
        losses = self.distillation.mixed(
            losses, labelled, lambda: self._soft(logits, view, context), context
        )
        learned = self.distillation.learned(labelled, context)
        right = ((logits > 0) == (target > 0)) & labelled
        return Output(
            terms={"multilabel": LossTerm(losses.masked_fill(~learned, 0).sum())},
            statistics={"right": right.sum(), "labelled": labelled.sum()},
        )

    def _soft(self, logits: Tensor, view: View, context: Context) -> Tensor:
        """Return the losses with the teacher's probabilities as targets, [R, C]."""
        teacher = self.distillation.outputs(view, context)
        return soft_binary_cross_entropy(
            logits, teacher, self.config.temperature, self.config.positive_weight
        )

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        return {"right": float(sums["right"] / sums["labelled"].clamp(min=1))}
