"""Dropout that is fast on a CPU and repeats bit for bit when a layer is recomputed.

On a CPU torch draws one random number per element, which takes longer than everything around it. Here each draw
of 64 bits gives four 16-bit numbers, which are turned into the factors 0 and 1 / (1 - p); the factors are kept
for the backward pass, as in torch. The probability is rounded to a multiple of 2^-16. On other devices, and in
compiled code, torch's dropout is used.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 1 << 16


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """Return x with each element 0 with probability `p`, and divided by 1 - p otherwise; outside of training, x."""
    if not training or p == 0.0:
        return x
    dropped = round(p * LEVELS)  # the number of the 2^16 levels that drop an element
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not 0 < dropped < LEVELS:
        return F.dropout(x, p)

    words = torch.empty(math.ceil(x.numel() / 4), dtype=torch.int64).random_(-(1 << 63), None)
    drawn = words.view(torch.int16)[: x.numel()].view(x.shape)
    lowest_kept, scale = dropped - LEVELS // 2, LEVELS / (LEVELS - dropped)
    if x.dtype.itemsize < 4:
        # a factor rounded to so few digits would be off by the same share in every element
        return torch.where(drawn >= lowest_kept, x * scale, 0.0)
    with torch.no_grad():
        factors = torch.ge(drawn, lowest_kept, out=torch.empty_like(x)).mul_(scale)
    return x * factors


class Dropout(nn.Dropout):
    """`dropout` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x under dropout of `self.p` in training."""
        return dropout(x, self.p, self.training)
