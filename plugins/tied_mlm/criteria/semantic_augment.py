"""Semantic-Augment (Tied-X) masked language modelling.

    L = 1/2 [ CE(a) + CE(b) ] + tied_weight * MSE(f_a, f_b)             (Eq. 1, as drawn in Figure 2)

a, b    `views`: the same text under two independent noisers
CE(v)   mean over v's chosen positions of -log p(x_t | v)
f_v     `features`: the last hidden state after the final norm, before the head's transform (or
        after it)
MSE     mean over positions and width of (f_a - f_b)^2, at one of three levels:
          word      every non-padding position; where a noiser moved positions, every
                    token that stands in both views, by its original position
          sentence  one vector per sequence: the mean of its words without [CLS] and [SEP]
          cls       the vector at [CLS]

The gradient flows into both views; nothing is stopped. A tied_weight of 0 is the paper's second
baseline (two views, no tie); the paper's search space is 1, 3, 5, 7, 10.

Deviations: Eq. 1 prints sums where Figure 2 draws means; this implementation follows the figure.
The paper names neither the level nor the weight of its table. Our defaults are `word` and 1: on a
small encoder, a larger weight makes the features constant before the words are learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fwk import BuildContext, Context, Criterion, LossTerm, Output, Read, View, option, register
from fwk.contracts.alignment import at_partners, require_same_rows, shared_positions
from fwk.contracts.sizes import SequenceShape, Transformer
from fwk.nn.masked_lm_head import (
    HeadOptions,
    MaskedLMHead,
    OutputBias,
    count_chosen,
    masked_lm_sums,
    masked_log_probs,
)

Level = Literal["word", "sentence", "cls"]


def pair_vectors(a: View, b: View, level: Level) -> tuple[Tensor | None, Tensor]:
    """Return the vector of `b` that belongs to each tied vector of `a`, int64 [B, N], and which count, bool [B, N].

    N is T (word) or 1. The former is None where the vectors of both views stand side by side.
    """
    if level == "word":
        return shared_positions(a, b)
    if level == "cls":
        return None, a.content[:, :1] & b.content[:, :1]
    return None, a.ordinary.any(1, keepdim=True) & b.ordinary.any(1, keepdim=True)


def tied_vectors(features: Tensor, view: View, level: Level) -> Tensor:
    """Return the vectors that are tied, [B, N, D]; N is T (word) or 1. features: [B, T, D]."""
    if level == "word":
        return features
    if level == "cls":
        return features[:, :1]
    weights = view.ordinary.to(features.dtype)  # [B, T]
    total = (features * weights.unsqueeze(-1)).sum(1, keepdim=True)  # [B, 1, D]
    return total / weights.sum(1).clamp(min=1)[:, None, None]


def feature_distance(a: Tensor, b: Tensor, counted: Tensor) -> Tensor:
    """Return the sum over counted vectors of the mean over D of (a - b)^2, 0-d.

    a, b: [B, N, D]. counted: bool [B, N].
    """
    wide = torch.promote_types(a.dtype, torch.float32)
    square = (a.to(wide) - b.to(wide)).square().mean(-1)  # [B, N]
    return square.masked_fill(~counted, 0.0).sum()


@register("criterion", "semantic_augment")
class SemanticAugment(Criterion["SemanticAugment.Config"]):
    """Masked LM on two noised views of the same text, whose features are tied by their mean squared difference."""

    roles = ("masked_lm",)

    @dataclass(frozen=True, kw_only=True)
    class Config(HeadOptions):
        views: tuple[str, ...] = option(("masked", "remasked"), "the two views")
        tied_weight: float = option(
            1.0, "weight of the tie (paper: 0 for the baseline, else one of 1, 3, 5, 7, 10)", low=0
        )
        level: Level = option(
            "word",
            "what is tied: every position that both views have, the mean of the words, or the [CLS] "
            "vector",
        )
        features: Literal["hidden", "transformed"] = option(
            "hidden",
            "tie the last hidden states, or the output of the masked-LM head's transform",
        )
        output_bias: OutputBias = option(
            "zeros",
            "start the output's bias at zeros (BERT), or at the tokens' log frequency, where the "
            "task knows it; with the latter, a small encoder's features carry no information at "
            "first, and the tie makes them constant",
        )
        label_smoothing: float = option(
            0.0,
            "share of the target's mass spread over the vocabulary, in training only",
            low=0,
            high=1,
        )

        def __post_init__(self) -> None:
            if len(self.views) != 2 or self.views[0] == self.views[1]:
                raise ValueError(f"views names {list(self.views)}; expected two different views")

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        self.key = build.key
        if config.level == "cls":
            build.require_encoder().check_first_position(f"level=cls of criterion '{build.name}'")
        self.mask = build.require_vocabulary().mask
        self.head = MaskedLMHead.from_options(build, config.tied_output, config.output_bias)

    @classmethod
    def reads(cls, config: Config) -> dict[str, Read]:
        masked = Read({"noiser": "bert_mask"}, positions=True)
        return dict.fromkeys(config.views, masked)

    @classmethod
    def flops(cls, config: Config, encoder: tuple[Transformer, ...], shape: SequenceShape) -> float:
        return 2 * encoder[0].softmax(shape)

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        a, b = (views[name] for name in self.config.views)
        require_same_rows(a, b, f"{self.key}.views")
        return {
            "masked_lm_a": count_chosen(a),
            "masked_lm_b": count_chosen(b),
            "tie": pair_vectors(a, b, self.config.level)[1].sum(),
        }

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        a, b = (views[name] for name in self.config.views)
        smoothing = self.config.label_smoothing if self.training else 0.0
        sum_a, right_a = masked_lm_sums(self.head, a, smoothing)
        sum_b, right_b = masked_lm_sums(self.head, b, smoothing)

        partner, counted = pair_vectors(a, b, self.config.level)  # [B, N] each
        tied_a = tied_vectors(self._features(a), a, self.config.level)  # [B, N, D]
        tied_b = at_partners(tied_vectors(self._features(b), b, self.config.level), partner)
        distance = feature_distance(tied_a, tied_b, counted)
        cosine = F.cosine_similarity(tied_a.detach().float(), tied_b.detach().float(), dim=-1)

        return Output(
            terms={
                "masked_lm_a": LossTerm(sum_a, weight=0.5),
                "masked_lm_b": LossTerm(sum_b, weight=0.5),
                "tie": LossTerm(distance, weight=self.config.tied_weight),
            },
            statistics={
                "nll": (sum_a + sum_b).detach(),
                "right": right_a + right_b,
                "positions": a.valid.sum() + b.valid.sum(),
                "cosine": cosine.masked_fill(~counted, 0.0).sum(),
                "vectors": counted.sum(),
            },
        )

    def _features(self, view: View) -> Tensor:
        hidden = view.encoded.features  # [B, T, D]
        return hidden if self.config.features == "hidden" else self.head.apply_transform(hidden)

    def log_probs(
        self, text: View, views: Mapping[str, View], options: Any, context: Context
    ) -> Tensor:
        return masked_log_probs(self.head, text, self.mask, context)

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        positions = sums["positions"].clamp(min=1)
        return {
            "masked_lm": float(sums["nll"] / positions),
            "accuracy": float(sums["right"] / positions),
            "cosine": float(sums["cosine"] / sums["vectors"].clamp(min=1)),
        }
