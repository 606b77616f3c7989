"""The order of training examples, computed per draw instead of stored.

One source: draw d is example `permutation(d mod size)` of epoch `d div size`, with a new keyed permutation each epoch,
so every example comes exactly once per epoch, in O(1) memory at any size.

Several sources: each block of draws has an exact composition. Remainders of the shares are carried from block to
block, so that after any number of blocks every source is less than one draw away from its share. The places inside a
block are a keyed permutation; a source fills its places with the next examples of the source's order.

Everything is random access: the position in training is one integer. With a group size g, all of this holds for groups
of g successive draws: draws g*i .. g*i + g - 1 come from one source, so updates of g examples never mix sources.

The permutation is a balanced Feistel network over the smallest even number of bits that holds the size, walked along
its cycle until it falls inside (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").

Over the keys, an example is at every place of an epoch equally often. Permutations as a whole are not equally likely
where there are few examples, because a round on halves of two bits or more is an even permutation: orders of exactly
16, 64, 256, ... examples are always even, and from 5 to 15 walking along cycles leaves one parity likelier than the
other (each of its permutations by 9% with 5 examples, 13% with 6, 18% with 7). Training sums over examples, which the
parity of an order does not touch, and another network would change the order of every run.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fwk.contracts.keyed import fold, mix_array
from fwk.errors import ConfigError, DataError, did_you_mean

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_PERIOD = 256  # blocks after which carried remainders are back at zero; shares are rounded to 1 / (256 * block)


def _rounds(half: int) -> int:
    """Return the number of Feistel rounds for halves of so many bits."""
    # few bits per half make weak round functions, so small domains get more rounds
    if half >= 8:
        return 6
    return 12 if half >= 3 else 24


def permute(positions: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """Return each position under the keyed permutation of range(size) that its key selects; int64 [n].

    positions: int64 [n] in [0, size). keys: uint64 [n]; elements with the same key belong to the same permutation.
    """
    if size <= 1:
        return np.zeros_like(positions)
    half = max((int(size - 1).bit_length() + 1) // 2, 1)
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    result = positions.astype(np.uint64)
    todo = np.arange(len(result))
    steps = np.arange(1, _rounds(half) + 1, dtype=np.uint64) * _GOLDEN
    round_keys = mix_array(keys + steps[:, None])  # [rounds, n]
    while len(todo):
        left, right = result[todo] >> shift, result[todo] & mask
        for round_key in round_keys:
            left, right = right, left ^ (mix_array(right * _GOLDEN + round_key[todo]) & mask)
        result[todo] = (left << shift) | right
        todo = todo[result[todo] >= np.uint64(size)]  # outside: walk on
    return result.astype(np.int64)


def _units(shares: list[float], total: int) -> list[int]:
    """Return integers in proportion to `shares` that add up to `total`, by largest remainder.

    A positive share gets at least 1.
    """
    whole = sum(shares)
    exact = [total * share / whole for share in shares]
    units = [
        max(int(quota), 1) if share > 0 else 0 for quota, share in zip(exact, shares, strict=True)
    ]
    by_remainder = sorted(range(len(shares)), key=lambda i: (units[i] - exact[i], i))
    i = 0
    while sum(units) != total:
        step = 1 if sum(units) < total else -1
        order = by_remainder if step > 0 else by_remainder[::-1]
        candidate = order[i % len(order)]
        if shares[candidate] > 0 and units[candidate] + step >= 1:
            units[candidate] += step
        i += 1
    return units


def _composition(units: list[int], block: int) -> np.ndarray:
    """Return the draws of each source before each block of a period: int64 [_PERIOD + 1, S]; the last row is `units`.

    Every block gives a source the whole part of its share. The remaining slots, R per block, go one by one to the
    eligible source whose next slot is due first (Tijdeman 1980, "The chairman assignment problem"), which keeps every
    source less than one slot away from its share.
    """
    whole = np.array(units, dtype=np.int64) // _PERIOD
    rest = np.array(units, dtype=np.int64) % _PERIOD  # extras per period
    counts = np.tile(whole, (_PERIOD, 1))
    slots = int(rest.sum())
    left_over = slots // _PERIOD  # extras per block, the same for every block
    dealt = np.zeros_like(rest)  # extras that each source has received so far
    never = np.iinfo(np.int64).max
    for slot in range(slots):
        eligible = (slot + 1) * rest > dealt * slots
        due = np.where(rest > 0, -(-(dealt + 1) * slots // np.maximum(rest, 1)), never)
        chosen = int(np.argmin(np.where(eligible, due, never)))
        dealt[chosen] += 1
        counts[slot // left_over, chosen] += 1
    assert (dealt == rest).all() and (counts.sum(1) == block).all()
    return np.concatenate([np.zeros((1, len(units)), np.int64), counts.cumsum(0)])


def _check_sources(sizes: Mapping[str, int], mixture: Mapping[str, float]) -> None:
    """Raise DataError or ConfigError where sources cannot be drawn from in these shares."""
    if not sizes:
        raise DataError("there is no training source to draw from")
    for name, size in sizes.items():
        if size <= 0:
            raise DataError(f"training source '{name}' has no examples")
    for name, share in mixture.items():
        if name not in sizes:
            raise ConfigError(
                "task.data",
                f"the mixture names '{name}', which is not a source{did_you_mean(name, sizes)}",
            )
        if not 0 <= share < float("inf"):
            raise ConfigError(
                "task.data", f"the share of source '{name}' is {share}, expected a number >= 0"
            )
    if not sum(mixture.get(name, 0.0) for name in sizes) > 0:
        raise ConfigError("task.data", "every source has share 0, expected at least one above 0")


class Order:
    """The map from a draw number to (source, index in the source, epoch of the source).

    sizes: examples per source, in the fixed order that source positions refer to. mixture: relative share of each
    source in the draws (any scale; None: in proportion to the sizes). block: draws per block of fixed composition
    (with groups, a multiple of them and at least 16 groups). group: successive draws that share a source.

    Raises DataError where there is nothing to draw from, ConfigError for a mixture that does not fit the sources.
    """

    def __init__(
        self,
        seed: int,
        sizes: Mapping[str, int],
        mixture: Mapping[str, float] | None = None,
        block: int = 4096,
        group: int = 1,
    ) -> None:
        if mixture is None:
            mixture = {name: float(size) for name, size in sizes.items()}
        _check_sources(sizes, mixture)
        if block < 1:
            raise ValueError(f"block is {block}, expected at least 1")
        if group < 1:
            raise ValueError(f"group is {group}, expected at least 1")

        self.seed, self.names, self.group = seed, tuple(sizes), group
        # in groups; fewer than 16 of them would round the shares coarsely
        self.block = block if group == 1 else max(block // group, 16)
        self.sizes = tuple(int(sizes[name]) for name in sizes)
        self.shares = tuple(mixture.get(name, 0.0) for name in sizes)

        drawn = [i for i, share in enumerate(self.shares) if share > 0]
        self._single = drawn[0] if len(drawn) == 1 else None
        self._keys = np.array([fold(seed, "order", name) for name in self.names], dtype=np.uint64)
        self._block_key = np.uint64(fold(seed, "order of sources"))
        if self._single is None:
            while self.block * _PERIOD < 2 * len(drawn):  # every source must fit into a period
                self.block *= 2
            self._before = _composition(_units(list(self.shares), self.block * _PERIOD), self.block)

    def __len__(self) -> int:
        """Return the draws per epoch: the number of examples in the sources that are drawn from."""
        return sum(size for size, share in zip(self.sizes, self.shares, strict=True) if share > 0)

    def epoch_of(self, draws_consumed: int) -> float:
        """Return the epochs after so many draws, for reports: exact for one source, the average of a mixture."""
        return draws_consumed / len(self)

    def _slots(self, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the source position of each group and how many groups of that source came before; int64 [n] each."""
        if self._single is not None:
            return np.full_like(groups, self._single), groups.copy()
        block, place = groups // self.block, groups % self.block
        keys = mix_array(self._block_key + (block.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
        place = permute(place, self.block, keys)
        row = block % _PERIOD
        before, after = self._before[row], self._before[row + 1]  # [n, S]
        ends = np.cumsum(after - before, axis=1)
        sources = (ends <= place[:, None]).sum(axis=1)
        rows = np.arange(len(groups))
        start = ends[rows, sources] - (after - before)[rows, sources]
        periods = (block // _PERIOD) * self._before[-1][sources]
        ordinal = periods + before[rows, sources] + place - start
        return sources.astype(np.int64), ordinal

    def locate(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the source position, the index in the source and the epoch of each draw [n]; int64 [n] each."""
        draws = np.asarray(draws, dtype=np.int64)
        if len(draws) and draws.min() < 0:
            raise ValueError("draw numbers cannot be negative")
        sources, before = self._slots(draws // self.group)
        ordinals = before * self.group + draws % self.group
        sizes = np.array(self.sizes, dtype=np.int64)[sources]
        epochs, positions = ordinals // sizes, ordinals % sizes
        keys = mix_array(self._keys[sources] + (epochs.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
        indices = np.empty_like(positions)
        for source in np.unique(sources):
            rows = np.flatnonzero(sources == source)
            indices[rows] = permute(positions[rows], self.sizes[source], keys[rows])
        return sources, indices, epochs

    def drawn(self, draws_consumed: int) -> dict[str, int]:
        """Return how many of the first `draws_consumed` draws fell on each source."""
        if self._single is not None:
            return {
                name: draws_consumed if i == self._single else 0
                for i, name in enumerate(self.names)
            }
        groups, rest = divmod(draws_consumed, self.group)
        block, place = divmod(groups, self.block)
        counts = (block // _PERIOD) * self._before[-1] + self._before[block % _PERIOD]
        # the groups of the current block; the last of them may be incomplete
        sources, _ = self._slots(np.arange(block * self.block, groups + 1, dtype=np.int64))
        counts = (counts + np.bincount(sources[:place], minlength=len(self.names))) * self.group
        counts[sources[-1]] += rest
        return {name: int(count) for name, count in zip(self.names, counts, strict=True)}
