"""Artificial sequences that can be learned, for tests, benchmarks, and trying an objective without data.

The sequences are a pure function of the seed.
Half of the tokens follow from the token before by a fixed table, the other half are uniform; the label of a sequence is
the class of its first word. Two sources (`a`, and `b` if `second_source` is set) differ in their tables.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fwk.components.registry import register
from fwk.contracts.context import Vocabulary
from fwk.contracts.keyed import fold, mix_array
from fwk.contracts.options import option
from fwk.contracts.task import Source, Task
from fwk.contracts.views import Batch
from fwk.errors import ConfigError

PAD, UNK, CLS, SEP, MASK, FIRST = 0, 1, 2, 3, 4, 5

SyntheticExample = tuple[np.ndarray, int]  # the ids of the words, and the class or -1


@register("task", "synthetic")
class Synthetic(Task["Synthetic.Config"]):
    """Random sequences in which half of the tokens follow from the token before; needs no data."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        sequences: int = option(
            512, "training sequences (validation has a quarter as many)", low=1, high=100_000_000
        )
        length: int = option(32, "tokens per sequence with [CLS] and [SEP]", low=4, high=65536)
        shortest: int | None = option(
            None, "lengths vary between this and `length` (default: all of full length)", low=4
        )
        vocabulary: int = option(
            64, "vocabulary size with the five special tokens", low=8, high=10_000_000
        )
        classes: int = option(4, "number of classes of the label", low=2, high=10_000_000)
        labelled: float = option(
            1.0, "share of the sequences that has a label (-1 elsewhere)", low=0, high=1
        )
        second_source: float = option(0.0, "share of draws from a second source", low=0, high=1)

        def __post_init__(self) -> None:
            if self.shortest is not None and self.shortest > self.length:
                raise ConfigError(
                    "task.shortest",
                    f"{self.shortest} is longer than task.length, which is {self.length}",
                )

    def splits(self) -> tuple[str, ...]:
        """Return `train` and `valid`."""
        return ("train", "valid")

    def sources(self, split: str) -> Mapping[str, Source]:
        """Return source `a`, and `b` if `second_source` is set."""
        count = self.config.sequences if split == "train" else max(1, self.config.sequences // 4)
        names = ("a", "b") if self.config.second_source else ("a",)
        return {
            name: _Sequences(self.config, fold(self.seed, "synthetic", split, name), name, count)
            for name in names
        }

    def mixture(self) -> Mapping[str, float]:
        """Return the shares that `second_source` sets."""
        share = self.config.second_source
        return {"a": 1 - share, "b": share} if share else {"a": 1.0}

    def collate(
        self, examples: Sequence[SyntheticExample], draws: np.ndarray, sources: np.ndarray
    ) -> Batch:
        """Return a batch of framed sequences, padded to `length`."""
        T = self.config.length
        lengths = np.array([len(words) for words, _ in examples], dtype=np.int64)[:, None]  # [B, 1]
        positions = np.arange(T)
        ids = np.where(positions == lengths + 1, SEP, PAD)  # [B, T]
        ids[:, 0] = CLS
        is_word = (positions >= 1) & (positions <= lengths)
        ids[is_word] = np.concatenate([words for words, _ in examples])
        tokens = torch.from_numpy(ids)
        return Batch(
            inputs={"tokens": tokens},
            draws=torch.from_numpy(draws),
            mask=tokens != PAD,
            special=(tokens == CLS) | (tokens == SEP),
            source=torch.from_numpy(sources),
            labels={"label": torch.tensor([label for _, label in examples])},
        )

    def fixed_shape(self) -> bool:
        """Return True: all rows have `length` positions."""
        return True

    def vocabulary(self) -> Vocabulary:
        """Return the five special tokens and the words, all equally frequent."""
        return Vocabulary(
            size=self.config.vocabulary,
            pad=PAD,
            unk=UNK,
            cls=CLS,
            sep=SEP,
            mask=MASK,
            special=(PAD, UNK, CLS, SEP, MASK),
            counts=torch.ones(self.config.vocabulary, dtype=torch.float64),
        )

    def length(self) -> int:
        """Return the number of positions of every sequence."""
        return self.config.length

    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """Return the classes of the label `label`."""
        return {"label": tuple(f"class{number}" for number in range(self.config.classes))}

    def fingerprint(self) -> str:
        """Return a hash of options and seed."""
        return hashlib.sha256(repr((self.config, self.seed)).encode()).hexdigest()


class _Sequences(Source):
    """The sequences of one source, each computed when it is read."""

    def __init__(self, config: Synthetic.Config, word: int, name: str, count: int) -> None:
        self.config, self.name, self.count = config, name, count
        self.word = word  # 64 bits, the seed of the source

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> SyntheticExample:
        return self.many([index])[0]

    def many(self, indices: Sequence[int]) -> list[SyntheticExample]:
        """Return B examples; T below is the largest number of words."""
        config, length = self.config, self.config.length
        words = config.vocabulary - FIRST
        noise = self._noise(indices)
        shortest = config.shortest or length
        sizes = (noise[:, -1] % np.uint64(length - shortest + 1)).astype(np.int64) + shortest - 2

        tokens = (noise[:, :length] % np.uint64(words)).astype(np.int64)  # [B, T]
        columns = np.minimum(sizes[:, None] + np.arange(length), 2 * length + 1)
        follows = np.take_along_axis(noise, columns, axis=1) % np.uint64(2) == 0  # [B, T]
        factor = 7 if self.name == "a" else 11  # of the table of successors
        for t in range(1, length):
            successor = (tokens[:, t - 1] * factor + 3) % words
            tokens[:, t] = np.where(follows[:, t], successor, tokens[:, t])

        labelled = noise[:, -2] % np.uint64(1000) < config.labelled * 1000
        labels = np.where(labelled, tokens[:, 0] % config.classes, -1)
        tokens += FIRST
        return [
            (row[:size], label)
            for row, size, label in zip(tokens, sizes.tolist(), labels.tolist(), strict=True)
        ]

    def _noise(self, indices: Sequence[int]) -> np.ndarray:
        """Return random words, uint64 [B, 2 length + 2], a function of the source's seed and the index."""
        numbers = np.array(indices, dtype=np.uint64)
        seeds = numbers * np.uint64(0xD1B54A32D192ED03) + np.uint64(self.word)  # [B]
        columns = np.arange(1, 2 * self.config.length + 3, dtype=np.uint64)
        return mix_array(seeds[:, None] + columns * np.uint64(0x9E3779B97F4A7C15))
