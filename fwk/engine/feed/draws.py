"""Which draws make up an update or an evaluation step, and which of them a rank takes.

Draw numbers follow from the update's number alone, so the batches do not depend on the number of workers and the feed
has no state to save.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from fwk.errors import ConfigError


def share_bounds(total: int, parts: int, part: int) -> tuple[int, int]:
    """Return the bounds of one part of range(total), which is split as np.array_split does: longer parts first."""
    size, remainder = divmod(total, parts)
    start = part * size + min(part, remainder)
    return start, start + size + (part < remainder)


def count_micro_batches(batch: int, world_size: int, micro_batch: int | None) -> int:
    """Return the number of micro-batches per update, which is the same on every rank.

    No micro-batch is empty: where ranks differ by one sequence and `micro_batch` is 1, one micro-batch of the ranks
    with more sequences holds two. Raises ConfigError where the batch is smaller than the number of ranks.
    """
    if batch < world_size:
        raise ConfigError(
            "train.batch",
            f"{batch} sequences cannot be shared by {world_size} ranks; expected at least {world_size}",
        )
    if micro_batch is not None and micro_batch < 1:
        raise ConfigError("train.micro_batch", f"is {micro_batch}, expected at least 1")
    largest_share, smallest_share = -(-batch // world_size), batch // world_size
    return min(-(-largest_share // (micro_batch or largest_share)), smallest_share)


@dataclass(frozen=True, kw_only=True)
class TrainingDraws:
    """Yields the draws of one rank's micro-batches, int64 [B] each, without end.

    Update u consists of the draws [u * batch, (u + 1) * batch). A rank takes a contiguous share of them, split into the
    same number of micro-batches on every rank.
    """

    batch: int  # sequences per update, over all ranks
    micro_batches: int  # per update and rank
    rank: int
    world_size: int
    start_update: int = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        first, last = share_bounds(self.batch, self.world_size, self.rank)
        update = self.start_update
        while True:
            base = update * self.batch + first
            for number in range(self.micro_batches):
                start, stop = share_bounds(last - first, self.micro_batches, number)
                yield np.arange(base + start, base + stop, dtype=np.int64)
            update += 1


@dataclass(frozen=True)
class GroupedDraws:
    """Yields lists of `count` successive items of an endless iterable."""

    draws: Iterable[np.ndarray]
    count: int

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        draws = iter(self.draws)
        while True:
            yield [next(draws) for _ in range(self.count)]


@dataclass(frozen=True, kw_only=True)
class EvaluationDraws:
    """Yields one rank's part of each evaluation step, int64 [B]; steps without an example for the rank are skipped."""

    examples: int  # in the split
    batch: int  # examples per step, over all ranks
    rank: int
    world_size: int
    limit_batches: int  # steps at most; 0: all
    # int64 [examples that are read], the order in which they come; None: as they are
    order: np.ndarray | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        for step, start in enumerate(range(0, self.examples, self.batch)):
            if self.limit_batches and step >= self.limit_batches:
                return
            size = min(self.batch, self.examples - start)
            first, last = share_bounds(size, self.world_size, self.rank)
            if last > first:
                draws = np.arange(start + first, start + last, dtype=np.int64)
                yield draws if self.order is None else self.order[draws]
