"""What a command writes to standard error besides its own errors: the log of `fwk`, and warnings."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from fwk.errors import printable


def first_rank() -> bool:
    """Return whether this process is alone, or the first one of those that torchrun started."""
    return os.environ.get("RANK", "0") in ("", "0")


def first_rank_of_host() -> bool:
    """Return whether this process is alone, or the first one of those that torchrun started on this host."""
    return os.environ.get("LOCAL_RANK", "0") in ("", "0")


class StderrHandler(logging.StreamHandler[TextIO]):
    """A log handler that prints every message once, however many processes log it.

    The first rank prints everything. Other ranks and the processes that a command forks (to read or tokenize data) do
    the same work in parallel, so they print errors only.
    """

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter("fwk: %(message)s"))
        self.addFilter(self._is_printed)
        self.process = os.getpid()

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text that may be printed."""
        return printable(super().format(record))

    def _is_printed(self, record: logging.LogRecord) -> bool:
        speaks = first_rank() and os.getpid() == self.process
        return speaks or record.levelno >= logging.ERROR

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record on the current standard error, which may have been redirected since the start."""
        self.stream = sys.stderr
        super().emit(record)


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Show the log of `fwk`, notes included, on standard error inside the block."""
    logger, handler = logging.getLogger("fwk"), StderrHandler()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # a handler of the root logger would print everything again
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


@contextmanager
def warnings_in_one_line(name: str) -> Iterator[None]:
    """Show warnings of `fwk` itself as one line of the command `name`, on the first rank; others as Python does."""
    original, process = warnings.showwarning, os.getpid()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if category is not UserWarning or f"{os.sep}fwk{os.sep}" not in filename:
            original(message, category, filename, lineno, file, line)
        elif os.getpid() == process:
            warn(name, str(message))

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = original


def warn(name: str, message: str) -> None:
    """Print a warning of the command `name`, on the first rank only."""
    if first_rank():
        with suppress(OSError):  # a full disk behind standard error must not end the command
            print(f"{name}: warning: {printable(message)}", file=sys.stderr)
