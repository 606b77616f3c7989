"""Progress on standard error: a rich bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any


class Progress:
    """`with Progress() as progress: progress.stage("reading", total_bytes); progress.advance(n)`."""

    def __init__(self, quiet: bool = False, every: float = 10.0):
        self.quiet, self.every = quiet, every
        self._bar: Any = None
        self._row: Any = None
        self._stage, self._total, self._done, self._began, self._said = "", 0, 0, 0.0, 0.0

    def __enter__(self) -> Progress:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            self._bar = Bars(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def stage(self, name: str, total: float | None = None) -> None:
        self._stage, self._total, self._done = name, total or 0, 0
        self._began = self._said = time.monotonic()
        if self._bar is not None:
            if self._row is not None:
                self._bar.remove_task(self._row)
            self._row = self._bar.add_task(name, total=total)

    def advance(self, amount: float) -> None:
        self._done += amount
        if self._bar is not None:
            self._bar.update(self._row, advance=amount)
        elif not self.quiet and time.monotonic() - self._said >= self.every:
            self._said = time.monotonic()
            share = f" {100 * min(self._done / self._total, 1):.0f}%" if self._total else ""
            print(
                f"fwk: {self._stage}{share} ({self._said - self._began:.0f} s)",
                file=sys.stderr,
                flush=True,
            )

    def say(self, line: str) -> None:
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)
