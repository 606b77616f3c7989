"""Randomness as a pure function of (seed, purpose, draw, position).

Nothing here holds state, so an example gets the same noise whatever the number of workers, micro-batch size, world size
or device. `draw` is the index of an example in the run's endless stream of examples; an example that recurs in a later
epoch has a new draw number and so gets new noise. Two uses of the same draw differ by their `purpose`.

The hash is the finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators",
figure 13) applied once per coordinate. Only 64-bit integer arithmetic is used, which wraps identically on every device.
On the CPU, long arrays are numpy arrays that are changed in place, because numpy multiplies, selects and sorts 64-bit
integers several times faster than torch. On other devices, and where torch.compile traces, torch computes the same
integers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_M1 = 0xBF58476D1CE4E5B9
_M2 = 0x94D049BB133111EB
_WORD = (1 << 64) - 1
_U_GOLDEN, _U_M1, _U_M2 = np.uint64(_GOLDEN), np.uint64(_M1), np.uint64(_M2)
_U1, _U27, _U30, _U31 = np.uint64(1), np.uint64(27), np.uint64(30), np.uint64(31)
_LAST = (1 << 63) - 1  # the largest rank; eligible positions rank before it
_U_LAST = np.uint64(_LAST)
_CACHED = 1 << 14  # words processed at a time, so that they stay in the cache


Integers = TypeVar("Integers", int, Tensor, np.ndarray)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word


def mix(word: int) -> int:
    """Return SplitMix64's finaliser of a Python integer. It is the reference for the vectorised versions."""
    word &= _WORD
    word = ((word ^ (word >> 30)) * _M1) & _WORD
    word = ((word ^ (word >> 27)) * _M2) & _WORD
    return word ^ (word >> 31)


def fold(seed: int, *purpose: str | int) -> int:
    """Return a 64-bit word for a seed and a purpose; stable across versions of Python."""
    text = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _mix_tensor(words: Tensor) -> Tensor:
    # torch shifts int64 arithmetically; the mask makes it the logical shift of the unsigned word
    words = (words ^ ((words >> 30) & ((1 << 34) - 1))) * _signed(_M1)
    words = (words ^ ((words >> 27) & ((1 << 37) - 1))) * _signed(_M2)
    return words ^ ((words >> 31) & ((1 << 33) - 1))


def mix_array(words: np.ndarray) -> np.ndarray:
    """Return `mix` of each element of a uint64 array. Orders use it, which are never on a device."""
    words = (words ^ (words >> _U30)) * _U_M1
    words = (words ^ (words >> _U27)) * _U_M2
    return words ^ (words >> _U31)


def _mix_in_place(words: np.ndarray) -> np.ndarray:
    """Overwrite a C-contiguous uint64 array with its `mix_array`, and return it."""
    flat = words.reshape(-1)
    for start in range(0, len(flat), _CACHED):  # all passes over one piece find it in the cache
        part = flat[start : start + _CACHED]
        shifted = part >> _U30
        part ^= shifted
        part *= _U_M1
        part ^= np.right_shift(part, _U27, out=shifted)
        part *= _U_M2
        part ^= np.right_shift(part, _U31, out=shifted)
    return words


@lru_cache(maxsize=256)
def _word(seed: int, purpose: str) -> int:
    return fold(seed, purpose)


@lru_cache(maxsize=256)
def _steps(T: int) -> np.ndarray:
    """Return the number that each position adds to the word of a draw, uint64 [T]."""
    steps = np.arange(1, T + 1, dtype=np.uint64) * _U_GOLDEN
    steps.flags.writeable = False
    return steps


def _with_numpy(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


@dataclass(frozen=True)
class Key:
    """A source of random numbers for B examples; equal keys give equal numbers."""

    seed: int
    purpose: str
    draws: Tensor  # int64 [B], the draw numbers of the examples

    def child(self, purpose: str) -> Key:
        """Return an independent key, for another decision about the same examples."""
        return replace(self, purpose=f"{self.purpose}/{purpose}")

    def bits(self, positions: int | Tensor) -> Tensor:
        """Return random integers in [0, 2^63), int64 [B, T].

        positions: T, for positions 0 to T - 1; or the position numbers, int64 [B, T].
        """
        if _with_numpy(self.draws):
            return torch.from_numpy(self._words(positions).view(np.int64))
        per_draw = _mix_tensor(
            self.draws * _signed(_GOLDEN) + _signed(_word(self.seed, self.purpose))
        )
        if isinstance(positions, int):
            positions = torch.arange(positions, device=self.draws.device)
        words = _mix_tensor(per_draw[:, None] + (positions + 1) * _signed(_GOLDEN))
        return words & 0x7FFF_FFFF_FFFF_FFFF

    def _words(self, positions: int | Tensor) -> np.ndarray:
        """Return `bits` as a new uint64 array."""
        per_draw = _mix_in_place(
            self.draws.numpy().astype(np.uint64) * _U_GOLDEN
            + np.uint64(_word(self.seed, self.purpose))
        )
        if isinstance(positions, int):
            steps = _steps(positions)
        else:
            steps = positions.numpy().astype(np.int64, copy=False).view(np.uint64) + _U1
            steps *= _U_GOLDEN
        words = _mix_in_place(per_draw[:, None] + steps)
        words &= _U_LAST
        return words

    def uniform(self, positions: int | Tensor) -> Tensor:
        """Return float64 in [0, 1) with 53 random bits each, of the shape of `bits`."""
        return (self.bits(positions) >> 10).double() * 2.0**-53

    def happens(self, positions: int | Tensor, share: float) -> Tensor:
        """Return bool, each True with probability `share`, of the shape of `bits`.

        Thousandths are compared as integers, so the result is the same on every device.
        """
        return self.below(positions, THOUSANDTHS) < round(share * THOUSANDTHS)

    def below(self, positions: int | Tensor, bound: int) -> Tensor:
        """Return int64 in [0, bound), of the shape of `bits`. The bias of the modulo is below bound / 2^63."""
        if _with_numpy(self.draws):
            words = self._words(positions)
            whole = words // np.uint64(bound)
            whole *= np.uint64(bound)
            words -= whole  # numpy divides by a constant faster than it computes a remainder
            return torch.from_numpy(words.view(np.int64))
        return self.bits(positions) % bound


THOUSANDTHS = 1000
_FINEST = 10**12


@lru_cache(maxsize=256)
def _ratio(ratio: float) -> tuple[int, int]:
    # the exact fraction of a float such as 1/3 has sixteen digits, whose product with a length overflows 64 bits; a
    # positive ratio stays positive
    share = Fraction(str(ratio)).limit_denominator(_FINEST)
    share = Fraction(1, _FINEST) if ratio > 0 and not share else share
    return share.numerator, share.denominator


def exact_share(ratio: float, n: Integers) -> Integers:
    """Return ⌈ratio·n⌉ element-wise without floating point, so that 0.1 of 30 is 3 and not 4.

    n: an integer, or a tensor or array of integers, up to 2^22. The ratio is rounded to the nearest fraction with a
    denominator of at most 10^12.
    """
    numerator, denominator = _ratio(ratio)
    return (n * numerator + denominator - 1) // denominator


def choose(key: Key, eligible: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """Return exactly ⌈ratio·n⌉ of the n eligible positions of each sequence, drawn uniformly without replacement.

    eligible: bool [B, T]. The result is positions, int64 [B, K] in ascending order with K = ⌈ratio·T⌉, and
    their validity, bool [B, K]. K depends on T alone, so shapes are static. Invalid slots hold position 0.
    """
    T = eligible.shape[1]
    K = int(exact_share(ratio, T))
    low = max(T - 1, 1).bit_length()
    # the position in the low bits breaks ties, so the choice is a function of integers alone
    if _with_numpy(eligible) and K > 0 and T < 1 << 31:
        chosen = _choose_with_numpy(key, eligible.numpy(), ratio, K)
        if chosen is not None:
            return chosen
    where = torch.arange(T, device=eligible.device)
    ranks = ((key.bits(T) >> low) << low) | where
    ranks = torch.where(eligible, ranks, _LAST)
    smallest = ranks.topk(K, dim=1, largest=False, sorted=True).values  # [B, K]
    valid = torch.arange(K, device=eligible.device) < exact_share(
        ratio, eligible.sum(1, keepdim=True)
    )  # [B, K]
    positions = torch.where(valid, smallest & ((1 << low) - 1), T)
    positions = positions.sort(
        dim=1
    ).values  # ascending; invalid slots sort last, so `valid` still lines up
    return torch.where(valid, positions, 0), valid


def _choose_with_numpy(
    key: Key, eligible: np.ndarray, ratio: float, K: int
) -> tuple[Tensor, Tensor] | None:
    """Return what `choose` does, from the first 32 of the 63 bits, which are sorted several times as fast.

    None where two positions share these bits and only one of them is chosen (one sequence of 512 in ten million).
    """
    B, T = eligible.shape
    words = key._words(T)
    words >>= _U31
    ranks = words.astype(np.uint32)  # [B, T]
    np.copyto(ranks, np.uint32(0xFFFF_FFFF), where=~eligible)
    smallest = np.partition(ranks, K - 1, axis=1)[:, :K]
    smallest.sort(axis=1)
    share = exact_share(ratio, eligible.sum(1, keepdims=True))  # [B, 1]
    valid = np.arange(K) < share  # [B, K]
    last = np.take_along_axis(smallest, np.maximum(share - 1, 0), axis=1)  # [B, 1]
    chosen = np.flatnonzero((ranks <= last) & (share > 0))
    if len(chosen) != share.sum():
        return None
    positions = np.zeros((B, K), dtype=np.int64)
    positions[valid] = chosen % T
    return torch.from_numpy(positions), torch.from_numpy(valid)


def invert_cdf(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Return the index on which each uniform number falls in a distribution, int64 [...].

    probabilities: [..., V]. uniform: float64 [...] in [0, 1). The cumulative sum is taken in float64, because rounding
    in float32 would change samples.
    """
    cumulative = probabilities.double().cumsum(-1)  # [..., V]
    threshold = (uniform.double() * cumulative[..., -1]).unsqueeze(-1)
    return (
        torch.searchsorted(cumulative, threshold, right=True)
        .squeeze(-1)
        .clamp_(max=probabilities.shape[-1] - 1)
    )
