"""Writing checkpoints while training goes on.

`Saver.start` copies what is to be saved into host memory and returns; a thread writes the checkpoint, updates the links
`latest` and `best`, and deletes old checkpoints. One checkpoint is written at a time: the next `start` waits for the
one before, so one copy exists, in buffers that are used again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fwk.engine.saving import checkpoint
from fwk.errors import CheckpointError, RunError

logger = logging.getLogger(__name__)


class Saver:
    """Writes the checkpoints of a run.

    background: write in a thread; False: write before `start` returns, from the tensors themselves. module: a
    checkpoint whose values for its parameters are not finite is refused. written: called with the name of each
    checkpoint once it is complete.
    """

    def __init__(
        self,
        folder: Path,
        background: bool,
        keep_last: int,
        module: torch.nn.Module | None = None,
        written: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.folder, self.background, self.keep_last = folder, background, keep_last
        self.module, self.written = module, written
        self.last_intact = ""  # name of the newest checkpoint that is known to be intact
        self.failure: RunError | None = None
        self._identity = _identity(folder)
        self._buffers: dict[tuple[str, str], Tensor] = {}
        self._writer: threading.Thread | None = None

    def start(
        self,
        update: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: str,
        best: Sequence[int],
        milestones: Sequence[int] = (),
    ) -> None:
        """Start a checkpoint; the tensors may change once this returns.

        state: JSON. best: the best updates, the very best first. milestones: updates kept permanently. Raises RunError
        where this checkpoint or the one before cannot be written.
        """
        self.wait()
        if not self.background:
            self._write(update, tensors, state, best, milestones)
            self.wait()
            return
        self._writer = threading.Thread(
            target=self._write,
            args=(update, self._copy(tensors), state, best, milestones),
            daemon=True,
            name="fwk checkpoint",
        )
        self._writer.start()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until nothing is being written. Raises RunError where a checkpoint could not be written."""
        if self._writer is not None:
            self._writer.join(seconds)
        self.check()

    @property
    def busy(self) -> bool:
        """Return True while a checkpoint is being written."""
        return self._writer is not None and self._writer.is_alive()

    def check(self) -> None:
        """Raise RunError where a checkpoint could not be written; does not wait for the current one."""
        if self.failure is not None:
            raise self.failure

    def abandon(self) -> None:
        """Wait as `wait` does, after the run failed for another reason: an error is logged, not raised."""
        try:
            self.wait()
        except RunError as error:
            logger.error("%s", error)

    def _copy(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """Return copies in host memory, in the buffers of the checkpoint before where they fit."""
        old_buffers, self._buffers = self._buffers, {}
        copies: dict[str, dict[str, Tensor]] = {}
        for file, group in tensors.items():
            copies[file] = {}
            for name, value in group.items():
                buffer = old_buffers.pop((file, name), None)
                if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
                    buffer = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
                buffer.copy_(value.detach(), non_blocking=True)
                copies[file][name] = self._buffers[file, name] = buffer
        if any(value.is_cuda for group in tensors.values() for value in group.values()):
            torch.cuda.synchronize()
        return copies

    def _write(
        self,
        update: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: str,
        best: Sequence[int],
        milestones: Sequence[int],
    ) -> None:
        try:
            if self.module is not None:
                names = checkpoint.not_finite(tensors["model"], self.module)
                if names:
                    raise CheckpointError(f"{', '.join(names[:3])} is not finite")
            if _identity(self.folder) != self._identity:
                raise CheckpointError(
                    "the run's folder was moved or removed while the run trained; move it back, or give the place "
                    "where it is now by --run"
                )
            newest = checkpoint.write_checkpoint(self.folder, update, tensors, state)
            self.last_intact = newest.name
            self.written(newest.name)
        except (OSError, CheckpointError, MemoryError, RuntimeError) as error:
            self.failure = self._explain(update, error)
            return
        try:
            checkpoint.prune_checkpoints(self.folder, newest, best, milestones, self.keep_last)
        except OSError as error:
            self.failure = RunError(
                f"cannot update the links beside {newest}, or remove older checkpoints: {_reason(error)}; "
                "this checkpoint is intact"
            )

    def _explain(self, update: int, error: Exception) -> RunError:
        path = self.folder / "checkpoints" / checkpoint.folder_name(update)
        earlier = (
            f"the last intact checkpoint is {self.last_intact}"
            if self.last_intact
            else "there is no earlier one"
        )
        return RunError(f"cannot write the checkpoint {path}: {_reason(error)}; {earlier}")


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return what tells a folder from another one of the same name, or None where it is missing."""
    try:
        facts = folder.stat()
    except FileNotFoundError:
        return None
    return facts.st_dev, facts.st_ino


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
