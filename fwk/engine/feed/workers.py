"""Data-loading processes: how they start, their limits, and how their failures are reported."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

import torch
from torch.utils.data import DataLoader

from fwk.components.working_directory import kept_from_children
from fwk.errors import DataError, FwkError, RunError, UserError
from fwk.limits import require_threads

# file descriptors in this process: queues, and one for each tensor in transit
DESCRIPTORS_PER_WORKER = 100
SHARED_MEMORY = "/dev/shm"
LEAST_SHARED_MEMORY = 1 << 20  # bytes; with less, a worker cannot hand over a batch


@dataclass(frozen=True)
class WorkerFailure:
    """An FwkError on its way out of a worker, without the traceback that torch would add to its message."""

    message: str
    is_user_error: bool
    details: str  # shown above the message

    @classmethod
    def from_error(cls, error: FwkError) -> WorkerFailure:
        """Return `error` in a form that can be pickled."""
        return cls(str(error), isinstance(error, UserError), getattr(error, "details", ""))

    def throw(self) -> NoReturn:
        """Raise the error in this process, as DataError where it was the user's and as RunError otherwise."""
        error = DataError(self.message) if self.is_user_error else RunError(self.message)
        error.details = self.details  # type: ignore[union-attr]
        raise error


def load_user_dirs(user_dirs: Sequence[str]) -> None:
    """Import the user's directories, where there are any."""
    if user_dirs:
        from fwk.components import discovery

        discovery.load_user_dirs(user_dirs)


class WorkerStart:
    """The first call in a worker: sets its threads and signal handlers, and imports the user's directories."""

    def __init__(self, user_dirs: Sequence[str | Path]) -> None:
        self.user_dirs = tuple(map(str, user_dirs))

    def __call__(self, worker: int) -> None:
        torch.set_num_threads(1)
        # Ctrl-C and a scheduler's signal reach the whole process group; the trainer decides when its workers end
        for number in (signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        # the first SIGTERM is ignored, a second one ends a worker that hangs: the loader sends it when it gives up
        signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))
        # without a handler Python would print warnings, once per worker; the main process logs them too
        logging.getLogger("fwk").addHandler(logging.NullHandler())
        load_user_dirs(self.user_dirs)


def require_worker_limits(workers: int) -> None:
    """Raise RunError where the system's limits would keep workers from starting.

    torch would then wait without end, or fail in its own threads. Raises the limit of open files where that is
    allowed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = DESCRIPTORS_PER_WORKER * (workers + 1)
    if needed > soft != resource.RLIM_INFINITY:
        allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < needed // 2:
            raise RunError(
                f"{workers} data-loading worker{'s' * (workers > 1)} may need {needed} file descriptors, but only "
                f"{allowed} are allowed; raise the limit (ulimit -n), or lower train.workers"
            )
    # each worker has a thread that hands over what it made
    require_threads(2 * workers + 1, "lower train.workers")
    if not sys.platform.startswith("linux"):
        return  # shared memory is no folder there
    if not os.access(SHARED_MEMORY, os.W_OK | os.X_OK):
        raise RunError(
            f"data-loading workers pass batches through shared memory, but {SHARED_MEMORY} is missing or cannot be "
            "written to; mount it, or set train.workers=0"
        )
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < LEAST_SHARED_MEMORY:
        raise RunError(
            f"data-loading workers pass batches through shared memory, but only {free / 1e6:.1f} MB are free in "
            "/dev/shm; free or enlarge it (docker run --shm-size), or set train.workers=0"
        )


class _StallGuard:
    """Kills the workers when the training process has waited too long for them.

    `DataLoader(timeout=...)` covers a slow worker, but not one that was stopped while it wrote into the pipe: the read
    would then block without a limit.
    """

    def __init__(self, batches: Any, seconds: float) -> None:
        self.workers, self.seconds = getattr(batches, "_workers", ()), seconds
        self.waiting_since: float | None = None
        self.expired = False
        self._closed = threading.Event()
        if self.workers and seconds:
            threading.Thread(target=self._watch, daemon=True, name="fwk stalled workers").start()

    def __enter__(self) -> None:
        self.waiting_since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.waiting_since = None

    def _watch(self) -> None:
        interval, last, resumed = self.seconds / 20, time.monotonic(), 0.0
        while not self._closed.wait(interval):
            now = time.monotonic()
            if now - last > self.seconds / 2:
                resumed = now  # this process was stopped, and its workers most likely with it
            since, last = self.waiting_since, now
            if since is not None and now - max(since, resumed) > self.seconds:
                self.expired = True
                self.kill()
                return

    def kill(self) -> None:
        self._closed.set()
        for worker in self.workers:
            if worker.is_alive():
                worker.kill()


def watched_batches(loader: DataLoader, name: str, timeout: float) -> Generator[Any, None, None]:
    """Yield the loader's items, with one clear error for a worker that died, hangs or reports a failure.

    name: the purpose of the batches, for messages. timeout: seconds to wait for one item; 0: no limit. Raises RunError
    for a lost or stalled worker, and the error that a WorkerFailure carries.
    """
    with kept_from_children():  # the workers start here
        batches = iter(loader)
    guard = _StallGuard(batches, timeout)
    try:
        yield from _checked_items(batches, guard, loader.num_workers, name)
    finally:
        _shut_down(batches)
        guard.kill()  # a stopped worker does not receive the request to end


def _checked_items(
    batches: Iterator[Any], guard: _StallGuard, workers: int, name: str
) -> Iterator[Any]:
    while True:
        try:
            with guard:
                item = next(batches)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            # a dead worker shows as torch's RuntimeError, or as a broken connection to it
            if guard.expired:
                raise RunError(
                    f"the data-loading workers for {name} returned nothing for {guard.seconds:g} s (train.timeout): "
                    "a worker is stopped, or the storage that it reads hangs"
                ) from None
            lost_connection = isinstance(error, (ConnectionError, EOFError))
            if not workers or not (is_worker_death(error) or lost_connection):
                raise
            raise RunError(
                f"a data-loading worker for {name} died ({' '.join(str(error).split())[:120]}); it may "
                "have run out of memory or of shared memory: try a smaller train.workers"
            ) from None
        if isinstance(item, WorkerFailure):
            item.throw()
        yield item


def _shut_down(batches: Any) -> None:
    shut_down_workers = getattr(batches, "_shutdown_workers", None)  # only with workers
    if shut_down_workers is None:
        return
    try:
        shut_down_workers()
    except RuntimeError as error:
        # torch's handler of SIGCHLD raises wherever the main thread is, here for the second time
        if not is_worker_death(error):
            raise


def is_worker_death(error: BaseException | None) -> TypeGuard[RuntimeError]:
    """Return True where torch reports by `error` that a data-loading worker died."""
    message = str(error)
    return (
        isinstance(error, RuntimeError)
        and "DataLoader worker" in message
        and ("exited unexpectedly" in message or "is killed by signal" in message)
    )
