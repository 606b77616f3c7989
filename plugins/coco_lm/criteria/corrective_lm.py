"""Corrective language modelling (COCO-LM, Meng et al. 2021, section 3.2).

    L      = copy_weight * L_copy + lm_weight * L_LM
    L_copy = - mean over tokens t of [ 1(x~_t = x_t) log c_t + 1(x~_t != x_t) log (1 - c_t) ]
    L_LM   = - mean over masked t of log [   1(x~_t = x_t) sg(c_t)
                                           + sg(1 - c_t) softmax(U transform(h_t) + b)[x_t] ]
    c_t    = sigmoid(w . h_t)

x~   tokens of `view`: an auxiliary network's samples replace the masked tokens of x
x    `view.target`
c    p_copy(1 | h), the probability that a token is the original one; its logit is `copy_logit`
h    features of the main encoder: at all tokens but padding ("tokens"), or at the positions that
     the view chose ("masked")
sg   stops the gradient: the copy mechanism learns from L_copy alone

Rows of the paper's ablation: `copy: false` (p_LM is the softmax), `stop_gradient: false`,
`positions: all` with `copy_weight: 0` and `stop_gradient: false` (language modelling over all
tokens), `lm_weight: 0` (replaced-token detection alone).

Readings and deviations: each term is a mean over its own positions. The equations as printed are
sums over a sequence. `reduction: sum` computes these, averaged over sequences, which changes the
ratio of the two terms (by a factor of 6.7 at 15% masked). The paper's main text gives no weight for
L_copy; 50 is ELECTRA's. The printed softmax reads h directly; this implementation applies BERT's
transform first, as every masked LM of this package does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwk import BuildContext, Context, Criterion, LossTerm, Output, Read, View, option, register
from fwk.contracts.sizes import SequenceShape, Transformer
from fwk.nn.copying import copies, copy_losses
from fwk.nn.masked_lm_head import HeadOptions, MaskedLMHead, count_chosen, replaced_tokens
from fwk.nn.softmax import Softmax
from fwk_plugins.coco_lm.default_views import AUXILIARY


def copy_sum(copy_logit: Tensor, original: Tensor, counted: Tensor) -> Tensor:
    """Return the sum of the sigmoid losses where counted, 0-d.

    copy_logit: [B, T], in fp32 or wider. original, counted: bool [B, T].
    """
    losses = F.binary_cross_entropy_with_logits(
        copy_logit, original.to(copy_logit.dtype), reduction="none"
    )
    return losses.masked_fill(~counted, 0.0).sum()


def count_right(term: str, right: Tensor, original: Tensor, counted: Tensor) -> dict[str, Tensor]:
    """Count the decisions and the right ones among them, separately by what the input token is.

    right, original, counted: bool, all of one shape. Only decisions where `counted` are counted.
    """
    counts = {}
    for which, inputs in (("original", original & counted), ("replaced", ~original & counted)):
        counts[f"{term}_{which}"] = inputs.sum()
        counts[f"{term}_right_{which}"] = (right & inputs).sum()
    return counts


class Predictions(NamedTuple):
    """Results of the language model, [B, K] at the chosen positions or [B, T] at all."""

    losses: Tensor  # -log p_LM of the original token, in nats
    right: Tensor  # bool: the likeliest token is the original one
    original: Tensor  # bool: the input token is the original one
    counted: Tensor  # bool: the position counts


@register("criterion", "corrective_lm")
class CorrectiveLM(Criterion["CorrectiveLM.Config"]):
    """Which tokens an auxiliary network replaced, and what they were before."""

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
            True, "the language-modelling loss does not train the copy mechanism"
        )
        positions: Literal["chosen", "all"] = option(
            "chosen", "where the language model predicts: masked positions, or all tokens"
        )
        reduction: Literal["mean", "sum"] = option(
            "mean",
            "mean over positions, or the sum over a sequence's positions (the printed equations), "
            "averaged over sequences",
        )

        def __post_init__(self) -> None:
            if not self.copy_weight and not self.lm_weight:
                raise ValueError(
                    "copy_weight and lm_weight are both 0, so there is nothing to learn"
                )
            if not self.copy_weight and self.copy and self.stop_gradient:
                raise ValueError(
                    "copy_weight 0 with stop_gradient leaves nothing to train the copy mechanism; "
                    "set stop_gradient or copy to false"
                )

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        self.copying = config.copy_weight > 0 or config.copy
        if self.copying:
            encoder = build.require_encoder()
            encoder.check_sees_itself(f"criterion.{build.name}")
            self.copy_head = nn.Linear(encoder.width, 1, bias=False)
            nn.init.normal_(self.copy_head.weight, std=0.02)
        if config.lm_weight:
            self.head = MaskedLMHead.from_options(build, config.tied_output, config.output_bias)

    @classmethod
    def reads(cls, config: Config) -> dict[str, Read]:
        return {
            config.view: Read(AUXILIARY, positions=True),
            "masked": Read({"noiser": "bert_mask"}, encoded=False),  # the auxiliary network's input
        }

    @classmethod
    def flops(cls, config: Config, encoder: tuple[Transformer, ...], shape: SequenceShape) -> float:
        total = 0.0
        if config.copy_weight or config.copy:
            total += 2.0 * encoder[0].width * shape.length
        if config.lm_weight:
            total += encoder[0].softmax(shape, share=1.0 if config.positions == "all" else None)
        return total

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        view = views[self.config.view]
        tokens = view.content  # [B, T]
        counts = {}
        if self.config.copy_weight:
            counts["copy"] = tokens.sum()
        if self.config.lm_weight:
            everywhere = self.config.positions == "all"
            counts["lm"] = tokens.sum() if everywhere else count_chosen(view)
        if self.config.reduction == "sum":
            return dict.fromkeys(counts, tokens.any(1).sum())  # the number of sequences
        return counts

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        view = views[self.config.view]
        counted = view.content  # [B, T]
        original = ~replaced_tokens(view)  # [B, T]
        terms: dict[str, LossTerm] = {}
        statistics: dict[str, Tensor] = {}

        copy_logit = self._copy_logit(view.encoded.features) if self.copying else None  # [B, T]
        if copy_logit is not None:
            statistics |= count_right("copy", (copy_logit > 0) == original, original, counted)
        if copy_logit is not None and self.config.copy_weight:
            copy_loss = copy_sum(copy_logit, original, counted)
            terms["copy"] = LossTerm(copy_loss, weight=self.config.copy_weight)

        if self.config.lm_weight:
            lm = self._language_model(view, copy_logit)
            lm_loss = lm.losses.masked_fill(~lm.counted, 0.0).sum()
            terms["lm"] = LossTerm(lm_loss, weight=self.config.lm_weight)
            statistics |= count_right("lm", lm.right, lm.original, lm.counted)
        return Output(terms=terms, statistics=statistics)

    def _copy_logit(self, features: Tensor) -> Tensor:
        """Return the logit of c, [B, T], in fp32 or wider. features: [B, T, D]."""
        logit = self.copy_head(features).squeeze(-1)
        return logit.to(torch.promote_types(logit.dtype, torch.float32))

    def _language_model(self, view: View, copy_logit: Tensor | None) -> Predictions:
        """Predict the original tokens at the chosen positions ([B, K]) or at all ([B, T])."""
        at_chosen = self.config.positions == "chosen"

        def select(tensor: Tensor) -> Tensor:
            return view.at_positions(tensor) if at_chosen else tensor

        target, tokens = select(view.target), select(view.tokens)
        hidden = self.head.apply_transform(select(view.encoded.features)).flatten(0, 1)  # [N, E]
        # At all tokens the logits are computed twice instead of kept: [B, T, V] would take more
        # memory than everything else.
        softmax = Softmax(hidden, self.head.output.weight, self.head.output.bias, keep=at_chosen)
        losses = softmax.losses(target.flatten()).view_as(target)
        best = softmax.best.view_as(target)

        if self.config.copy and copy_logit is not None:
            logit = select(copy_logit)
            mixed_in = logit.detach() if self.config.stop_gradient else logit
            losses = copy_losses(losses, mixed_in, tokens == target)
            log_input = softmax.log_probs(tokens.flatten()).view_as(target)
            log_best = softmax.log_probs(best.flatten()).view_as(target)
            best = torch.where(copies(logit.detach(), log_input, log_best), tokens, best)
        return Predictions(
            losses=losses,
            right=best == target,
            original=tokens == target,
            counted=view.valid if at_chosen else view.content,
        )

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Return accuracies on replaced and on original tokens, where there are any."""
        accuracies = {}
        for term in ("copy", "lm"):
            for which in ("replaced", "original"):
                tokens = sums.get(f"{term}_{which}", torch.tensor(0))
                if tokens > 0:
                    right = sums[f"{term}_right_{which}"]
                    accuracies[f"{term}_accuracy_{which}"] = float(right / tokens)
        return accuracies
