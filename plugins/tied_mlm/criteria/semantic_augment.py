"""Semantic-Augment (Tied-X) masked language modelling.

    L = 1/2 [ CE(a) + CE(b) ] + tied_weight * MSE(f_a, f_b)                                  (Eq. 1, as drawn in Figure 2)

a, b    `views`: the same text under two independent noisers
CE(v)   mean over v's chosen positions of -log p(x_t | v)
f_v     `features`: the last hidden state after the final norm, before the head's transform (or after it)
MSE     mean over positions and width of (f_a - f_b)^2, at one of three levels:
          word      every non-padding position
          sentence  one vector per sequence: the mean of its words without [CLS] and [SEP]
          cls       the vector at [CLS]

The gradient flows into both views: nothing is stopped. tied_weight 0 is the paper's second baseline (two views, no
tie); 1, 3, 5, 7, 10 its search space.

Deviations: Eq. 1 prints sums where Figure 2 draws means; the figure governs here. The paper names neither the level
nor the weight of its table; `word` and 1 are our defaults: on a small encoder a larger weight makes the features
constant before the words are learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fwk import BuildContext, Context, Criterion, LossTerm, Output, View, option, register
from fwk.contracts.sizes import SequenceShape, Transformer
from fwk.nn.masked_lm_head import (
    MaskedLMHead,
    OutputBias,
    count_chosen,
    masked_lm_sums,
    masked_log_probs,
)


def tied_vectors(features: Tensor, view: View, level: str) -> tuple[Tensor, Tensor]:
    """The vectors that are tied and which of them count: [B, N, D] and bool [B, N]; N is T (word) or 1."""
    content = (
        torch.ones_like(view.target, dtype=torch.bool) if view.mask is None else view.mask
    )  # [B, T]
    if level == "word":
        return features, content
    if level == "cls":
        return features[:, :1], content[:, :1]
    words = content if view.special is None else content & ~view.special  # [B, T]
    weights = words.to(features.dtype)
    mean = (features * weights.unsqueeze(-1)).sum(1, keepdim=True) / weights.sum(1).clamp(min=1)[
        :, None, None
    ]
    return mean, words.any(1, keepdim=True)  # [B, 1, D], [B, 1]


def feature_distance(a: Tensor, b: Tensor, counted: Tensor) -> Tensor:
    """Sum over counted vectors of the mean over D of (a - b)^2: a, b [B, N, D], counted bool [B, N] -> 0-d."""
    wide = torch.promote_types(a.dtype, torch.float32)
    square = (a.to(wide) - b.to(wide)).square().mean(-1)  # [B, N]
    return square.masked_fill(~counted, 0.0).sum()


@register("criterion", "semantic_augment")
class SemanticAugment(Criterion):
    """Masked LM on two noised views of the same text, whose features are tied by their mean squared difference."""

    roles = ("masked_lm",)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        views: tuple[str, ...] = option(("masked", "remasked"), "the two views")
        tied_weight: float = option(
            1.0, "weight of the tie (paper: 0 for the baseline, else one of 1, 3, 5, 7, 10)", low=0
        )
        level: Literal["word", "sentence", "cls"] = option(
            "word", "what is tied: every position, the mean of the words, or the [CLS] vector"
        )
        features: Literal["hidden", "transformed"] = option(
            "hidden",
            "tie the last hidden states, or what the masked-LM head's transform makes of them",
        )
        tied_output: bool = option(True, "the output matrix is the encoder's token embedding")
        output_bias: OutputBias = option(
            "zeros",
            "start the output's bias at zeros (BERT), or at the tokens' log frequency, where the task knows it: a small "
            "encoder's features then have nothing to tell at first, and the tie makes them constant",
        )
        label_smoothing: float = option(
            0.0, "share of the target's mass spread over the vocabulary", low=0, high=1
        )

        def __post_init__(self):
            if len(self.views) != 2 or self.views[0] == self.views[1]:
                raise ValueError(f"views names {list(self.views)}; expected two different views")

    def __init__(self, config: Config, build: BuildContext):
        super().__init__(config, build)
        self.mask = build.vocabulary.mask
        self.head = MaskedLMHead.built(build, config.tied_output, config.output_bias)

    @classmethod
    def views(cls, config: Config) -> dict[str, dict[str, Any]]:
        return {name: {"noiser": "bert_mask"} for name in config.views}

    @classmethod
    def needs_positions(cls, config: Config) -> tuple[str, ...]:
        return config.views

    @classmethod
    def flops(cls, config: Config, encoder: tuple[Transformer, ...], shape: SequenceShape) -> float:
        return 2 * encoder[0].softmax(shape)

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        a, b = (views[name] for name in self.config.views)
        chosen_a, chosen_b = count_chosen(a), count_chosen(b)
        # counting needs no features: the level alone says which vectors there are
        _, counted = tied_vectors(a.target.unsqueeze(-1).double(), a, self.config.level)
        return {"masked_lm_a": chosen_a, "masked_lm_b": chosen_b, "tie": counted.sum()}

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        a, b = (views[name] for name in self.config.views)
        sum_a, right_a = masked_lm_sums(self.head, a, self.config.label_smoothing)
        sum_b, right_b = masked_lm_sums(self.head, b, self.config.label_smoothing)
        tie_a, counted = tied_vectors(self._features(a), a, self.config.level)
        tie_b, _ = tied_vectors(self._features(b), b, self.config.level)
        cosine = F.cosine_similarity(
            tie_a.detach().float(), tie_b.detach().float(), dim=-1
        )  # [B, N]
        return Output(
            terms={
                "masked_lm_a": LossTerm(sum_a, weight=0.5),
                "masked_lm_b": LossTerm(sum_b, weight=0.5),
                "tie": LossTerm(
                    feature_distance(tie_a, tie_b, counted), weight=self.config.tied_weight
                ),
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
        hidden = view.encoded.features
        return hidden if self.config.features == "hidden" else self.head.transformed(hidden)

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
