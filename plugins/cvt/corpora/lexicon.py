"""The words that have a vector of their own, and their ids."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set

import torch
from torch import Tensor

PAD, UNK = 0, 1
DIGIT = re.compile(r"[0-9]")


def normal(word: str, lower: bool) -> str:
    """Return the form in which a word is looked up: with 0 for every digit."""
    return DIGIT.sub("0", word.lower() if lower else word)


class Lexicon:
    """Words and their ids; `PAD` and `UNK` come first."""

    def __init__(self, words: Sequence[str], lower: bool) -> None:
        self.words, self.lower = list(words), lower
        self._ids = {word: number for number, word in enumerate(self.words)}

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], known: Set[str], lower: bool) -> Lexicon:
        """Return the lexicon of the known words, the most frequent first. counts: occurrences in the training text."""
        return cls(["", "<unk>", *sorted(known, key=lambda word: (-counts[word], word))], lower)

    def id_of(self, word: str) -> int:
        return self._ids.get(normal(word, self.lower), UNK)

    def frequencies(self, counts: Mapping[str, int]) -> Tensor:
        """Return the occurrences of every id, float64 [V]; unknown words count for `UNK`."""
        words = self.words[2:]
        unknown = sum(counts.values()) - sum(counts[word] for word in words)
        return torch.tensor([0, unknown, *(counts[word] for word in words)], dtype=torch.float64)


def count_words(
    sentences: Iterable[Sequence[str]], counted: Iterable[tuple[str, int]], lower: bool
) -> Counter[str]:
    """Return the occurrences of normal forms in sentences and in words that are already counted."""
    counts = Counter(normal(word, lower) for words in sentences for word in words)
    for word, occurrences in counted:
        counts[normal(word, lower)] += occurrences
    return counts
