"""Data-loading processes: what they are started with, their limits, and how their failures are reported."""

from __future__ import annotations

import os
import resource
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from fwk.contracts.views import Batch
from fwk.errors import DataError, FwkError, RunError, UserError


@dataclass(frozen=True)
class _Failure:
    """An error of ours on its way out of a worker, without the traceback torch would wrap it in. details: what is shown
    above its sentence."""

    message: str
    users: bool
    details: str

    @classmethod
    def from_error(cls, error: FwkError) -> _Failure:
        return cls(str(error), isinstance(error, UserError), getattr(error, "details", ""))

    def throw(self) -> None:
        error = (DataError if self.users else RunError)(self.message)
        error.details = self.details
        raise error


def _load_user_dirs(user_dirs: Sequence[str]) -> None:
    if user_dirs:
        from fwk.components.discovery import load_user_dirs

        load_user_dirs(user_dirs)


class _WorkerStart:
    """What a worker does first."""

    def __init__(self, user_dirs: Sequence[str | Path]):
        self.user_dirs = tuple(map(str, user_dirs))

    def __call__(self, worker: int) -> None:
        import signal

        torch.set_num_threads(1)
        # a Ctrl-C or a scheduler's signal goes to the whole group: the trainer decides when its workers end
        for name in ("SIGINT", "SIGUSR1"):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        # but a second SIGTERM ends a worker that hangs: that is what the loader sends when it gives up on one
        signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))
        _load_user_dirs(self.user_dirs)


_DESCRIPTORS = (
    100  # that a worker may need in this process: its queues, and one for each tensor on its way
)


_SHARED = 1 << 20  # bytes of shared memory without which no worker can hand over anything


def require_worker_limits(workers: int) -> None:
    """RunError where workers could not even begin: what torch does then is to wait for ever, or to end in its threads."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _DESCRIPTORS * (workers + 1)
    if needed > soft != resource.RLIM_INFINITY:
        allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < needed // 2:
            raise RunError(
                f"{workers} data-loading worker{'s' * (workers > 1)} may need {needed} file descriptors, and {allowed} "
                "are allowed; raise the limit (ulimit -n), or lower train.workers"
            )
    if os.path.isdir("/dev/shm") and (free := shutil.disk_usage("/dev/shm").free) < _SHARED:
        raise RunError(
            f"data-loading workers hand batches over in shared memory, and {free / 1e6:.1f} MB of it are free in "
            "/dev/shm; free or enlarge it (docker run --shm-size), or set train.workers=0"
        )


class _StalledWorkers:
    """Ends workers that the training process has waited for too long: one that is stopped, or that hangs in what it
    reads, would keep it in a call without a limit of its own."""

    def __init__(self, batches: Any, seconds: float):
        self.workers, self.seconds = getattr(batches, "_workers", ()), seconds
        self.since: float | None = None
        self.lost = False
        self._over = threading.Event()
        if self.workers and seconds:
            threading.Thread(target=self._look, daemon=True, name="fwk patience").start()

    def __enter__(self) -> None:
        self.since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.since = None

    def _look(self) -> None:
        while not self._over.wait(self.seconds / 20):
            since = self.since
            if since is not None and time.monotonic() - since > self.seconds:
                self.lost = True
                self.kill()
                return

    def kill(self) -> None:
        self._over.set()
        for worker in self.workers:
            if worker.is_alive():
                worker.kill()


def _guarded(loader: DataLoader, what: str, timeout: float) -> Iterator[Batch]:
    """The loader's batches; a worker that is lost or hangs, or an error of ours, becomes one sentence."""
    batches = iter(loader)
    patience = _StalledWorkers(batches, timeout)
    try:
        while True:
            try:
                with patience:
                    item = next(batches)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                # a dead worker shows as torch's RuntimeError, or as a connection to it that broke
                if patience.lost:
                    raise RunError(
                        f"the data-loading workers for {what} gave nothing for {timeout:g} s (train.timeout): one is "
                        "stopped, or what it reads hangs"
                    ) from None
                if not loader.num_workers or not (
                    worker_died(error) or isinstance(error, (ConnectionError, EOFError))
                ):
                    raise
                raise RunError(
                    f"a data-loading worker for {what} died ({' '.join(str(error).split())[:120]}); it may "
                    "have run out of memory or of shared memory: try a smaller train.workers"
                ) from None
            if isinstance(item, _Failure):
                item.throw()
            yield item
    finally:
        shut = getattr(batches, "_shutdown_workers", None)
        if shut is not None:
            try:
                shut()
            except RuntimeError as error:  # torch's handler of SIGCHLD raises wherever we are, here for the second time
                if not worker_died(error):
                    raise
        patience.kill()  # one that is stopped does not hear that it should end


def worker_died(error: BaseException) -> bool:
    """Whether torch says by `error` that a data-loading worker is dead."""
    message = str(error)
    return "DataLoader worker" in message and (
        "exited unexpectedly" in message or "is killed by signal" in message
    )
