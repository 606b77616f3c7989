"""Made-up sequences with something to learn in them, a pure function of the seed: for tests, benchmarks, and trying an
objective without data.

Half of the tokens follow from the one before (a fixed random successor table), the other half are uniform; the label of
a sequence is the class of its first word. Two sources (`a`, and `b` if `second_source` is set) differ in their tables.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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


@register("task", "synthetic")
class Synthetic(Task["Synthetic.Config"]):
    """Random sequences in which half of the tokens follow from the one before; no data needed."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        sequences: int = option(512, "training sequences (validation has a quarter as many)", low=1)
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
        return ("train", "valid")

    def sources(self, split: str) -> Mapping[str, Source]:
        count = self.config.sequences if split == "train" else max(1, self.config.sequences // 4)
        names = ("a", "b") if self.config.second_source else ("a",)
        return {
            name: _Sequences(self.config, fold(self.seed, "synthetic", split, name), name, count)
            for name in names
        }

    def mixture(self) -> Mapping[str, float]:
        share = self.config.second_source
        return {"a": 1 - share, "b": share} if share else {"a": 1.0}

    def collate(self, examples: Sequence[Any], draws: np.ndarray, sources: np.ndarray) -> Batch:
        T = self.config.length
        lengths = np.array([len(words) for words, _ in examples], dtype=np.int64)[:, None]  # [B, 1]
        where = np.arange(T)
        tokens = np.where(where == lengths + 1, SEP, PAD)  # [B, T]
        tokens[:, 0] = CLS
        tokens[(where >= 1) & (where <= lengths)] = np.concatenate([words for words, _ in examples])
        tokens = torch.from_numpy(tokens)
        return Batch(
            inputs={"tokens": tokens},
            draws=torch.from_numpy(draws),
            mask=tokens != PAD,
            special=(tokens == CLS) | (tokens == SEP),
            source=torch.from_numpy(sources),
            labels={"label": torch.tensor([label for _, label in examples])},
        )

    def fixed_shape(self) -> bool:
        return True

    def vocabulary(self) -> Vocabulary:
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
        return self.config.length

    def labels(self) -> Mapping[str, tuple[str, ...]]:
        return {"label": tuple(f"class{number}" for number in range(self.config.classes))}

    def fingerprint(self) -> str:
        return hashlib.sha256(repr((self.config, self.seed)).encode()).hexdigest()


class _Sequences(Source):
    def __init__(self, config: Synthetic.Config, word: int, name: str, count: int) -> None:
        self.config, self.word, self.name, self.count = config, word, name, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.many([index])[0]

    def many(self, indices: Sequence[int]) -> list[tuple[np.ndarray, int]]:
        config, length = self.config, self.config.length
        words = config.vocabulary - FIRST
        seeds = np.array(indices, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03) + np.uint64(
            self.word
        )  # [B]
        steps = np.arange(1, 2 * length + 3, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        noise = mix_array(seeds[:, None] + steps)  # [B, 2 length + 2]
        shortest = config.shortest or length
        n = shortest + (noise[:, -1] % np.uint64(length - shortest + 1)).astype(np.int64) - 2  # [B]
        tokens = (noise[:, :length] % np.uint64(words)).astype(np.int64)  # [B, T]
        where = np.minimum(n[:, None] + np.arange(length), 2 * length + 1)
        follow = np.take_along_axis(noise, where, axis=1) % np.uint64(2) == 0  # [B, T]
        salt = 7 if self.name == "a" else 11
        for t in range(1, length):
            tokens[:, t] = np.where(
                follow[:, t], (tokens[:, t - 1] * salt + 3) % words, tokens[:, t]
            )
        labelled = noise[:, -2] % np.uint64(1000) < config.labelled * 1000
        labels = np.where(labelled, tokens[:, 0] % config.classes, -1)
        tokens += FIRST
        return [
            (row[:size], label)
            for row, size, label in zip(tokens, n.tolist(), labels.tolist(), strict=True)
        ]
