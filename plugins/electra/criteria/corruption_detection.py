"""Detection of corrupted sequences, a negative result of Clark et al. 2020 (appendix F).

    L = - mean over sequences of [ 1(x~ != x) log sigmoid(z) + 1(x~ = x) log sigmoid(-z) ]
    z = w . gelu(W h_1 + b) + c

x~ are the tokens of `view`, x is `view.target`, and h_1 is the feature vector at [CLS].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fwk import BuildContext, Context, Criterion, LossTerm, Output, Read, View, option, register
from fwk.contracts.sizes import SequenceShape, Transformer
from fwk.nn.masked_lm_head import replaced_tokens
from fwk_plugins.electra.default_views import GENERATED
from fwk_plugins.electra.heads import detection_loss, token_head
from fwk_plugins.electra.histogram import binary_metrics, histogram


@register("criterion", "corruption_detection")
class CorruptionDetection(Criterion["CorruptionDetection.Config"]):
    """Was anything in this sequence replaced? Sigmoid loss on the vector at [CLS].

    The view's noiser leaves a share of the sequences unchanged (`views.corrupted.unchanged`; the
    paper: 20%).
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        view: str = option("corrupted", "the view whose sequences are judged")

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        encoder = build.require_encoder()
        encoder.check_first_position(f"criterion '{build.name}'")
        self.head = token_head(encoder.width)

    @classmethod
    def reads(cls, config: Config) -> dict[str, Read]:
        return {
            config.view: Read({**GENERATED, "unchanged": 0.2}, positions=True),
            "masked": Read({"noiser": "bert_mask"}, encoded=False),  # the generator's input
        }

    @classmethod
    def flops(cls, config: Config, encoder: tuple[Transformer, ...], shape: SequenceShape) -> float:
        return encoder[0].binary(shape) / shape.length  # at [CLS] alone

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        return {"corruption": views[self.config.view].content.any(1).sum()}

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        view = views[self.config.view]
        logit = self.head(view.encoded.features[:, 0])  # [B, 1]
        corrupted = replaced_tokens(view).any(1, keepdim=True)  # [B, 1]
        counted = view.content.any(1, keepdim=True)  # [B, 1]
        return Output(
            terms={"corruption": LossTerm(detection_loss(logit, corrupted, counted))},
            statistics={"histogram": histogram(logit, corrupted, counted)},
        )

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        return binary_metrics(sums["histogram"])
