"""Randomness as a pure function of (seed, purpose, draw, position).

Nothing here holds state, so the same noise falls on the same example whatever the worker count, micro-batch size,
world size or device. `draw` is the index of an example in the run's endless stream of examples; an example that recurs
in a later epoch has a new draw number and so gets new noise. Two uses of the same draw differ by their `purpose`.

The hash is the finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators",
figure 13) applied once per coordinate. Only 64-bit integer arithmetic is used, which wraps identically on every device.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_M1 = 0xBF58476D1CE4E5B9
_M2 = 0x94D049BB133111EB
_WORD = (1 << 64) - 1


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word


def mix(word: int) -> int:
    """SplitMix64's finaliser on a Python integer, the reference for the vectorised one."""
    word &= _WORD
    word = ((word ^ (word >> 30)) * _M1) & _WORD
    word = ((word ^ (word >> 27)) * _M2) & _WORD
    return word ^ (word >> 31)


def fold(seed: int, *purpose: str | int) -> int:
    """A 64-bit word for a seed and a purpose given as strings or integers; stable across versions of Python."""
    text = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _mix_tensor(words: Tensor) -> Tensor:
    # torch's >> on int64 is arithmetic: the mask makes it the logical shift of the unsigned word
    words = (words ^ ((words >> 30) & ((1 << 34) - 1))) * _signed(_M1)
    words = (words ^ ((words >> 27) & ((1 << 37) - 1))) * _signed(_M2)
    return words ^ ((words >> 31) & ((1 << 33) - 1))


def mix_array(words: np.ndarray) -> np.ndarray:
    """The same hash over a numpy uint64 array (used for orders, which never touch a device)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(_M1)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(_M2)
    return words ^ (words >> np.uint64(31))


@dataclass(frozen=True)
class Key:
    """Everything a noiser needs to be random: a word folded from seed and purpose, and the draw numbers [B]."""

    seed: int
    purpose: str
    draws: Tensor

    def child(self, purpose: str) -> Key:
        """An independent key for a second decision about the same examples."""
        return replace(self, purpose=f"{self.purpose}/{purpose}")

    def bits(self, positions: int | Tensor) -> Tensor:
        """63-bit non-negative integers, [B, T] for T positions (an int) or for given position numbers [B, T]."""
        per_draw = _mix_tensor(self.draws * _signed(_GOLDEN) + _signed(fold(self.seed, self.purpose)))
        if isinstance(positions, int):
            positions = torch.arange(positions, device=self.draws.device)
        words = _mix_tensor(per_draw[:, None] + (positions + 1) * _signed(_GOLDEN))
        return words & 0x7FFF_FFFF_FFFF_FFFF

    def uniform(self, positions: int | Tensor) -> Tensor:
        """float64 in [0, 1), 53 random bits each, same shapes as `bits`."""
        return (self.bits(positions) >> 10).double() * 2.0**-53

    def below(self, positions: int | Tensor, bound: int) -> Tensor:
        """int64 in [0, bound), same shapes as `bits`. The modulo's bias is below bound / 2^63."""
        return self.bits(positions) % bound


def exact_share(ratio: float, n: Tensor) -> Tensor:
    """⌈ratio·n⌉ element-wise without floating point, so that 0.1 of 30 is 3 and not 4. n: integers, any shape."""
    share = Fraction(str(ratio))
    return (n * share.numerator + share.denominator - 1) // share.denominator


def choose(key: Key, eligible: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """Exactly ⌈ratio·n⌉ of the n eligible positions of each sequence, uniformly without replacement.

    eligible: bool [B, T]. Returns positions int64 [B, K] in ascending order with K = ⌈ratio·T⌉, and their validity
    bool [B, K]: K depends on T alone, so shapes are static. Invalid slots hold position 0.
    """
    B, T = eligible.shape
    K = int(exact_share(ratio, torch.tensor(T)))
    low = max(T - 1, 1).bit_length()
    where = torch.arange(T, device=eligible.device)
    # the position in the low bits breaks ties, so the choice is a function of integers alone
    ranks = ((key.bits(T) >> low) << low) | where
    ranks = torch.where(eligible, ranks, 0x7FFF_FFFF_FFFF_FFFF)
    smallest = ranks.topk(K, dim=1, largest=False, sorted=True).values  # [B, K]
    valid = torch.arange(K, device=eligible.device) < exact_share(ratio, eligible.sum(1, keepdim=True))  # [B, K]
    positions = torch.where(valid, smallest & ((1 << low) - 1), T)
    positions = positions.sort(dim=1).values  # ascending; invalid slots sort last, so `valid` still lines up
    return torch.where(valid, positions, 0), valid


def invert_cdf(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The index each uniform falls on in a distribution: probabilities [..., V], uniform float64 [...] -> int64 [...].

    The cumulative sum runs in float64: in float32 rounding noise flips samples.
    """
    cumulative = probabilities.double().cumsum(-1)  # [..., V]
    threshold = (uniform.double() * cumulative[..., -1]).unsqueeze(-1)
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(-1).clamp_(max=probabilities.shape[-1] - 1)
