"""A small vocabulary, a batch of random text and enough of an encoder for a head."""

from __future__ import annotations

import math

import torch
from torch import nn

from fwk import BuildContext, Encoder, View, Vocabulary
from fwk.nn.masked_lm_head import MaskedLMHead

V, D, T, B = 23, 6, 12, 7
VOCABULARY = Vocabulary(size=V, pad=0, unk=1, cls=2, sep=3, mask=4, special=(0, 1, 2, 3, 4))


class Stub(Encoder):
    """Enough of an encoder for a head."""

    def __init__(self, width=D, embedding=D):
        super().__init__(None, BuildContext())
        self.width = width
        self.table = nn.Embedding(V, embedding)

    def embedding(self):
        return self.table


def text(rows=B, seed=0) -> View:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, V, (rows, T), generator=generator)
    tokens[:, 0], tokens[:, -1] = 2, 3
    mask = torch.arange(T) < torch.randint(4, T + 1, (rows, 1), generator=generator)
    tokens = torch.where(mask, tokens, 0)
    special = (tokens == 2) | (tokens == 3)
    return View(
        name="batch",
        draws=torch.arange(rows),
        inputs={"tokens": tokens},
        mask=mask,
        special=special,
        target=tokens,
    )


def reference_nll(
    head: MaskedLMHead, features: torch.Tensor, target: int, smoothing: float
) -> float:
    """-log p of one position in plain Python and float64, from the equation in masked_lm.py."""
    h = features.double()
    x = h @ head.transform.weight.double().T + head.transform.bias.double()
    x = torch.tensor(
        [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()], dtype=torch.float64
    )
    x = (x - x.mean()) / (
        x.var(unbiased=False) + 1e-12
    ).sqrt() * head.norm.weight.double() + head.norm.bias.double()
    logits = (x @ head.output.weight.double().T + head.output.bias.double()).tolist()
    top = max(logits)
    normaliser = top + math.log(sum(math.exp(z - top) for z in logits))
    plain = normaliser - logits[target]
    return (1 - smoothing) * plain + smoothing * sum(normaliser - z for z in logits) / len(logits)
