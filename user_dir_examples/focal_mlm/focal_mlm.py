"""Masked language modelling with focal weighting (Lin et al. 2017, "Focal loss for dense object detection", eq. 4).

    L = - sum over chosen positions t of (1 - p_t)^gamma log p_t  /  number of chosen positions

p_t is the probability of the original token. Tokens that are easy already count less; with gamma 0 this is plain
masked LM.
"""

from __future__ import annotations

from dataclasses import dataclass

from fwk import Criterion, LossTerm, Output, Read, option, register
from fwk.nn.masked_lm_head import MaskedLMHead
from fwk.nn.softmax import token_losses


@register("criterion", "focal_mlm")
class FocalMLM(Criterion):
    """Masked LM in which tokens that are predicted well count less."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        view: str = option("masked", "the view whose chosen positions are predicted")
        gamma: float = option(2.0, "how much less easy tokens count (paper: 0 to 5, best 2)", low=0)

    def __init__(self, config, build):
        super().__init__(config, build)
        self.head = MaskedLMHead(build.encoder, build.vocabulary.size)

    @classmethod
    def reads(cls, config):
        return {config.view: Read({"noiser": "bert_mask"}, positions=True)}

    def normalizers(self, views, context):
        return {"focal": views[self.config.view].valid.sum()}

    def forward(self, views, context):
        view = views[self.config.view]
        logits = self.head(view.at_positions(view.encoded.features))  # [B, K, V]
        losses = token_losses(logits, view.at_positions(view.target))  # [B, K], -log p
        focal = (1 - (-losses).exp()) ** self.config.gamma * losses
        loss = LossTerm(focal.masked_fill(~view.valid, 0.0).sum())
        nll = losses.detach().masked_fill(~view.valid, 0.0).sum()
        return Output(terms={"focal": loss}, statistics={"nll": nll, "positions": view.valid.sum()})

    def metrics(self, sums):
        return {"masked_lm": float(sums["nll"] / sums["positions"].clamp(min=1))}
