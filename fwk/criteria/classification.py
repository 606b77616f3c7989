"""Classification of sequences: softmax over the classes of a label (Devlin et al. 2019, section 4.1).

    L = sum over labelled rows i of  w_y * -log softmax(logits_i)_y     /     sum over labelled rows of w_y

y is `view.labels[label]`, -1 where a row has no label; w is `class_weights`, 1 where it names no weight, or n / (C n_c)
for the class c of n_c among the n labelled training examples (balanced, as in scikit-learn). In training a
share `label_smoothing` of the target's mass is spread evenly over the C classes (Szegedy et al. 2016). The head is
described in `fwk/nn/pooling.py`; `logits` is the module (view -> logits [R, C]) that other criteria may call. With a
teacher the target is mixed (`fwk/nn/mixed_targets.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fwk.components.registry import register
from fwk.contracts.context import BuildContext, Context
from fwk.contracts.heads import HeadOutputs
from fwk.contracts.options import option
from fwk.contracts.views import LossTerm, Output, View
from fwk.errors import ConfigError, did_you_mean
from fwk.nn.mixed_targets import soft_cross_entropy
from fwk.nn.pooling import SequenceHead, SequenceOptions, label_values
from fwk.nn.sequence_criterion import SequenceCriterion


@register("criterion", "classification")
class Classification(SequenceCriterion["Classification.Config"]):
    """Cross-entropy of the class of each sequence: single texts, and pairs that are read as one sequence."""

    roles = ("sequence_classification",)
    head_path = "logits"

    @dataclass(frozen=True, kw_only=True)
    class Config(SequenceOptions):
        label_smoothing: float = option(
            0.0,
            "share of the target's mass spread over the classes, in training only",
            low=0,
            high=1,
        )
        class_weights: dict[str, float] | Literal["balanced"] = option(
            {},
            "factor of the loss by class, where it is not 1; balanced: all training examples / (classes x those of the "
            "class)",
            low=0,
        )

    weights: Tensor

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        self.classes = label_values(build, config.label, ("class",))
        if len(self.classes) < 2:
            raise ConfigError(
                f"{build.key}.label",
                f"the label '{config.label}' has {len(self.classes)} class; expected at least 2",
            )
        weights = _weights(config.class_weights, self.classes, config.label, build)
        self.register_buffer("weights", torch.tensor(weights), persistent=False)
        self.logits = SequenceHead(config, build, len(self.classes))

    def head_outputs(self) -> HeadOutputs:
        return HeadOutputs(names=self.classes, form=self.logits.form)

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        target = views[self.config.view].labels[self.config.label]  # int64 [R]
        learned = self.distillation.learned(target >= 0, context)
        weights = self._row_weights(self.weights.double(), target)
        return {"classification": weights.masked_fill(~learned, 0).sum()}

    def _row_weights(self, weights: Tensor, target: Tensor) -> Tensor:
        """Return the weight of each row, [R]: that of its class, 1 without one."""
        return weights[target.clamp(min=0)].masked_fill(target < 0, 1)

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        view = views[self.config.view]
        target, logits = view.labels[self.config.label], self.logits(view)  # [R], [R, C]
        labelled = target >= 0
        smoothing = self.config.label_smoothing if self.training else 0.0
        # class weights apply to whole rows: torch's own would weigh the smoothed part class by class
        losses = F.cross_entropy(
            logits, target.clamp(min=0), reduction="none", label_smoothing=smoothing
        )
        losses = self.distillation.mixed(
            losses, labelled, lambda: self._soft(logits, view, context), context
        )
        losses = losses * self._row_weights(self.weights.to(losses.dtype), target)
        learned = self.distillation.learned(labelled, context)
        right = (logits.argmax(-1) == target) & labelled
        return Output(
            terms={"classification": LossTerm(losses.masked_fill(~learned, 0).sum())},
            statistics={"right": right.sum(), "labelled": labelled.sum()},
        )

    def _soft(self, logits: Tensor, view: View, context: Context) -> Tensor:
        """Return the losses with the teacher's distributions as targets, [R]."""
        teacher = self.distillation.outputs(view, context)
        return soft_cross_entropy(logits, teacher, self.config.temperature)

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        return {"accuracy": float(sums["right"] / sums["labelled"].clamp(min=1))}


def _weights(
    stated: Mapping[str, float] | Literal["balanced"],
    classes: Sequence[str],
    label: str,
    build: BuildContext,
) -> list[float]:
    """Return the weight of each class. Raises ConfigError for an unknown class, and one without training examples."""
    key = f"{build.key}.class_weights"
    if stated != "balanced":
        for name in stated:
            if name not in classes:
                raise ConfigError(key, f"there is no class '{name}'{did_you_mean(name, classes)}")
        return [stated.get(name, 1.0) for name in classes]
    counts = build.label_counts.get(label)
    if counts is None:
        raise ConfigError(
            key,
            f"nothing says how many training examples each class of '{label}' has; expected a mapping of classes to "
            "weights",
        )
    for name, count in zip(classes, counts):
        if not count:
            raise ConfigError(
                key,
                f"no training example has the class '{name}', so it has no balanced weight; expected a mapping of "
                "classes to weights",
            )
    return [sum(counts) / (len(counts) * count) for count in counts]
