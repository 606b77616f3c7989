"""Saving behind training's back. `start` copies what is to be saved into host memory and returns; a thread writes it,
points `latest` and `best` to what they name, and deletes old checkpoints. One at a time: the next `start` waits for the
one before, so there is one copy, in buffers that are used again."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fwk.engine.saving import checkpoint
from fwk.errors import CheckpointError, RunError


class Saver:
    """folder: the run's. background: False writes before `start` returns, from the tensors themselves. module: whose
    parameters must be finite. written: is told the name of each checkpoint once it is whole."""

    def __init__(
        self,
        folder: Path,
        background: bool,
        keep_last: int,
        module: torch.nn.Module | None = None,
        written: Callable[[str], None] = lambda name: None,
    ):
        self.folder, self.background, self.keep_last, self.module, self.written = (
            folder,
            background,
            keep_last,
            module,
            written,
        )
        self.good: str = ""  # name of the newest checkpoint that is known to be whole
        self.failure: RunError | None = None
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
        """Once this returns, the tensors may change. RunError when this checkpoint or the one before cannot be
        written. state: JSON. best: the best updates, the very best first. milestones: those kept for good."""
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
        """Until nothing is being written. RunError when what was being written could not be."""
        if self._writer is not None:
            self._writer.join(seconds)
        self.check()

    @property
    def busy(self) -> bool:
        """Whether something is being written."""
        return self._writer is not None and self._writer.is_alive()

    def check(self) -> None:
        """RunError when a checkpoint could not be written; does not wait for one that is being written."""
        if self.failure is not None:
            raise self.failure

    def abandon(self) -> None:
        """Like `wait`, when something else has failed already."""
        try:
            self.wait()
        except RunError as error:
            print(f"fwk: {error}", file=sys.stderr)

    def _copy(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        before, self._buffers = self._buffers, {}
        copied: dict[str, dict[str, Tensor]] = {}
        for file, group in tensors.items():
            copied[file] = {}
            for name, value in group.items():
                have = before.pop((file, name), None)
                if have is None or have.shape != value.shape or have.dtype != value.dtype:
                    have = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
                copied[file][name] = self._buffers[file, name] = have.copy_(
                    value.detach(), non_blocking=True
                )
        if any(value.is_cuda for group in tensors.values() for value in group.values()):
            torch.cuda.synchronize()
        return copied

    def _write(
        self,
        update: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: str,
        best: Sequence[int],
        milestones: Sequence[int],
    ) -> None:
        try:
            if self.module is not None and (
                bad := checkpoint.not_finite(tensors["model"], self.module)
            ):
                raise CheckpointError(f"{', '.join(bad[:3])} is not finite")
            newest = checkpoint.write_checkpoint(self.folder, update, tensors, state)
            self.good = newest.name
            self.written(newest.name)
            checkpoint.prune_checkpoints(self.folder, newest, best, milestones, self.keep_last)
        except (OSError, CheckpointError, MemoryError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            good = (
                f"the last good checkpoint is {self.good}, and untouched"
                if self.good
                else "there is no earlier one"
            )
            self.failure = RunError(
                f"cannot write the checkpoint {self.folder / 'checkpoints' / checkpoint.folder_name(update)}: "
                f"{reason}; {good}"
            )
