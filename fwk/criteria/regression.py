"""Regression: a number, or several, for each sequence.

    L = sum over labelled rows i and numbers n of  (out_in - (y_in - low) / (high - low))^2   /   labelled numbers
    out = z (linear)   or   s(z) (sigmoid: between low and high)         prediction: low + (high - low) out

z are the outputs of the head (`fwk/nn/pooling.py`), s the logistic function and y `view.labels[label]` [R] or [R, n],
NaN where it is absent. With low = 0 and high = 1 the loss is the mean squared error of the numbers themselves. With a
teacher y is mixed with the teacher's number (`fwk/nn/mixed_targets.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fwk.components.registry import register
from fwk.contracts.context import BuildContext, Context
from fwk.contracts.heads import HeadOutputs
from fwk.contracts.options import option
from fwk.contracts.views import LossTerm, Output, View
from fwk.errors import ConfigError
from fwk.nn.mixed_targets import require_no_temperature
from fwk.nn.pooling import SequenceHead, SequenceOptions, label_values
from fwk.nn.sequence_criterion import SequenceCriterion


@register("criterion", "regression")
class Regression(SequenceCriterion["Regression.Config"]):
    """Squared error of numbers, such as the similarity of two sentences."""

    roles = ("sequence_regression",)
    head_path = "outputs"

    @dataclass(frozen=True, kw_only=True)
    class Config(SequenceOptions):
        activation: Literal["linear", "sigmoid"] = option(
            "linear", "of the output; sigmoid keeps predictions between low and high"
        )
        low: float = option(0.0, "the number that becomes 0 in the loss")
        high: float = option(1.0, "the number that becomes 1 in the loss (STS-B scaled: 5)")

        def __post_init__(self) -> None:
            super().__post_init__()
            require_no_temperature(self, "a number")
            if not self.low < self.high:
                raise ConfigError("high", f"is {self.high:g}, expected more than low={self.low:g}")

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        names = label_values(build, config.label, ("number", "numbers"))
        self.several = build.label_kinds.get(config.label) == "numbers"
        self.names = names if self.several else (config.label,)
        self.outputs = SequenceHead(config, build, len(self.names))

    def head_outputs(self) -> HeadOutputs:
        low, high = self.config.low, self.config.high
        logistic = self.config.activation == "sigmoid"
        return HeadOutputs(
            names=self.names,
            scale=high - low,
            shift=low,
            logistic=logistic,
            form=self.outputs.form,
        )

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        target = views[self.config.view].labels[self.config.label]
        return {"regression": self.distillation.learned(~target.isnan(), context).sum()}

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        view = views[self.config.view]
        target, out = view.labels[self.config.label], self._out(view)  # [R] or [R, n]
        labelled = ~target.isnan()
        scaled = self._scaled(target.nan_to_num().to(out.dtype))
        mixed = self.distillation.mixed_number(
            scaled,
            labelled,
            lambda: self._scaled(self.distillation.outputs(view, context)),
            context,
        )
        learned = self.distillation.learned(labelled, context)
        losses = (out - mixed).square().masked_fill(~learned, 0)
        return Output(terms={"regression": LossTerm(losses.sum())})

    def _scaled(self, number: Tensor) -> Tensor:
        """Return a number in the unit of the loss."""
        low, high = self.config.low, self.config.high
        return (number - low) / (high - low)

    def _out(self, view: View) -> Tensor:
        """Return the scaled outputs, [R] for one number, else [R, n]."""
        out = self.outputs(view)
        out = out if self.several else out[:, 0]
        return out.sigmoid() if self.config.activation == "sigmoid" else out

    def predict(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        """Return the numbers in their own unit, [R] or [R, n]."""
        low, high = self.config.low, self.config.high
        return {self.config.label: low + (high - low) * self._out(views[self.config.view])}
