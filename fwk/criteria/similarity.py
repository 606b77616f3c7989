"""The cosine of two texts' vectors as their similarity (Reimers and Gurevych 2019, "Sentence-BERT", section 3).

    c = cos(pool(h of the first view), pool(h of the second view))
    L = sum over labelled rows of (c - (y - low) / (high - low))^2   /   labelled rows

There are no weights, so a model can be judged without any training: c is the prediction, and the task's correlations
with the labels y measure it (`--task sts`). pool is the mean of all positions, [CLS] or another pooling, of the
features or of an inner layer. With a teacher y is mixed with the teacher's number (`fwk/nn/mixed_targets.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from fwk.components.registry import register
from fwk.contracts.context import BuildContext, Context
from fwk.contracts.criterion import Criterion, Read
from fwk.contracts.options import option
from fwk.contracts.views import Encoded, LossTerm, Output, View
from fwk.errors import ConfigError
from fwk.nn.mixed_targets import Distillation, TeacherOptions, require_no_temperature
from fwk.nn.pooling import Pooling, label_values, pooled, reads_first, states_of, wide


@register("criterion", "similarity")
class Similarity(Criterion["Similarity.Config"]):
    """Squared error of the cosine of two texts, which are encoded by themselves (bi-encoder)."""

    @dataclass(frozen=True, kw_only=True)
    class Config(TeacherOptions):
        views: tuple[str, ...] = option(("first", "second"), "the two views that are compared")
        fields: tuple[str, ...] = option(
            ("sentence1", "sentence2"), "the text that each of them renders"
        )
        label: str = option("label", "the label that is learned, a number")
        pooling: Pooling = option("mean", "the vector of a sequence (see classification)")
        layer: int | None = option(
            None, "pool this layer instead of the last one; 0: the embedding", low=0, high=10_000
        )
        low: float = option(0.0, "the number that means a cosine of 0")
        high: float = option(5.0, "the number that means a cosine of 1 (STS: 5)")

        def __post_init__(self) -> None:
            super().__post_init__()
            require_no_temperature(self, "a number")
            for name in ("views", "fields"):
                if len(getattr(self, name)) != 2:
                    raise ConfigError(name, f"expected two, got {len(getattr(self, name))}")
            if not self.low < self.high:
                raise ConfigError("high", f"is {self.high:g}, expected more than low={self.low:g}")

        @property
        def states(self) -> tuple[str, ...]:
            """The encoder states that are read: an inner layer, or what the pooling reads; none: the features."""
            if self.layer is not None:
                return (f"layer_{self.layer}" if self.layer else "embedding",)
            return states_of(self.pooling)

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        label_values(build, config.label, ("number",))
        if config.pooling == "cls":
            build.require_encoder().check_first_position(f"criterion '{build.name}'")
        self.distillation = Distillation(config, build, config.label)
        self.taught, self.teachers = self.distillation.taught, self.distillation.teachers

    @classmethod
    def reads(cls, config: Config) -> dict[str, Read]:
        first = config.layer is None and reads_first(config.pooling)
        return {
            view: Read({"noiser": "identity", "fields": [text]}, first_only=first)
            for view, text in zip(config.views, config.fields)
        }

    @classmethod
    def needs_labels(cls, config: Config) -> tuple[str, ...]:
        return (config.label,)

    def pooling_of_vectors(self) -> str:
        layer, pooling = self.config.layer, self.config.pooling
        return pooling if layer is None else f"{pooling} of layer {layer}"

    def states(self) -> tuple[str, ...]:
        return self.config.states

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        label = views[self.config.views[0]].labels[self.config.label]
        return {"similarity": self.distillation.learned(~label.isnan(), context).sum()}

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        view, cosine = views[self.config.views[0]], self._cosine(views)  # [R]
        label = view.labels[self.config.label]
        labelled = ~label.isnan()
        target = self.distillation.mixed_number(
            self._scaled(label.nan_to_num().to(cosine.dtype)),
            labelled,
            lambda: self._scaled(self.distillation.outputs(view, context)),
            context,
        )
        learned = self.distillation.learned(labelled, context)
        losses = (cosine - target).square().masked_fill(~learned, 0)
        return Output(terms={"similarity": LossTerm(losses.sum())})

    def _scaled(self, number: Tensor) -> Tensor:
        """Return a number in the unit of cosines."""
        return (number - self.config.low) / (self.config.high - self.config.low)

    def _cosine(self, views: Mapping[str, View]) -> Tensor:
        first, second = (self._vectors(views[name]) for name in self.config.views)
        return F.cosine_similarity(wide(first), wide(second))

    def _vectors(self, view: View) -> Tensor:
        if self.config.layer is not None:
            (layer,) = self.config.states
            view = view.replace(encoded=Encoded(features=view.encoded.states[layer]))
        return pooled(view, self.config.pooling)

    def predict(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        """Return the cosines in the unit of the label, [R]."""
        low, high = self.config.low, self.config.high
        return {self.config.label: low + (high - low) * self._cosine(views)}
