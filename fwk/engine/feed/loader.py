"""Batches from a task. An item of work is a range of draws, so any worker may make any micro-batch: the batches do not
depend on the number of workers, and nothing here has state worth saving.

Training gets views: what static noisers make of a batch is made here too, beside the training process where there are
workers, and for as many small micro-batches at once as makes the call worth it.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from fwk.contracts.task import Task
from fwk.contracts.views import Batch
from fwk.data.order import Order
from fwk.engine.feed.joined import JoinedViews
from fwk.engine.feed.workers import (
    _Failure,
    _guarded,
    _load_user_dirs,
    _WorkerStart,
    require_worker_limits,
)
from fwk.engine.update import Views
from fwk.errors import CodeFailed, ConfigError, FwkError, PluginError, did_you_mean

_TOGETHER = 32768  # positions that are worked on in one call, where micro-batches are smaller


_AT_MOST = 64  # micro-batches in one call: the first of them waits for all


def share(total: int, parts: int, part: int) -> tuple[int, int]:
    """The bounds of one part of range(total) cut as np.array_split cuts: the first `total % parts` get one more."""
    size, more = divmod(total, parts)
    start = part * size + min(part, more)
    return start, start + size + (part < more)


def micro_batches(batch: int, world_size: int, micro_batch: int | None) -> int:
    """Micro-batches per update, the same on every rank. None stays empty: where ranks differ by one example and
    `micro_batch` is 1, one micro-batch of the longer ranks holds two.
    """
    if batch < world_size:
        raise ConfigError(
            "train.batch",
            f"{batch} sequences do not reach for {world_size} ranks; expected at least "
            f"{world_size}",
        )
    if micro_batch is not None and micro_batch < 1:
        raise ConfigError("train.micro_batch", f"is {micro_batch}, expected at least 1")
    largest, smallest = -(-batch // world_size), batch // world_size
    return min(-(-largest // (micro_batch or largest)), smallest)


class _Examples(Dataset):
    """draws int64 [B] -> Batch; without an order, draws are example numbers over the split's sources end to end."""

    def __init__(
        self, task: Task, split: str, order: Order | None, user_dirs: Sequence[str | Path]
    ):
        self.task, self.split, self.order, self.user_dirs = (
            task,
            split,
            order,
            tuple(map(str, user_dirs)),
        )
        sources = task.sources(split)
        self._sources = list(sources.values())
        self._numbers = source_numbers(
            task, list(sources), split
        )  # int64 [S], what `Batch.source` says of each
        self._ends = np.cumsum([len(source) for source in self._sources])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __reduce__(self) -> Any:
        # a task of a user directory can be rebuilt only once that directory is imported
        return _rebuild, (
            _Examples,
            self.user_dirs,
            pickle.dumps((self.task, self.split, self.order, self.user_dirs)),
        )

    def __getitem__(self, draws: np.ndarray) -> Batch | _Failure:
        try:
            return self.batch(draws)
        except FwkError as error:
            return _Failure.from_error(error)

    def batch(self, draws: np.ndarray) -> Batch:
        """CodeFailed where the task's code raises what is no error of ours."""
        try:
            return self._read(draws)
        except (FwkError, MemoryError):
            raise
        except Exception as error:
            raise CodeFailed(
                f"task {type(self.task).__name__}", error, lambda frame: frame.filename == __file__
            ) from error

    def _read(self, draws: np.ndarray) -> Batch:
        if self.order is not None:
            sources, indices, _ = self.order.locate(draws)
        else:
            sources = np.searchsorted(self._ends, draws, side="right")
            indices = draws - np.concatenate([[0], self._ends])[sources]
        examples: list[Any] = [None] * len(draws)
        for source in np.unique(sources).tolist():
            places = np.flatnonzero(sources == source)
            for place, example in zip(
                places.tolist(), self._sources[source].many(indices[places].tolist()), strict=True
            ):
                examples[place] = example
        return self.task.collate(examples, draws, self._numbers[sources])


class _Views(_Examples):
    """Draws of several successive micro-batches -> their views. make: a batch -> views by name."""

    def __init__(
        self,
        task: Task,
        order: Order,
        user_dirs: Sequence[str | Path],
        make: Callable[[Batch], Views],
    ):
        super().__init__(task, "train", order, user_dirs)
        self.make = make

    def __reduce__(self) -> Any:
        return _rebuild, (
            _Views,
            self.user_dirs,
            pickle.dumps((self.task, self.order, self.user_dirs, self.make)),
        )

    def __getitem__(self, draws: list[np.ndarray]) -> list[JoinedViews | _Failure]:
        try:
            return [JoinedViews.joining(self.make(self.batch(np.concatenate(draws))), draws)]
        except FwkError as error:
            failure = _Failure.from_error(error)
            if len(draws) == 1:
                return [failure]
            parts = [
                made for own in draws for made in self[[own]]
            ]  # each micro-batch fails when it is its turn
            return parts if any(isinstance(part, _Failure) for part in parts) else [failure]


def source_numbers(task: Task, names: Sequence[str], split: str) -> np.ndarray:
    """Positions of the sources of a split in `task.source_names()`, int64. Raises PluginError for one not there."""
    known = task.source_names()
    for name in names:
        if name not in known:
            raise PluginError(
                f"source_names() of task {type(task).__name__} lacks '{name}', a source of split '{split}'"
                f"{did_you_mean(name, known)}"
            )
    return np.array([known.index(name) for name in names], dtype=np.int64)


def _rebuild(cls: type[_Examples], user_dirs: tuple[str, ...], content: bytes) -> _Examples:
    _load_user_dirs(user_dirs)
    return cls(*pickle.loads(content))  # from our own parent process, never from a file


class _TrainDraws:
    """Endless: the draws of this rank's micro-batches, in order."""

    def __init__(self, batch: int, pieces: int, rank: int, world_size: int, start_update: int):
        self.batch, self.pieces, self.rank, self.world_size, self.update = (
            batch,
            pieces,
            rank,
            world_size,
            start_update,
        )

    def __iter__(self) -> Iterator[np.ndarray]:
        update = self.update
        first, last = share(self.batch, self.world_size, self.rank)
        while True:
            for piece in range(self.pieces):
                start, stop = share(last - first, self.pieces, piece)
                base = update * self.batch + first
                yield np.arange(base + start, base + stop, dtype=np.int64)
            update += 1


class _Together:
    """Successive items of an endless iterable, `count` at a time."""

    def __init__(self, items: Iterable[np.ndarray], count: int):
        self.items, self.count = items, count

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        items = iter(self.items)
        while True:
            yield [next(items) for _ in range(self.count)]


class _EvaluationDraws:
    def __init__(self, examples: int, batch: int, rank: int, world_size: int, limit: int):
        self.examples, self.batch, self.rank, self.world_size, self.limit = (
            examples,
            batch,
            rank,
            world_size,
            limit,
        )

    def __iter__(self) -> Iterator[np.ndarray]:
        for step, start in enumerate(range(0, self.examples, self.batch)):
            if self.limit and step >= self.limit:
                return
            size = min(self.batch, self.examples - start)
            first, last = share(size, self.world_size, self.rank)
            if last > first:
                yield np.arange(start + first, start + last, dtype=np.int64)


def _identity(value: Any) -> Any:
    return value


def _loader(
    examples: _Examples, draws: Any, workers: int, pin: bool, start_method: str | None
) -> DataLoader:
    if workers:
        require_worker_limits(workers)
    # a generator of its own: the loader draws a base seed, which must not move torch's global one
    return DataLoader(
        examples,
        sampler=draws,
        batch_size=None,
        collate_fn=_identity,
        num_workers=workers,
        pin_memory=pin and torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=_WorkerStart(examples.user_dirs) if workers else None,
        prefetch_factor=4 if workers else None,
        multiprocessing_context=start_method if workers else None,
    )


def train_views(
    task: Task,
    order: Order,
    make: Callable[[Batch], Views],
    by_row: bool,
    *,
    batch: int,
    micro_batch: int | None,
    rank: int,
    world_size: int,
    workers: int,
    start_update: int,
    device: torch.device,
    user_dirs: Sequence[str | Path] = (),
    start_method: str | None = None,
    timeout: float = 0,
) -> Iterator[list[Views]]:
    """Return an endless iterator over this rank's micro-batches, one list per update from `start_update` on.

    Update u consists of the draws [u*batch, (u+1)*batch); a rank takes a contiguous share of them, cut into the same
    number of micro-batches on every rank. Close the iterator (`.close()`) to end its workers.

    make: returns the views of a batch; they are moved to `device`. by_row: the rows of these views do not depend on
    each other, so several micro-batches may be made in one call where the task agrees. start_method: of the worker
    processes (None: the platform's). timeout: seconds that a worker may take for a batch (0: any number). Raises
    ConfigError at once where the batch is too small for all ranks; the iterator raises DataError and RunError.
    """
    pieces = micro_batches(batch, world_size, micro_batch)
    draws = _TrainDraws(batch, pieces, rank, world_size, start_update)
    positions = -(-batch // (world_size * pieces)) * task.length()
    together = (
        min(_AT_MOST, max(1, _TOGETHER // positions))
        if by_row and task.fixed_shape() and positions
        else 1
    )
    loader = _loader(
        _Views(task, order, user_dirs, make),
        _Together(draws, together),
        workers,
        device.type == "cuda",
        start_method,
    )

    def micros() -> Iterator[Views]:
        for made in _guarded(loader, "training", timeout):
            for part in made:
                if isinstance(part, _Failure):
                    part.throw()
                yield from part.to(device)

    def updates() -> Iterator[list[Views]]:
        views = micros()
        try:
            while True:
                yield [next(views) for _ in range(pieces)]
        finally:
            views.close()

    return updates()


def evaluation_batches(
    task: Task,
    split: str,
    *,
    batch: int,
    rank: int,
    world_size: int,
    workers: int,
    limit_batches: int = 0,
    pin: bool = False,
    user_dirs: Sequence[str | Path] = (),
    start_method: str | None = None,
    timeout: float = 0,
) -> Iterator[Batch]:
    """This rank's part of a split, in order. `batch` counts examples over all ranks; draws are the examples' numbers
    over the sources end to end, and every example comes exactly once over the ranks. In the last step a rank may get
    no example: then nothing is yielded for it, so ranks may differ by one batch. limit_batches: 0 for all.
    """
    if batch < 1:
        raise ConfigError("train.batch", f"is {batch}, expected at least 1")
    examples = _Examples(task, split, None, user_dirs)
    draws = _EvaluationDraws(len(examples), batch, rank, world_size, limit_batches)
    return _guarded(_loader(examples, draws, workers, pin, start_method), split, timeout)
