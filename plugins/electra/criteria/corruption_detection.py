"""Detection of corrupted sequences, a negative result of Clark et al. 2020 (appendix F).

L = - mean over sequences of [ 1(x~ != x) log sigmoid(z) + 1(x~ = x) log sigmoid(-z) ]          z of the vector at [CLS]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fwk import BuildContext, Context, Criterion, LossTerm, Output, View, option, register
from fwk.contracts.sizes import SequenceShape, Transformer
from fwk.nn.masked_lm_head import replaced_tokens
from fwk_plugins.electra.heads import GENERATED, detection_loss, token_head
from fwk_plugins.electra.histogram import binary_metrics, histogram


@register("criterion", "corruption_detection")
class CorruptionDetection(Criterion):
    """Was anything in this sequence replaced? Sigmoid loss on the vector at [CLS].

    The view's noiser leaves a share of the sequences unchanged (`views.corrupted.unchanged`; the paper: 20%).
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        view: str = option("corrupted", "the view whose sequences are judged")

    def __init__(self, config: Config, build: BuildContext):
        super().__init__(config, build)
        self.head = token_head(build.encoder.width)

    @classmethod
    def views(cls, config: Config) -> dict[str, dict[str, Any]]:
        return {config.view: {**GENERATED, "unchanged": 0.2}, "masked": {"noiser": "bert_mask"}}

    @classmethod
    def encoded(cls, config: Config) -> tuple[str, ...]:
        return (config.view,)

    @classmethod
    def needs_positions(cls, config: Config) -> tuple[str, ...]:
        return (config.view,)

    @classmethod
    def flops(cls, config: Config, encoder: tuple[Transformer, ...], shape: SequenceShape) -> float:
        return encoder[0].binary(shape) / shape.length  # at [CLS] alone

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        return {"corruption": views[self.config.view].content.any(1).sum()}

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        view = views[self.config.view]
        judged = (
            self.head(view.encoded.features[:, 0]),
            replaced_tokens(view).any(1, keepdim=True),
            view.content.any(1, keepdim=True),
        )
        return Output(
            terms={"corruption": LossTerm(detection_loss(*judged))},
            statistics={"histogram": histogram(*judged)},
        )

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        return binary_metrics(sums["histogram"])
