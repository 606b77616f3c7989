"""Replaced-token detection (Clark et al. 2020, section 2).

    L = - sum over counted t of [   1(x~_t != x_t) log sigmoid(z_t)
                                  + 1(x~_t = x_t) log sigmoid(-z_t) ]  /  number of counted t
    z = w . gelu(W h_t + b) + c

x~   tokens of `view`     x   `view.target`     h   features of the encoder
z    `replaced_logit`: positive where the token looks replaced

A sampled token that happens to be the original one counts as original. All tokens but padding are
counted, or the chosen positions alone ("ELECTRA 15%"). The paper's weight of 50 belongs to this
mean; with `reduction: sum` the losses of a sequence are added up, and the mean is over sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fwk import BuildContext, Context, Criterion, LossTerm, Output, Read, View, option, register
from fwk.contracts.sizes import SequenceShape, Transformer
from fwk.errors import ConfigError
from fwk.nn.masked_lm_head import count_chosen, replaced_tokens
from fwk_plugins.electra.default_views import GENERATED
from fwk_plugins.electra.heads import detection_loss, token_head
from fwk_plugins.electra.histogram import binary_metrics, histogram

Estimate = Literal["published", "exact"]


def log_p(log_odds: Tensor, log_q: Tensor, share: Tensor, estimate: Estimate) -> Tensor:
    """Return log p(x_t | the others), [B, T], from an optimal discriminator's log odds of "original".

    log_odds, log_q: [B, T]. share: k / n, the chosen share of the tokens, [B, 1].
    With o = D / (1 - D), D = P(original), and r = k / n:

        published    p = r q o                                       (Clark et al. 2020b)
        exact        p = r q o / (1 - r + r q + r q o)

    A token x is original with probability (1 - r) p + r q p, as a sample may be the true token, and
    replaced with probability r q (1 - p). Solving their ratio o for p gives the exact form, whose sum
    over the vocabulary is 1. The published form ignores that a sample may be the true token.
    """
    drawn = share.log() + log_q  # log r q
    if estimate == "published":
        return drawn + log_odds
    left = (1 - share).log().expand_as(drawn)
    return drawn + log_odds - torch.logsumexp(torch.stack([left, drawn, drawn + log_odds]), 0)


@register("criterion", "replaced_token_detection")
class ReplacedTokenDetection(Criterion["ReplacedTokenDetection.Config"]):
    """Was this token replaced? Sigmoid loss on every token of a corrupted view."""

    roles = ("replaced_token",)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        view: str = option("corrupted", "the view whose tokens are judged")
        loss_weight: float = option(50.0, "weight of the mean (ELECTRA: 50)", low=0)
        positions: Literal["all", "chosen"] = option(
            "all", "every token but padding, or the chosen positions alone (ELECTRA 15%)"
        )
        reduction: Literal["mean", "sum"] = option(
            "mean", "mean over tokens, or the sum over a sequence's tokens, averaged over sequences"
        )

    @dataclass(frozen=True, kw_only=True)
    class Scoring:
        estimate: Estimate = option(
            "published",
            "log p from the discriminator and q: k q D / (n (1 - D)) as published, or the exact "
            "one, which allows for samples that are the true token",
        )

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        encoder = build.require_encoder()
        encoder.check_sees_itself(f"criterion.{build.name}")
        self.label = build.name
        self.head = token_head(encoder.width)

    @classmethod
    def reads(cls, config: Config) -> dict[str, Read]:
        return {
            config.view: Read(GENERATED, positions=True),
            "masked": Read({"noiser": "bert_mask"}, encoded=False),  # the generator's input
        }

    @classmethod
    def flops(cls, config: Config, encoder: tuple[Transformer, ...], shape: SequenceShape) -> float:
        return encoder[0].binary(shape)

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        view = views[self.config.view]
        counted = view.content  # [B, T]
        tokens = counted.sum()
        if self.config.positions == "chosen":
            tokens = count_chosen(view)
            counted = view.valid  # [B, K]
        sequences = counted.any(1).sum()
        return {"detection": sequences if self.config.reduction == "sum" else tokens}

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        view = views[self.config.view]
        replaced_logit = self.head(view.encoded.features).squeeze(-1)  # [B, T]
        logit = replaced_logit.detach()
        wide = torch.promote_types(logit.dtype, torch.float32)
        original = torch.sigmoid(-logit.to(wide))  # [B, T], in fp32 or wider, as the run computes
        replaced, counted = replaced_tokens(view), view.content  # [B, T]
        if self.config.positions == "chosen":
            replaced_logit = view.at_positions(replaced_logit)  # [B, K]
            replaced, counted = view.at_positions(replaced), view.valid

        total = detection_loss(replaced_logit, replaced, counted)
        return Output(
            terms={"detection": LossTerm(total, weight=self.config.loss_weight)},
            statistics={"histogram": histogram(replaced_logit, replaced, counted)},
            outcomes={"original": original},
        )

    def log_probs(
        self, text: View, views: Mapping[str, View], options: Scoring, context: Context
    ) -> Tensor:
        if self.config.positions == "chosen":
            raise ConfigError(
                f"criterion.{self.label}.positions",
                "a discriminator trained on the chosen positions alone has judged no other token, and "
                "cannot score; expected all",
            )
        assert context.log_probs is not None  # always set when text is scored
        log_q = context.log_probs(self.config.view, text).double()  # [B, T]
        log_odds = -self.head(context.encode(text).features).squeeze(-1).double()  # [B, T]
        chosen = views[self.config.view].valid.sum(1, keepdim=True).double()  # [B, 1]
        share = chosen / text.ordinary.sum(1, keepdim=True).clamp(min=1)
        return log_p(log_odds, log_q, share, options.estimate)

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        return binary_metrics(sums["histogram"])
