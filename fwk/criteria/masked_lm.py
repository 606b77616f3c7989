"""Masked language modelling (Devlin et al. 2019, section 3.1).

    L = - sum over chosen positions t of log p(x_t | corrupted x)  /  number of chosen positions
    p = softmax(U transform(h_t) + b)        transform: dense, GELU, layer norm; U tied to the token embedding or not

h is `view.encoded.features`, x `view.target`; the chosen positions are `view.positions` where `view.valid`.
Logits are computed at the chosen positions only. In training, label smoothing spreads a share `label_smoothing` of the
target's mass evenly over the vocabulary (Szegedy et al. 2016); evaluation reports the negative log-likelihood.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fwk.components.registry import register
from fwk.contracts.context import BuildContext, Context
from fwk.contracts.criterion import Criterion, Read
from fwk.contracts.options import option
from fwk.contracts.sizes import SequenceShape, Transformer
from fwk.contracts.views import LossTerm, Output, View
from fwk.nn.masked_lm_head import (
    HeadOptions,
    MaskedLMHead,
    count_chosen,
    masked_lm_sums,
    masked_log_probs,
)


@register("criterion", "masked_lm")
class MaskedLM(Criterion["MaskedLM.Config"]):
    """Cross-entropy of the original tokens at the chosen positions of one masked view (BERT)."""

    roles = ("masked_lm",)

    @dataclass(frozen=True, kw_only=True)
    class Config(HeadOptions):
        view: str = option("masked", "the view whose chosen positions are predicted")
        label_smoothing: float = option(
            0.0,
            "share of the target's mass spread over the vocabulary, in training only",
            low=0,
            high=1,
        )

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        self.mask = build.require_vocabulary().mask
        self.head = MaskedLMHead.from_options(build, config.tied_output, config.output_bias)

    @classmethod
    def reads(cls, config: Config) -> dict[str, Read]:
        return {config.view: Read({"noiser": "bert_mask"}, positions=True)}

    @classmethod
    def flops(cls, config: Config, encoder: tuple[Transformer, ...], shape: SequenceShape) -> float:
        return encoder[0].softmax(shape)

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        return {"masked_lm": count_chosen(views[self.config.view])}

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        view = views[self.config.view]
        smoothing = self.config.label_smoothing if self.training else 0.0
        total, right = masked_lm_sums(self.head, view, smoothing)
        return Output(
            terms={"masked_lm": LossTerm(total)},
            statistics={"right": right, "positions": view.valid.sum()},
        )

    def log_probs(
        self, text: View, views: Mapping[str, View], options: Criterion.Scoring, context: Context
    ) -> Tensor:
        return masked_log_probs(self.head, text, self.mask, context)

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        return {"accuracy": float(sums["right"] / sums["positions"].clamp(min=1))}
