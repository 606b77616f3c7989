"""A head that gives one number per token, and its loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwk.nn.compiled import when_compiling


def token_head(width: int) -> nn.Sequential:
    """Return a head [..., D] -> [..., 1]: dense, GELU, dense, initialised as in BERT."""
    dense, output = nn.Linear(width, width), nn.Linear(width, 1)
    for layer in (dense, output):
        nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(dense, nn.GELU(), output)


@when_compiling
def detection_loss(logits: Tensor, replaced: Tensor, counted: Tensor) -> Tensor:
    """Return the sum of the sigmoid losses where counted, in fp32 or wider, 0-d.

    logits: [B, N]. replaced, counted: bool [B, N].
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.binary_cross_entropy_with_logits(wide, replaced.to(wide.dtype), reduction="none")
    return losses.masked_fill(~counted, 0.0).sum()
