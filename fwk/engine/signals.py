"""How signals ask a run to stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_STOPPED = 75  # sysexits' EX_TEMPFAIL: start me again to go on
EXIT_INTERRUPTED = 130


class StopRequest:
    """Set by SIGTERM, SIGUSR1 or the first Ctrl-C; the trainer saves and stops after the update it is in."""

    def __init__(self):
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def ask(self) -> None:
        """As a signal does, from inside."""
        self.signal = self.signal or signal.SIGTERM

    @property
    def exit_status(self) -> int:
        return EXIT_INTERRUPTED if self.signal == signal.SIGINT else EXIT_STOPPED

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Handlers while inside; a second Ctrl-C interrupts at once. Outside the main thread nothing is installed."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        owner = os.getpid()

        def handle(number: int, frame: object) -> None:
            if os.getpid() != owner:  # a forked data-loading worker: the default action
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
