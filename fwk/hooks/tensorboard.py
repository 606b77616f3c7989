"""RUN/tensorboard: the numbers of `metrics.jsonl` as scalars, named SPLIT/NAME and SPLIT/terms/NAME, over updates."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fwk.components.registry import register
from fwk.contracts.hooks import hookimpl
from fwk.contracts.options import option


@register("hook", "tensorboard")
class TensorBoard:
    """The same numbers in RUN/tensorboard."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        flush_seconds: int = option(
            30, "seconds until what was logged is on disk at the latest", low=1, high=86400
        )

    listens_only = True  # a run is the same run with and without it

    def __init__(self, config: Any):
        self.config = config
        self.writer: Any = None
        self.purge = 1
        self.failed = False

    @hookimpl
    def fwk_run_begin(self, run: Any) -> None:
        self.purge = (
            run.update + 1
        )  # hides what a killed process wrote beyond the state we start from

    @hookimpl
    def fwk_logged(self, run: Any, record: dict[str, Any]) -> None:
        numbers = list(scalars(record))
        if not numbers or self.failed:
            return
        with self._surviving():
            if self.writer is None:
                from torch.utils.tensorboard import (
                    SummaryWriter,
                )  # costs over a second, so only when there is a number

                self.excepthook, threading.excepthook = (
                    threading.excepthook,
                    _quiet(threading.excepthook),
                )
                self.writer = SummaryWriter(
                    str(Path(run.folder) / "tensorboard"),
                    purge_step=self.purge,
                    flush_secs=self.config.flush_seconds,
                )
            for name, value in numbers:
                self.writer.add_scalar(name, value, record["update"])

    @hookimpl
    def fwk_run_end(self) -> None:
        if self.writer is not None and not self.failed:
            with self._surviving():
                self.writer.close()
        if self.writer is not None:
            self.writer, threading.excepthook = None, self.excepthook

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        """The same numbers stand in metrics.jsonl: a run does not end because they cannot be drawn."""
        try:
            yield
        except OSError as error:
            self.failed = True
            warnings.warn(
                f"cannot write tensorboard/: {error.strerror or error}; the run goes on without it",
                stacklevel=1,
            )


def _quiet(fallback: Callable) -> Callable:
    """A `threading.excepthook` that leaves out what the writer's own thread raises: it raises it here again."""
    return lambda arguments: (
        None if type(arguments.thread).__name__ == "_AsyncWriterThread" else fallback(arguments)
    )


def scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a record by the names TensorBoard shows; none for an event."""
    if "event" in record or "update" not in record:
        return
    split = record.get("split", "train")
    for name, value in record.items():
        if name == "metrics":
            yield from (
                (f"{split}/{key}", number) for key, number in value.items() if _is_number(number)
            )
        elif isinstance(value, Mapping):
            yield from (
                (f"{split}/{name}/{key}", number)
                for key, number in value.items()
                if _is_number(number)
            )
        elif name != "update" and _is_number(value):
            yield f"{split}/{name}", value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
