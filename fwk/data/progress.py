"""Progress on standard error: a bar on a terminal, elsewhere a log line from time to time."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # rich is imported when a bar is drawn
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

logger = logging.getLogger(__name__)


class Progress:
    """The progress of a long job, in stages.

    `with Progress() as progress: progress.stage("reading", total_bytes); progress.advance(n)`.

    quiet: show nothing. every: seconds between two log lines where no bar is drawn.
    """

    def __init__(self, quiet: bool = False, every: float = 10.0) -> None:
        self.quiet, self.every = quiet, every
        self._bar: Bar | None = None
        self._row: TaskID | None = None
        self._stage = ""
        self._total = self._done = 0.0  # in units of the stage
        self._began = self._logged = 0.0  # seconds

    def __enter__(self) -> Progress:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def stage(self, name: str, total: float | None = None) -> None:
        """Begin a stage. total: the amount that completes it, where it is known."""
        self._stage, self._total, self._done = name, total or 0, 0
        self._began = self._logged = time.monotonic()
        if self._bar is not None:
            if self._row is not None:
                self._bar.remove_task(self._row)
            self._row = self._bar.add_task(name, total=total)

    def advance(self, amount: float) -> None:
        """Add to the amount done in this stage."""
        self._done += amount
        if self._bar is not None:
            if self._row is not None:
                self._bar.update(self._row, advance=amount)
        elif not self.quiet and time.monotonic() - self._logged >= self.every:
            self._logged = time.monotonic()
            share = f" {100 * min(self._done / self._total, 1):.0f}%" if self._total else ""
            logger.info("%s%s (%.0f s)", self._stage, share, self._logged - self._began)

    def say(self, line: str) -> None:
        """Show a line above the bar, or log it."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            logger.info("%s", line)
