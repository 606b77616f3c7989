"""Examples of a task outside of training, for reports."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from fwk.contracts.task import Source, Task
from fwk.contracts.views import Batch


def documents(task: Task[Any], split: str, limit: float = math.inf) -> Iterator[np.ndarray]:
    """Yield the token ids [T] of each example of a split without padding, up to `limit` tokens."""
    for batch in _batches(task, split, 256):
        assert batch.tokens is not None
        mask = batch.mask
        if mask is None:
            mask = torch.ones_like(batch.tokens, dtype=torch.bool)
        for row, content in zip(batch.tokens.numpy(), mask.numpy(), strict=True):
            if limit <= 0:
                return
            yield row[content]
            limit -= int(content.sum())


def evenly_spread(task: Task[Any], split: str, count: int) -> Batch | None:
    """Return `count` evenly spread examples of the first source of a split; None where it is empty."""
    name, source = next(iter(task.sources(split).items()))
    if not count or not len(source):
        return None
    indices = np.unique(np.linspace(0, len(source) - 1, count).astype(np.int64))
    return _collate(task, source, task.source_names().index(name), indices.tolist())


def _batches(task: Task[Any], split: str, size: int) -> Iterator[Batch]:
    names = task.source_names()
    for name, source in task.sources(split).items():
        number = names.index(name)
        for start in range(0, len(source), size):
            end = min(len(source), start + size)
            yield _collate(task, source, number, range(start, end))


def _collate(task: Task[Any], source: Source, number: int, indices: Sequence[int]) -> Batch:
    """Return examples of one source, whose position in `source_names` is `number`, as a batch."""
    return task.collate(
        [source[index] for index in indices],
        np.asarray(indices, dtype=np.int64),
        np.full(len(indices), number, dtype=np.int64),
    )
