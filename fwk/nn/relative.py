"""Biases on the attention logits that depend on how far the key is from the query, shared by all layers: a number per head
and offset (`RelativeBias`), or per head and bucket of offsets (`BucketedBias`). Any encoder may add one to its attention."""

from __future__ import annotations

from bisect import bisect_left

import torch
from torch import Tensor, nn


class RelativeBias(nn.Module):
    """A learned number per head and offset key - query, clipped to +-reach; [heads, T, T]."""

    def __init__(self, heads: int, reach: int, neighbours: bool):
        super().__init__()
        self.reach = reach
        self.table = nn.Parameter(torch.zeros(heads, 2 * reach + 1))
        if neighbours:
            with torch.no_grad():
                for head in range(heads):
                    offset = (head // 2 + 1) * (1 if head % 2 else -1)  # -1, +1, -2, +2, ...
                    if abs(offset) <= reach:
                        self.table[head, reach + offset] = 4.0

    def forward(self, T: int) -> Tensor:
        return self.table[:, _offsets(T, self.reach, self.table.device)]  # [heads, T, T]


class BucketedBias(nn.Module):
    """T5's relative position bias (Raffel et al. 2020, section 2.1): a learned number per head and bucket of offsets
    key - query; [heads, T, T]. Shared by all layers, as there.

    One half of the buckets is for keys before the query, the other for those after it; an encoder that reads one way has all
    of them for its own (`direction`). In each half the nearest offsets have a bucket of their own, those up to `farthest`
    share buckets of logarithmic width, those beyond share the last.
    """

    def __init__(self, heads: int, buckets: int, farthest: int, direction: str = "both"):
        super().__init__()
        self.farthest = farthest
        self.table = nn.Parameter(torch.zeros(heads, buckets))
        places = buckets_of(torch.arange(-farthest, farthest + 1), buckets, farthest, direction)
        self.register_buffer("place", places, persistent=False)

    def forward(self, T: int) -> Tensor:
        return self.table[
            :, self.place[_offsets(T, self.farthest, self.table.device)]
        ]  # [heads, T, T]


def buckets_of(offsets: Tensor, buckets: int, farthest: int, direction: str = "both") -> Tensor:
    """The buckets of offsets key - query, int64 of any shape. With E buckets of one offset each and L of logarithmic width on
    a side, distances d >= E fall into E + floor(L log(d / E) / log(farthest / E)), at most the last."""
    if direction == "both":
        buckets //= 2
        start, distance = torch.where(offsets > 0, buckets, 0), offsets.abs()
    else:  # what lies on the other side is not attended to
        start, distance = 0, (-offsets if direction == "left_to_right" else offsets).clamp(min=0)
    exact = buckets // 2
    bounds = torch.tensor(
        _bounds(exact, buckets - exact, farthest), dtype=torch.int64, device=offsets.device
    )
    return start + torch.where(
        distance < exact, distance, exact + torch.bucketize(distance, bounds, right=True)
    )


def _bounds(exact: int, wide: int, farthest: int) -> list[int]:
    """For steps 1 to wide - 1 the least distance of that step, in integers: a logarithm rounds otherwise elsewhere."""
    return [
        bisect_left(
            range(farthest),
            True,
            key=lambda d, step=step: d**wide * exact**step >= farthest**step * exact**wide,
        )
        for step in range(1, wide)
    ]


def _offsets(T: int, reach: int, device: torch.device) -> Tensor:
    """key - query, clipped to +-reach, plus reach: [T, T]."""
    where = torch.arange(T, device=device)
    return (where[None, :] - where[:, None]).clamp(-reach, reach) + reach
