"""Biases on the attention logits that depend on the offset key - query, for any encoder.

`RelativeBias` has a number per head and offset, `BucketedBias` one per head and bucket of offsets. All layers
share them.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import partial

import torch
from torch import Tensor, nn


class RelativeBias(nn.Module):
    """A learned number per head and offset, clipped to +-reach.

    neighbours: the heads start with a bias of 4 on one offset each: -1, +1, -2, +2, ...
    """

    def __init__(self, heads: int, reach: int, neighbours: bool) -> None:
        super().__init__()
        self.reach = reach
        self.table = nn.Parameter(torch.zeros(heads, 2 * reach + 1))
        if neighbours:
            with torch.no_grad():
                for head in range(heads):
                    offset = (head // 2 + 1) * (1 if head % 2 else -1)
                    if abs(offset) <= reach:
                        self.table[head, reach + offset] = 4.0

    def forward(self, T: int) -> Tensor:
        """Return the biases for sequences of T positions, [heads, T, T]."""
        return self.table[:, _offsets(T, self.reach, self.table.device)]


class BucketedBias(nn.Module):
    """T5's relative position bias (Raffel et al. 2020, section 2.1): a learned number per head and bucket of offsets.

    Half of the buckets are for keys before the query, the other half for keys after it; an encoder that reads in one
    `direction` uses all of them for that side. In each half the nearest offsets have a bucket each, the offsets up to
    `farthest` share buckets of logarithmic width, and all others share the last bucket.
    """

    place: Tensor  # int64 [2 farthest + 1], the bucket of each offset

    def __init__(self, heads: int, buckets: int, farthest: int, direction: str = "both") -> None:
        super().__init__()
        self.farthest = farthest
        self.table = nn.Parameter(torch.zeros(heads, buckets))
        places = buckets_of(torch.arange(-farthest, farthest + 1), buckets, farthest, direction)
        self.register_buffer("place", places, persistent=False)

    def forward(self, T: int) -> Tensor:
        """Return the biases for sequences of T positions, [heads, T, T]."""
        offsets = _offsets(T, self.farthest, self.table.device)
        return self.table[:, self.place[offsets]]


def buckets_of(offsets: Tensor, buckets: int, farthest: int, direction: str = "both") -> Tensor:
    """Return the buckets of offsets key - query, int64 of the shape of `offsets`.

    With E buckets of one offset each and L buckets of logarithmic width on a side, distances d >= E fall into bucket
    E + floor(L log(d / E) / log(farthest / E)), or into the last one.
    """
    if direction == "both":
        buckets //= 2
        start, distance = torch.where(offsets > 0, buckets, 0), offsets.abs()
    else:  # keys on the other side are not attended to
        start = torch.zeros_like(offsets)
        distance = (-offsets if direction == "left_to_right" else offsets).clamp(min=0)
    exact = buckets // 2
    bounds = torch.tensor(
        _bounds(exact, buckets - exact, farthest), dtype=torch.int64, device=offsets.device
    )
    wide = exact + torch.bucketize(distance, bounds, right=True)
    return start + torch.where(distance < exact, distance, wide)


def _bounds(exact: int, wide: int, farthest: int) -> list[int]:
    """Return the least distance of each bucket of logarithmic width but the first.

    It is computed with integers, because logarithms round differently on other machines.
    """

    def reaches(step: int, distance: int) -> bool:
        return distance**wide * exact**step >= farthest**step * exact**wide

    return [
        bisect_left(range(farthest), True, key=partial(reaches, step)) for step in range(1, wide)
    ]


def _offsets(T: int, reach: int, device: torch.device) -> Tensor:
    """Return the offset of each query and key, clipped to +-reach, plus reach: int64 [T, T]."""
    positions = torch.arange(T, device=device)
    return (positions[None, :] - positions[:, None]).clamp(-reach, reach) + reach
