"""Progress on the terminal: one live line while training, a printed line per evaluation.

Where the output is no terminal, plain lines are printed from time to time instead. Only rank 0 prints.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from fwk.components.registry import register
from fwk.contracts.hooks import hookimpl
from fwk.contracts.options import option
from fwk.contracts.plain import PlainDict
from fwk.engine.run import Run
from fwk.errors import printable
from fwk.hooks.lines import Record, duration, evaluation_line, live_line, skips, training_line
from fwk.hooks.opening import data_line, sizes_line, work_lines

logger = logging.getLogger(__name__)

REDRAW = 0.2  # seconds between two drawings of the live line


class Screen(Console):
    """Standard output. If its reader goes away (`| head`) or its disk is full, the run continues without it."""

    def __init__(self) -> None:
        super().__init__(file=sys.stdout, highlight=False)

    def on_broken_pipe(self) -> None:
        """Discard all further output; the method of rich would end the process."""
        self.quiet = True
        # what is buffered is flushed later, and must go somewhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def print(self, *objects: Any, **options: Any) -> None:  # as in rich
        """Print as rich does. An error of the stream is logged once."""
        try:
            super().print(*objects, **options)
        except OSError as error:
            self.on_broken_pipe()
            logger.warning(
                "cannot write to standard output: %s; the run continues without it", error.strerror
            )


@register("hook", "terminal")
class Terminal:
    """Progress on a terminal, or plain lines where the output is not a terminal."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        plain_every: float = option(
            10.0,
            "seconds between two training lines when the output is not a terminal (0: every logged line)",
            low=0,
        )

    listens_only = True  # a run may resume with it or without it

    def __init__(self, config: Config) -> None:
        self.config = config
        self.console: Console | None = None  # None: another rank prints
        self.live: Live | None = None
        self.record: Record = {}  # the last training record
        self.printed_record: Record = {}  # the last training record that was printed as a line
        self.drawn_at = self.printed_at = -math.inf  # seconds
        self.start = (0.0, 0.0)  # progress and seconds when this process began
        self.phase: str | None = None  # the phase whose work was printed last
        self.flops_per_token: float | None = None  # of training, where they could be counted

    @hookimpl
    def fwk_run_begin(self, run: Run, resumed: bool) -> None:
        if run.rank != 0:
            return
        self.console = Screen()
        self.start = (run.progress, run.seconds)
        state = f", resumed at update {run.update:,}" if resumed else ""
        self._print(f"run {run.folder}{state}")
        self._print(data_line(run))
        self._print(sizes_line(run))
        if run.operations is not None:
            tokens = run.config.train.batch * run.task.length()
            self.flops_per_token = run.operations.update / tokens
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            # No refreshing thread: data-loading workers are forked, and a lock held at that instant would hang them.
            self.live = Live(
                console=self.console, auto_refresh=False, transient=True, vertical_overflow="crop"
            )
            self.live.start()

    @hookimpl
    def fwk_update_begin(self, run: Run) -> None:
        phase = run.phase.name if run.phase else ""
        if self.console is None or phase == self.phase:
            return
        self.phase = phase
        if phase:
            self._print(f"phase '{phase}'")
        for line in work_lines(run):
            self._print(line)

    @hookimpl
    def fwk_update_end(self, run: Run) -> None:
        if time.monotonic() - self.drawn_at >= REDRAW:
            self._draw(run)

    @hookimpl
    def fwk_logged(self, run: Run, record: PlainDict) -> None:
        if self.console is None or "event" in record:
            return
        if record.get("split") != "train":
            self._print(evaluation_line(record))
            return
        if self.flops_per_token and record.get("tokens_per_second"):
            flops = self.flops_per_token * record["tokens_per_second"]
            record = {**record, "flops_per_second": flops}
        self.record = record
        now = time.monotonic()
        if self.live is not None:
            self._draw(run)
        elif now - self.printed_at >= self.config.plain_every:
            self.printed_at, self.printed_record = now, record
            self._print(training_line(record, run.total_updates, self._remaining(run)))

    @hookimpl(tryfirst=True)
    def fwk_exception(self) -> None:
        self._close()  # the message needs a line of its own

    @hookimpl(tryfirst=True)
    def fwk_run_end(self, run: Run, status: str) -> None:
        if self.console is None:
            return
        self._close()
        if self.record and self.record is not self.printed_record:
            self._print(training_line(self.record, run.total_updates, None))
        time_spent = duration(run.seconds)
        self._print(
            f"{status} after update {run.update:,}{skips(run.skipped)}, {time_spent} of training; the run is in "
            f"{run.folder}"
        )

    def _remaining(self, run: Run) -> float | None:
        """Return the seconds to the end at the pace of this process; None while the pace is unknown."""
        done, seconds = run.progress - self.start[0], run.seconds - self.start[1]
        if done <= 0 or seconds <= 0:
            return None
        return seconds / done * (1 - run.progress)

    def _draw(self, run: Run) -> None:
        """Draw the live line, if there is a terminal."""
        if self.live is None or self.console is None:
            return
        self.drawn_at = time.monotonic()
        line = live_line(
            run.update,
            run.total_updates,
            run.progress,
            self.record,
            self._remaining(run),
            self.console.width,
            "#-" if self.console.options.ascii_only else "━─",
        )
        self.live.update(line, refresh=True)

    def _print(self, line: str) -> None:
        assert self.console is not None
        # Text, not markup: a path or a label may hold brackets. Lines in a pipe are not wrapped.
        self.console.print(Text(printable(line)), soft_wrap=not self.console.is_terminal)

    def _close(self) -> None:
        """Remove the live line."""
        if self.live is not None:
            self.live.stop()
            self.live = None
