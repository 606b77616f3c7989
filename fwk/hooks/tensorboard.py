"""RUN/tensorboard: the numbers of `metrics.jsonl` as scalars over updates, named SPLIT/NAME and SPLIT/terms/NAME."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from fwk.components.registry import register
from fwk.contracts.hooks import RunView, hookimpl
from fwk.contracts.options import option
from fwk.contracts.plain import PlainDict, PlainMapping

if TYPE_CHECKING:  # imported with the first number, because it takes over a second
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)

ExceptHook = Callable[[threading.ExceptHookArgs], object]


@register("hook", "tensorboard")
class TensorBoard:
    """The same numbers in RUN/tensorboard."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        flush_seconds: int = option(
            30, "seconds until what was logged is on disk at the latest", low=1, high=86400
        )

    listens_only = True  # a run may resume with it or without it

    def __init__(self, config: Config) -> None:
        self.config = config
        self.writer: SummaryWriter | None = None
        self.purge_step = 1  # hides what a killed process wrote from this update on
        self.failed = False

    @hookimpl
    def fwk_run_begin(self, run: RunView) -> None:
        self.purge_step = run.update + 1

    @hookimpl
    def fwk_logged(self, run: RunView, record: PlainDict) -> None:
        numbers = list(scalars(record))
        if not numbers or self.failed:
            return
        with self._tolerating_errors():
            if self.writer is None:
                self.writer = self._open(Path(run.folder) / "tensorboard")
            for name, value in numbers:
                self.writer.add_scalar(name, value, record["update"])

    @hookimpl
    def fwk_run_end(self) -> None:
        if self.writer is None:
            return
        if not self.failed:
            with self._tolerating_errors():
                self.writer.close()
        self.writer, threading.excepthook = None, self.excepthook

    def _open(self, folder: Path) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter

        self.excepthook: ExceptHook = threading.excepthook
        threading.excepthook = _without_writer_thread(self.excepthook)
        return SummaryWriter(
            str(folder), purge_step=self.purge_step, flush_secs=self.config.flush_seconds
        )

    @contextmanager
    def _tolerating_errors(self) -> Iterator[None]:
        """Log an error of the disk once: the numbers are in metrics.jsonl too, so the run continues."""
        try:
            yield
        except OSError as error:
            self.failed = True
            logger.warning(
                "cannot write tensorboard/: %s; the run continues without it",
                error.strerror or error,
            )


def _without_writer_thread(excepthook: ExceptHook) -> ExceptHook:
    """Return a `threading.excepthook` that ignores the writer's thread, whose errors its methods raise again."""

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if type(arguments.thread).__name__ != "_AsyncWriterThread":
            excepthook(arguments)

    return hook


def scalars(record: PlainMapping) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a record by the names that TensorBoard shows; nothing for an event."""
    if "event" in record or "update" not in record:
        return
    split = record.get("split", "train")
    for name, value in record.items():
        if isinstance(value, Mapping):
            prefix = split if name == "metrics" else f"{split}/{name}"
            for key, number in value.items():
                if _is_number(number):
                    yield f"{prefix}/{key}", number
        elif name != "update" and _is_number(value):
            yield f"{split}/{name}", value


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
