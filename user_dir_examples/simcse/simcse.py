"""Unsupervised SimCSE (Gao et al. 2021, "SimCSE: simple contrastive learning of sentence embeddings", eq. 1 and 4).

    L = - sum over sequences i of log( exp(cos(a_i, b_i) / tau) / sum_j exp(cos(a_i, b_j) / tau) )  /  sequences

a, b   [CLS] features of two passes of the same tokens under different dropout, through a dense layer and tanh
tau    `temperature`

The negatives j are the sequences of this micro-batch on all ranks, so the loss depends on how a batch is cut.
Deviation: the paper drops the dense layer after training. Here it belongs to the criterion, so evaluation uses it too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from fwk import Criterion, LossTerm, Output, Read, option, register


@register("criterion", "simcse")
class SimCSE(Criterion):
    """Contrast of two dropout passes of a sentence with the passes of the other sentences."""

    expected_failures = {"geometry": "the negatives are the sequences of the micro-batch"}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        views: tuple[str, str] = option(("pass_a", "pass_b"), "the two views of the same tokens")
        temperature: float = option(0.05, "divides the cosines (paper: 0.05)", low=1e-4)

    def __init__(self, config, build):
        super().__init__(config, build)
        build.encoder.check_first_position(f"criterion '{build.name}'")
        self.dense = nn.Linear(build.encoder.width, build.encoder.width)

    @classmethod
    def reads(cls, config):
        return {name: Read({"noiser": "dropout_only"}) for name in config.views}

    def normalizers(self, views, context):
        return {"contrast": torch.tensor(len(views[self.config.views[0]]))}

    def forward(self, views, context):
        a, b = (self.sentence(views[name]) for name in self.config.views)  # [B, D] each
        everyone, positive = context.gather(b)  # [N, D], and [B], the row of each sentence's own b
        logits = a @ everyone.T / self.config.temperature  # [B, N]
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = F.cross_entropy(wide, positive, reduction="sum")
        right, sequences = (logits.argmax(1) == positive).sum(), torch.tensor(len(positive))
        return Output(
            terms={"contrast": LossTerm(loss)}, statistics={"right": right, "sequences": sequences}
        )

    def sentence(self, view):
        """Return the sentences' vectors, [B, D], of length 1."""
        cls = view.encoded.features[:, 0]  # [B, D]
        return F.normalize(torch.tanh(self.dense(cls)), dim=-1)

    def metrics(self, sums):
        return {"accuracy": float(sums["right"] / sums["sequences"].clamp(min=1))}
