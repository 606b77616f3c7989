"""Batches of a task for training and evaluation.

The way of a training batch: the draws of several micro-batches (draws.py) go to `_JoinedExamples`, in a worker where
there are workers; it reads and collates their examples and applies the static noisers (static.py), all in one call.
`_on_device` moves the result to the device and splits it into micro-batches (joined.py), and `_per_update` groups these
by update.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from fwk.contracts.task import Task
from fwk.contracts.views import Batch
from fwk.data.by_length import similar_lengths
from fwk.data.order import Order
from fwk.engine.feed.draws import (
    EvaluationDraws,
    GroupedDraws,
    TrainingDraws,
    count_micro_batches,
)
from fwk.engine.feed.joined import JoinedViews
from fwk.engine.feed.workers import (
    WorkerFailure,
    WorkerStart,
    is_worker_death,
    load_user_dirs,
    require_worker_limits,
    watched_batches,
)
from fwk.engine.update import Views
from fwk.errors import CodeFailed, ConfigError, FwkError, PluginError, did_you_mean

# small micro-batches are made together until a call has this many positions
POSITIONS_PER_CALL = 32768
# upper bound; the first micro-batch is delayed until all of its call are made
MICRO_BATCHES_PER_CALL = 64

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class FeedSettings:
    """How one rank is fed in training: its share of the batch, and the processes that load it."""

    batch: int  # sequences per update, over all ranks
    micro_batch: int | None = None  # sequences per micro-batch at most; None: no limit
    rank: int = 0
    world_size: int = 1
    workers: int = 0  # data-loading processes; 0: load in this process
    # where the views are wanted
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    user_dirs: Sequence[str | Path] = ()  # imported in each worker before the task is unpickled
    start_method: str | None = None  # of the workers; None: the platform's
    timeout: float = 0.0  # seconds to wait for one item of a worker; 0: no limit


def train_views(
    task: Task,
    order: Order,
    make_views: Callable[[Batch], Views],
    settings: FeedSettings,
    *,
    start_update: int = 0,
    by_row: bool = False,
) -> Generator[list[Views], None, None]:
    """Yield, for each update from `start_update` on, the views of this rank's micro-batches, without end.

    by_row: the rows that `make_views` returns do not depend on each other, so that several micro-batches may be made in
    one call where the task agrees. Close the iterator (`.close()`) to end its workers. Raises ConfigError at once where
    the batch cannot be shared by all ranks, and DataError or RunError while reading.
    """
    micro_batches = count_micro_batches(settings.batch, settings.world_size, settings.micro_batch)
    draws = TrainingDraws(
        batch=settings.batch,
        micro_batches=micro_batches,
        rank=settings.rank,
        world_size=settings.world_size,
        start_update=start_update,
    )
    largest = -(-settings.batch // (settings.world_size * micro_batches))
    per_call = _micro_batches_per_call(task, largest) if by_row else 1
    loader = _make_loader(
        _JoinedExamples(task, order, settings.user_dirs, make_views),
        GroupedDraws(draws, per_call),
        settings.workers,
        pin_memory=settings.device.type == "cuda",
        start_method=settings.start_method,
    )
    return _per_update(_on_device(loader, settings.device, settings.timeout), micro_batches)


def evaluation_batches(
    task: Task,
    split: str,
    *,
    batch: int,
    rank: int,
    world_size: int,
    workers: int = 0,
    limit_batches: int = 0,
) -> Iterator[Batch]:
    """Return this rank's part of a split as batches on the CPU: in order, or by length where the task knows it.

    batch: examples per step, over all ranks. limit_batches: steps at most; 0: all. Draws are the examples' numbers over
    the sources end to end, and every example comes exactly once over the ranks. In the last step a rank may get no
    example and then yields no batch for it, so the ranks' numbers of batches may differ by one.
    """
    if batch < 1:
        raise ConfigError("train.batch", f"is {batch}, expected at least 1")
    examples = _Examples(task, split)
    lengths, order = task.lengths(split), None
    count = min(len(examples), limit_batches * batch) if limit_batches else len(examples)
    if lengths is not None:
        order = similar_lengths(lengths, count)
    draws = EvaluationDraws(
        examples=len(examples),
        batch=batch,
        rank=rank,
        world_size=world_size,
        limit_batches=limit_batches,
        order=order,
    )
    return watched_batches(_make_loader(examples, draws, workers), split, timeout=0)


def _micro_batches_per_call(task: Task, largest: int) -> int:
    """Return how many micro-batches of at most `largest` sequences are made in one call."""
    positions = largest * task.length()
    if not task.fixed_shape() or not positions:
        return 1
    return min(MICRO_BATCHES_PER_CALL, max(1, POSITIONS_PER_CALL // positions))


def _on_device(
    loader: DataLoader, device: torch.device, timeout: float
) -> Generator[Views, None, None]:
    """Yield the views of one micro-batch after another, on `device`."""
    for parts in watched_batches(loader, "training", timeout):
        for part in parts:
            if isinstance(part, WorkerFailure):
                part.throw()
            yield from part.to(device)


def _per_update(
    micro_batches: Generator[T, None, None], count: int
) -> Generator[list[T], None, None]:
    """Yield lists of `count` micro-batches; close `micro_batches` when this generator is closed."""
    try:
        while True:
            yield [next(micro_batches) for _ in range(count)]
    finally:
        micro_batches.close()


class _Examples(Dataset):
    """The examples of a split as a data set that maps draws, int64 [B], to a Batch.

    Without an order, draws are example numbers over the split's sources end to end.
    """

    def __init__(
        self,
        task: Task,
        split: str,
        order: Order | None = None,
        user_dirs: Sequence[str | Path] = (),
    ) -> None:
        self.task, self.split, self.order = task, split, order
        self.user_dirs = tuple(map(str, user_dirs))
        sources = task.sources(split)
        self._sources = list(sources.values())
        self._numbers = source_numbers(task, list(sources), split)  # int64 [S], for `Batch.source`
        self._ends = np.cumsum([len(source) for source in self._sources])  # int64 [S]

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __reduce__(self) -> tuple[object, ...]:
        # a task of a user directory can be unpickled only once that directory is imported
        arguments = pickle.dumps((self.task, self.split, self.order, self.user_dirs))
        return _rebuild, (_Examples, self.user_dirs, arguments)

    def __getitem__(self, draws: np.ndarray) -> Batch | WorkerFailure:
        try:
            return self.collated(draws)
        except FwkError as error:
            return WorkerFailure.from_error(error)

    def collated(self, draws: np.ndarray) -> Batch:
        """Return the batch of `draws`. Raises CodeFailed where the task's code raises anything but an FwkError."""
        try:
            return self._collate(draws)
        except (FwkError, MemoryError):
            raise
        except Exception as error:
            if is_worker_death(error):  # of other batches: raised wherever the main thread is
                raise
            raise CodeFailed(
                f"task {type(self.task).__name__}", error, lambda frame: frame.filename == __file__
            ) from error

    def _collate(self, draws: np.ndarray) -> Batch:
        sources, indices = self._locate(draws)
        examples: list[Any] = [None] * len(draws)
        for source in np.unique(sources).tolist():
            rows = np.flatnonzero(sources == source)
            read = self._sources[source].many(indices[rows].tolist())
            for row, example in zip(rows.tolist(), read, strict=True):
                examples[row] = example
        return self.task.collate(examples, draws, self._numbers[sources])

    def _locate(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return each draw's source and its index in that source, both int64 [B]."""
        if self.order is not None:
            sources, indices, _ = self.order.locate(draws)
            return sources, indices
        sources = np.searchsorted(self._ends, draws, side="right")
        starts = np.concatenate([[0], self._ends])
        return sources, draws - starts[sources]


class _JoinedExamples(_Examples):
    """Maps the draws of several successive micro-batches to their views."""

    def __init__(
        self,
        task: Task,
        order: Order,
        user_dirs: Sequence[str | Path],
        make_views: Callable[[Batch], Views],
    ) -> None:
        super().__init__(task, "train", order, user_dirs)
        self.make_views = make_views

    def __reduce__(self) -> tuple[object, ...]:
        arguments = pickle.dumps((self.task, self.order, self.user_dirs, self.make_views))
        return _rebuild, (_JoinedExamples, self.user_dirs, arguments)

    def __getitem__(self, draws: list[np.ndarray]) -> list[JoinedViews | WorkerFailure]:  # type: ignore[override]
        try:
            views = self.make_views(self.collated(np.concatenate(draws)))
            return [JoinedViews.joining(views, draws)]
        except FwkError as error:
            failure = WorkerFailure.from_error(error)
        if len(draws) == 1:
            return [failure]
        # made one by one, so that the micro-batches before the faulty one are still used
        parts = [part for micro_batch in draws for part in self[[micro_batch]]]
        return parts if any(isinstance(part, WorkerFailure) for part in parts) else [failure]


def source_numbers(task: Task, names: Sequence[str], split: str) -> np.ndarray:
    """Return the positions of a split's sources in `task.source_names()`, int64 [S].

    Raises PluginError for a source that `source_names()` lacks.
    """
    known = task.source_names()
    for name in names:
        if name not in known:
            raise PluginError(
                f"source_names() of task {type(task).__name__} lacks '{name}', a source of split '{split}'"
                f"{did_you_mean(name, known)}"
            )
    return np.array([known.index(name) for name in names], dtype=np.int64)


def _rebuild(cls: type[_Examples], user_dirs: tuple[str, ...], arguments: bytes) -> _Examples:
    load_user_dirs(user_dirs)
    return cls(*pickle.loads(arguments))  # from the parent process, never from a file


def _unchanged(item: T) -> T:
    return item


def _make_loader(
    examples: _Examples,
    draws: Iterable[np.ndarray] | Iterable[list[np.ndarray]],
    workers: int,
    pin_memory: bool = False,
    start_method: str | None = None,
) -> DataLoader:
    if workers:
        require_worker_limits(workers)
    return DataLoader(
        examples,
        sampler=draws,
        batch_size=None,
        collate_fn=_unchanged,
        num_workers=workers,
        pin_memory=pin_memory and torch.cuda.is_available(),
        # the loader draws a base seed: with a separate generator it leaves torch's global one unchanged
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=WorkerStart(examples.user_dirs) if workers else None,
        prefetch_factor=4 if workers else None,
        multiprocessing_context=start_method if workers else None,
    )
