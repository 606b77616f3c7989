"""Corrective language modelling (COCO-LM, Meng et al. 2021, section 3.2).

    L      = copy_weight * L_copy + lm_weight * L_LM
    L_copy = - mean over tokens t of [ 1(x~_t = x_t) log c_t + 1(x~_t != x_t) log (1 - c_t) ]     c_t = sigmoid(w . h_t)
    L_LM   = - mean over masked t of log [ 1(x~_t = x_t) sg(c_t) + sg(1 - c_t) softmax(U transform(h_t) + b)[x_t] ]

x~   tokens of `view`: an auxiliary network's samples stand where x was masked     x   `view.target`
c    p_copy(1 | h), the chance that a token is the original one; its logit is the `copy_logit`
h    features of the main encoder at all tokens but padding ("tokens"), at the positions the view chose ("masked")
sg   stops the gradient: the copy mechanism learns from L_copy alone

Rows of the paper's ablation: `copy: false` (p_LM is the softmax), `stop_gradient: false`, `positions: all` with `copy_weight: 0`
and `stop_gradient: false` (language modelling over all tokens), `lm_weight: 0` (replaced-token detection alone).

Readings and deviations: each term is a mean over its own positions. The equations as printed are sums over a sequence, which
`reduction: sum` computes, averaged over sequences; the ratio of the two terms is then another (6.7 times at 15% masked). The
paper's main text gives no weight for L_copy; 50 is ELECTRA's. The printed softmax reads h directly; here BERT's
transform stands before it, as in every masked LM of this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwk import BuildContext, Context, Criterion, LossTerm, Output, View, option, register
from fwk.contracts.sizes import SequenceShape, Transformer
from fwk.nn.copying import copies, copy_losses
from fwk.nn.masked_lm_head import (
    HeadOptions,
    MaskedLMHead,
    count_chosen,
    replaced_tokens,
)
from fwk.nn.softmax import Softmax

# what stands in the place of masked tokens unless the config says otherwise: samples of a shallow network of full width, which
# runs once, without dropout
AUXILIARY: dict[str, Any] = {
    "noiser": "masked_lm",
    "of": "masked",
    "sampling": "without_dropout",
    "network": {"name": "scaled", "width": 1.0, "layers": 1 / 3},
}


def copy_sum(copy_logit: Tensor, original: Tensor, counted: Tensor) -> Tensor:
    """Sum of the sigmoid losses where counted, 0-d: copy_logit in fp32 or wider, bool original and counted, all [B, T]."""
    losses = F.binary_cross_entropy_with_logits(
        copy_logit, original.to(copy_logit.dtype), reduction="none"
    )
    return losses.masked_fill(~counted, 0.0).sum()


@register("criterion", "corrective_lm")
class CorrectiveLM(Criterion):
    """Which tokens an auxiliary network replaced, and what stood there before."""

    @dataclass(frozen=True, kw_only=True)
    class Config(HeadOptions):
        view: str = option("corrupted", "the view whose tokens are corrected")
        copy_weight: float = option(
            50.0, "weight of the copy loss (the paper's main text gives none; ELECTRA: 50)", low=0
        )
        lm_weight: float = option(
            1.0, "weight of the language-modelling loss; at 0 it is left out, with its head", low=0
        )
        copy: bool = option(True, "the language model may copy its input")
        stop_gradient: bool = option(
            True, "the language-modelling loss leaves the copy mechanism alone"
        )
        positions: Literal["chosen", "all"] = option(
            "chosen", "where the language model predicts: masked positions, or all tokens"
        )
        reduction: Literal["mean", "sum"] = option(
            "mean", "over positions, or a sum over each sequence's (the printed equations)"
        )

        def __post_init__(self):
            if not self.copy_weight and not self.lm_weight:
                raise ValueError(
                    "copy_weight and lm_weight are both 0, so there is nothing to learn"
                )
            if not self.copy_weight and self.copy and self.stop_gradient:
                raise ValueError(
                    "copy_weight 0 with stop_gradient leaves nothing to train the copy mechanism; set stop_gradient or "
                    "copy to false"
                )

    def __init__(self, config: Config, build: BuildContext):
        super().__init__(config, build)
        self.copying = config.copy_weight > 0 or config.copy
        if self.copying:
            build.encoder.check_sees_itself(f"criterion.{build.name}")
            self.copy_head = nn.Linear(build.encoder.width, 1, bias=False)
            nn.init.normal_(self.copy_head.weight, std=0.02)
        if config.lm_weight:
            self.head = MaskedLMHead.built(build, config.tied_output, config.output_bias)

    @classmethod
    def views(cls, config: Config) -> dict[str, dict[str, Any]]:
        return {config.view: AUXILIARY, "masked": {"noiser": "bert_mask"}}

    @classmethod
    def encoded(cls, config: Config) -> tuple[str, ...]:
        return (config.view,)  # the masked view is the auxiliary network's to read

    @classmethod
    def needs_positions(cls, config: Config) -> tuple[str, ...]:
        return (config.view,)

    @classmethod
    def flops(cls, config: Config, encoder: tuple[Transformer, ...], shape: SequenceShape) -> float:
        share = 1.0 if config.positions == "all" else None
        copy_head = (
            2.0 * encoder[0].width * shape.length if config.copy_weight or config.copy else 0.0
        )
        return copy_head + (encoder[0].softmax(shape, share) if config.lm_weight else 0.0)

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        view = views[self.config.view]
        tokens = view.content
        counts = {"copy": tokens.sum()} if self.config.copy_weight else {}
        if self.config.lm_weight:
            counts["lm"] = tokens.sum() if self.config.positions == "all" else count_chosen(view)
        return (
            counts
            if self.config.reduction == "mean"
            else dict.fromkeys(counts, tokens.any(1).sum())
        )

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        view, terms, statistics = views[self.config.view], {}, {}
        features, counted, original = (
            view.encoded.features,
            view.content,
            ~replaced_tokens(view),
        )  # [B, T, D], [B, T], [B, T]
        copy_logit = None
        if self.copying:
            copy_logit = self.copy_head(features).squeeze(-1)  # [B, T]
            copy_logit = copy_logit.to(torch.promote_types(copy_logit.dtype, torch.float32))
            statistics |= split("copy", (copy_logit > 0) == original, original, counted)
        if self.config.copy_weight:
            terms["copy"] = LossTerm(
                copy_sum(copy_logit, original, counted), weight=self.config.copy_weight
            )
        if self.config.lm_weight:
            losses, right, of_original, predicted = self._language_model(view, copy_logit)
            terms["lm"] = LossTerm(
                losses.masked_fill(~predicted, 0.0).sum(), weight=self.config.lm_weight
            )
            statistics |= split("lm", right, of_original, predicted)
        return Output(terms=terms, statistics=statistics)

    def _language_model(
        self, view: View, copy_logit: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Losses, whether the likeliest token is the true one, whether the input is, and where that counts; [B, K] at the chosen
        positions, or [B, T]."""
        chosen = self.config.positions == "chosen"
        at = view.at_positions if chosen else (lambda tensor: tensor)
        target, given = at(view.target), at(view.tokens)
        hidden = self.head.transformed(at(view.encoded.features)).flatten(0, 1)  # [N, E]
        # at all tokens the logits are made twice instead of kept: [B, T, V] would be more than all else
        softmax = Softmax(hidden, self.head.output.weight, self.head.output.bias, keep=chosen)
        losses, best = (
            softmax.losses(target.flatten()).view_as(target),
            softmax.best.view_as(target),
        )
        if self.config.copy:
            logit = at(copy_logit)
            losses = copy_losses(
                losses, logit.detach() if self.config.stop_gradient else logit, given == target
            )
            log_input, log_best = (
                softmax.log_probs(ids.flatten()).view_as(target) for ids in (given, best)
            )
            best = torch.where(copies(logit.detach(), log_input, log_best), given, best)
        return losses, best == target, given == target, view.valid if chosen else view.content

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Accuracies on replaced and on original tokens; what would divide by nothing is left out."""
        found = {}
        for part in ("copy", "lm"):
            for which in ("replaced", "original"):
                tokens = sums.get(f"{part}_{which}", torch.tensor(0))
                if tokens > 0:
                    found[f"{part}_accuracy_{which}"] = float(
                        sums[f"{part}_right_{which}"] / tokens
                    )
        return found


def split(part: str, right: Tensor, original: Tensor, counted: Tensor) -> dict[str, Tensor]:
    """How many of the counted are right, and how many there are, apart for originals and replaced ones; bool of one shape."""
    found = {}
    for which, those in (("original", original & counted), ("replaced", ~original & counted)):
        found |= {f"{part}_{which}": those.sum(), f"{part}_right_{which}": (right & those).sum()}
    return found
