"""All-Tokens MLM: the original token at every position of a corrupted view, with a copy mechanism (Clark et al. 2020,
section 3.4).

    p(x_t) = c_t 1(x~_t = x_t) + (1 - c_t) softmax(U transform(h_t) + b)[x_t]          c_t = sigmoid(w . h_t + a)

c is the chance that the token was left as it is, so its logit is positive for original tokens (`copy_logit`). Without the
mechanism c is 0. The loss is the mean of -log p over tokens that are not padding; `copy_losses` keeps it exact where c is
near 0 or 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fwk import BuildContext, Context, Criterion, LossTerm, Output, View, option, register
from fwk.contracts.sizes import SequenceShape, Transformer
from fwk.nn.copying import copy_losses
from fwk.nn.masked_lm_head import (
    HeadOptions,
    MaskedLMHead,
    replaced_tokens,
)
from fwk_plugins.electra.heads import GENERATED


@register("criterion", "all_tokens_mlm")
class AllTokensMLM(Criterion):
    """The original token at every position of a corrupted view, with or without a copy mechanism."""

    @dataclass(frozen=True, kw_only=True)
    class Config(HeadOptions):
        view: str = option("corrupted", "the view whose tokens are predicted")
        copy: bool = option(True, "predict for each token the chance that it was left as it is")

    def __init__(self, config: Config, build: BuildContext):
        super().__init__(config, build)
        self.head = MaskedLMHead.built(build, config.tied_output, config.output_bias)
        if config.copy:
            build.encoder.check_sees_itself(f"criterion.{build.name}")
            self.copy_head = nn.Linear(build.encoder.width, 1)
            nn.init.normal_(self.copy_head.weight, std=0.02)
            nn.init.zeros_(self.copy_head.bias)

    @classmethod
    def views(cls, config: Config) -> dict[str, dict[str, Any]]:
        return {config.view: GENERATED, "masked": {"noiser": "bert_mask"}}

    @classmethod
    def encoded(cls, config: Config) -> tuple[str, ...]:
        return (config.view,)

    @classmethod
    def needs_positions(cls, config: Config) -> tuple[str, ...]:
        return (config.view,)

    @classmethod
    def flops(cls, config: Config, encoder: tuple[Transformer, ...], shape: SequenceShape) -> float:
        return (
            encoder[0].softmax(shape, share=1.0)
            + config.copy * 2.0 * encoder[0].width * shape.length
        )

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        return {"all_tokens": views[self.config.view].content.sum()}

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        view = views[self.config.view]
        features, counted, replaced = (
            view.encoded.features,
            view.content,
            replaced_tokens(view),
        )  # [B, T, D], [B, T], [B, T]
        losses, best = self.head.losses(features, view.target)  # [B, T]
        if self.config.copy:
            copy_logit = self.copy_head(features).squeeze(-1).to(losses.dtype)
            losses = copy_losses(losses, copy_logit, ~replaced)
            # what the mixture likes best is the input where half of the mass is copied, nearly always
            best = torch.where(copy_logit.detach() > 0, view.tokens, best)
        right = (best == view.target) & counted
        restored = right & replaced
        return Output(
            terms={"all_tokens": LossTerm(losses.masked_fill(~counted, 0.0).sum())},
            statistics={
                "right": right.sum(),
                "tokens": counted.sum(),
                "restored": restored.sum(),
                "replaced": (replaced & counted).sum(),
            },
        )

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        found = {"accuracy": float(sums["right"] / sums["tokens"].clamp(min=1))}
        return found | (
            {"restored": float(sums["restored"] / sums["replaced"])} if sums["replaced"] > 0 else {}
        )
