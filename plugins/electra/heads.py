"""What the criteria of this plugin have in common: a head for one number per token, its loss, and their default views."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwk.nn.compiled import when_compiling

# what a criterion reads unless the config says otherwise: samples of a generator, and of a cloze model
GENERATED: dict[str, Any] = {"noiser": "masked_lm", "of": "masked", "network": {"name": "scaled"}}
CLOZE: dict[str, Any] = {
    "noiser": "two_tower",
    "of": "masked",
    "network": {"name": "scaled", "towers": True},
}


def token_head(width: int) -> nn.Sequential:
    """[..., D] -> [..., 1]: dense, GELU, dense, initialised as BERT's."""
    head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
    for layer in (head[0], head[2]):
        nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
    return head


@when_compiling
def detection_loss(logits: Tensor, replaced: Tensor, counted: Tensor) -> Tensor:
    """Sum of the sigmoid losses where counted, in fp32 or wider, 0-d: logits, bool replaced and bool counted [B, N]."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.binary_cross_entropy_with_logits(wide, replaced.to(wide.dtype), reduction="none")
    return losses.masked_fill(~counted, 0.0).sum()
