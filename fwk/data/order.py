"""The order of training examples, computed per draw instead of stored.

One source: draw d is example `permutation(d mod size)` of epoch `d div size`, with a new keyed permutation each epoch,
so every example comes exactly once per epoch, in O(1) memory at any size. Several sources: each block of draws has an
exact composition; what the shares leave over is carried from block to block, so that after any number of blocks no
source is a whole draw away from its share. Inside a block the places are a keyed permutation; the examples
a source gives to a block are the next ones of that source's own order. Everything is
random access: "where am I" is one integer. With a group size g, all of this holds for groups of g successive draws:
draws g*i .. g*i + g - 1 come from one source, so updates of g examples are never mixed.

The permutation is a balanced Feistel network over the smallest even number of bits that holds the size, walked along
its cycle until it falls inside (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fwk.contracts.keyed import fold, mix_array
from fwk.errors import ConfigError, DataError, did_you_mean

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_PERIOD = 256  # blocks after which carried remainders are back at zero; shares are rounded to 1 / (256 * block)


def _rounds(half: int) -> int:
    # few bits per half make weak round functions, so small domains get more rounds
    return 6 if half >= 8 else 12 if half >= 3 else 24


def permute(positions: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """Keyed permutation of range(size), per element: positions int64 [n] in [0, size), keys uint64 [n] -> int64 [n].

    Elements with the same key belong to the same permutation.
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
    """Integers that add up to `total` in proportion to `shares`, by largest remainder; a positive share gets >= 1."""
    whole = sum(shares)
    exact = [total * share / whole for share in shares]
    units = [max(int(e), 1) if s > 0 else 0 for e, s in zip(exact, shares, strict=True)]
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
    """Draws of each source before each block of a period: int64 [_PERIOD + 1, S]; the last row is `units`.

    Every block gives a source the whole part of its share. The slots left over, R per block, are dealt one by one to
    the eligible source whose next slot is due first (Tijdeman 1980, "The chairman assignment problem"), which keeps
    every source less than one slot from its share.
    """
    whole = np.array(units, dtype=np.int64) // _PERIOD
    rest = np.array(units, dtype=np.int64) % _PERIOD  # extras per period
    counts = np.tile(whole, (_PERIOD, 1))
    slots = int(rest.sum())
    left_over = slots // _PERIOD  # extras per block, the same for every block
    given = np.zeros_like(rest)
    for slot in range(slots):
        eligible = (slot + 1) * rest > given * slots
        due = np.where(
            rest > 0, -(-(given + 1) * slots // np.maximum(rest, 1)), np.iinfo(np.int64).max
        )
        chosen = int(np.argmin(np.where(eligible, due, np.iinfo(np.int64).max)))
        given[chosen] += 1
        counts[slot // left_over, chosen] += 1
    assert (given == rest).all() and (counts.sum(1) == block).all()
    return np.concatenate([np.zeros((1, len(units)), np.int64), counts.cumsum(0)])


class Order:
    """Draw number -> (source, index in the source, epoch of the source).

    sizes: number of examples per source, in the fixed order that source positions refer to. mixture: relative share of
    each source in the draws (any scale; None: in proportion to the sizes). block: draws per block of fixed composition
    (with groups, a whole number of them and at least 16). group: successive draws that share a source.
    """

    def __init__(
        self,
        seed: int,
        sizes: Mapping[str, int],
        mixture: Mapping[str, float] | None = None,
        block: int = 4096,
        group: int = 1,
    ):
        if not sizes:
            raise DataError("there is no training source to draw from")
        for name, size in sizes.items():
            if size <= 0:
                raise DataError(f"training source '{name}' has no examples")
        mixture = (
            {name: float(size) for name, size in sizes.items()}
            if mixture is None
            else dict(mixture)
        )
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
            raise ConfigError(
                "task.data", "every source has share 0, expected at least one above 0"
            )
        if block < 1:
            raise ValueError(f"block is {block}, expected at least 1")
        if group < 1:
            raise ValueError(f"group is {group}, expected at least 1")
        self.seed, self.names, self.group = seed, tuple(sizes), group
        # in groups; too few of them would round the shares coarsely
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
        """Draws per epoch: as many as there are examples in the sources that are drawn from."""
        return sum(size for size, share in zip(self.sizes, self.shares, strict=True) if share > 0)

    def epoch_of(self, draws_consumed: int) -> float:
        """Epochs after so many draws, for reports: exact for one source, on average over a mixture."""
        return draws_consumed / len(self)

    def _slots(self, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Group numbers -> source position and how many groups of that source came before: int64 [n], int64 [n]."""
        if self._single is not None:
            return np.full_like(groups, self._single), groups.copy()
        block, place = groups // self.block, groups % self.block
        keys = mix_array(self._block_key + (block.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
        place = permute(place, self.block, keys)
        row = block % _PERIOD
        before, after = self._before[row], self._before[row + 1]  # [n, S]
        ends = np.cumsum(after - before, axis=1)
        sources = (ends <= place[:, None]).sum(axis=1)
        at = np.arange(len(groups))
        start = ends[at, sources] - (after - before)[at, sources]
        ordinal = (
            (block // _PERIOD) * self._before[-1][sources] + before[at, sources] + place - start
        )
        return sources.astype(np.int64), ordinal

    def locate(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """draws int64 [n] -> source positions int64 [n], indices in the source int64 [n], epochs int64 [n]."""
        draws = np.asarray(draws, dtype=np.int64)
        if len(draws) and draws.min() < 0:
            raise ValueError("draw numbers are not negative")
        sources, before = self._slots(draws // self.group)
        ordinals = before * self.group + draws % self.group
        sizes = np.array(self.sizes, dtype=np.int64)[sources]
        epochs, positions = ordinals // sizes, ordinals % sizes
        keys = mix_array(self._keys[sources] + (epochs.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
        indices = np.empty_like(positions)
        for source in np.unique(sources):
            of = np.flatnonzero(sources == source)
            indices[of] = permute(positions[of], self.sizes[source], keys[of])
        return sources, indices, epochs

    def drawn(self, draws_consumed: int) -> dict[str, int]:
        """How many of the first `draws_consumed` draws fell on each source."""
        if self._single is not None:
            return {
                name: draws_consumed if i == self._single else 0
                for i, name in enumerate(self.names)
            }
        groups, rest = divmod(draws_consumed, self.group)
        block, place = divmod(groups, self.block)
        counts = (block // _PERIOD) * self._before[-1] + self._before[block % _PERIOD]
        # the groups of the block that is under way, the last of them possibly begun only
        sources, _ = self._slots(np.arange(block * self.block, groups + 1, dtype=np.int64))
        counts = (counts + np.bincount(sources[:place], minlength=len(self.names))) * self.group
        counts[sources[-1]] += rest
        return {name: int(count) for name, count in zip(self.names, counts, strict=True)}
