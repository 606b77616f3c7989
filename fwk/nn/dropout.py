"""Dropout whose random numbers are cheap on a CPU.

There torch draws one number after the other, which takes longer than everything around it; four 16-bit numbers are cut
out of each draw here, and compared straight into the factors 0 and 1 / (1 - p), which are kept for the backward pass as torch
keeps them. The probability is rounded to a multiple of 2^-16. Elsewhere, and in compiled code, it is torch's.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 1 << 16


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """x with each element 0 with probability `p` and divided by 1 - p otherwise; x itself outside of training."""
    if not training or p == 0.0:
        return x
    dropped = round(p * LEVELS)  # of all levels
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not 0 < dropped < LEVELS:
        return F.dropout(x, p)
    words = torch.empty(math.ceil(x.numel() / 4), dtype=torch.int64).random_(-(1 << 63), None)
    drawn, scale = words.view(torch.int16)[: x.numel()].view(x.shape), LEVELS / (LEVELS - dropped)
    if (
        x.dtype.itemsize < 4
    ):  # a factor in so few digits would be off by the same share in every element
        return torch.where(drawn >= dropped - LEVELS // 2, x * scale, 0.0)
    with torch.no_grad():
        factors = torch.ge(drawn, dropped - LEVELS // 2, out=torch.empty_like(x)).mul_(scale)
    return x * factors


class Dropout(nn.Dropout):
    """`dropout` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.training)
