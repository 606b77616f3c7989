"""How signals ask a run to stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: the same command continues the run
EXIT_INTERRUPTED = 130


class StopRequest:
    """Whether SIGTERM, SIGUSR1 or a first Ctrl-C arrived: the trainer then saves and stops after its update."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def ask(self) -> None:
        """Ask the run to stop, as a signal does."""
        self.signal = self.signal or signal.SIGTERM

    @property
    def exit_status(self) -> int:
        """The exit status of a command that stopped for this request."""
        return EXIT_INTERRUPTED if self.signal == signal.SIGINT else EXIT_STOPPED

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Install signal handlers inside the block; a second Ctrl-C interrupts at once.

        Outside of the main thread nothing is installed.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        owner = os.getpid()

        def handle(number: int, frame: object) -> None:
            if os.getpid() != owner:  # a forked data-loading worker: do what it does by default
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
                return
            if number == signal.SIGINT and self.signal is not None:
                raise KeyboardInterrupt
            self.signal = number

        previous = {
            number: signal.signal(number, handle)
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
        }
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
