"""All-Tokens MLM: the original token at every position of a corrupted view (Clark et al. 2020, section 3.4).

    L      = - mean over tokens t of log p(x_t)
    p(x_t) = c_t 1(x~_t = x_t) + (1 - c_t) softmax(U transform(h_t) + b)[x_t]
    c_t    = sigmoid(w . h_t + a)

x~   tokens of `view`     x   `view.target`     h   features of the encoder
c    the probability that the token was left as it is, so its logit is positive for original tokens
     (`copy_logit`); without the copy mechanism (`copy: false`) it is 0

The mean is over tokens that are not padding. `copy_losses` is exact where c is near 0 or 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fwk import BuildContext, Context, Criterion, LossTerm, Output, Read, View, option, register
from fwk.contracts.sizes import SequenceShape, Transformer
from fwk.nn.copying import copy_losses
from fwk.nn.masked_lm_head import HeadOptions, MaskedLMHead, replaced_tokens
from fwk_plugins.electra.default_views import GENERATED


@register("criterion", "all_tokens_mlm")
class AllTokensMLM(Criterion["AllTokensMLM.Config"]):
    """The original token at every position of a corrupted view, with or without a copy mechanism."""

    @dataclass(frozen=True, kw_only=True)
    class Config(HeadOptions):
        view: str = option("corrupted", "the view whose tokens are predicted")
        copy: bool = option(
            True, "predict for each token the probability that it was left as it is"
        )

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        self.head = MaskedLMHead.from_options(build, config.tied_output, config.output_bias)
        if config.copy:
            encoder = build.require_encoder()
            encoder.check_sees_itself(f"criterion.{build.name}")
            self.copy_head = nn.Linear(encoder.width, 1)
            nn.init.normal_(self.copy_head.weight, std=0.02)
            nn.init.zeros_(self.copy_head.bias)

    @classmethod
    def reads(cls, config: Config) -> dict[str, Read]:
        return {
            config.view: Read(GENERATED, positions=True),
            "masked": Read({"noiser": "bert_mask"}, encoded=False),  # the generator's input
        }

    @classmethod
    def flops(cls, config: Config, encoder: tuple[Transformer, ...], shape: SequenceShape) -> float:
        copy_head = 2.0 * encoder[0].width * shape.length if config.copy else 0.0
        return encoder[0].softmax(shape, share=1.0) + copy_head

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        return {"all_tokens": views[self.config.view].content.sum()}

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        view = views[self.config.view]
        features = view.encoded.features  # [B, T, D]
        counted = view.content  # [B, T]
        replaced = replaced_tokens(view)  # [B, T]
        losses, best = self.head.losses(features, view.target)  # [B, T]

        if self.config.copy:
            copy_logit = self.copy_head(features).squeeze(-1).to(losses.dtype)  # [B, T]
            losses = copy_losses(losses, copy_logit, ~replaced)
            # Where c is above one half, the input is the mixture's likeliest token. Where it is
            # below, this takes the softmax's likeliest token, which is nearly always right.
            best = torch.where(copy_logit.detach() > 0, view.tokens, best)

        right = (best == view.target) & counted
        return Output(
            terms={"all_tokens": LossTerm(losses.masked_fill(~counted, 0.0).sum())},
            statistics={
                "right": right.sum(),
                "tokens": counted.sum(),
                "restored": (right & replaced).sum(),
                "replaced": (replaced & counted).sum(),
            },
        )

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        values = {"accuracy": float(sums["right"] / sums["tokens"].clamp(min=1))}
        if sums["replaced"] > 0:
            values["restored"] = float(sums["restored"] / sums["replaced"])
        return values
