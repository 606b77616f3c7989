"""Programs that the session starts: one at a time with a limit, and in the background to fill the compiler's cache."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

AT_ONCE = 2  # programs that compile at the same time
POLL_SECONDS = 0.1


class Child:
    """A program in a process group of its own, whose output goes to a file."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], output: Path, folder: Path
    ) -> None:
        self.output = output
        with open(output, "wb") as file:  # the program has a copy of the open file
            self.process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=folder,
                start_new_session=True,
            )

    def finish(self, seconds: float) -> int | None:
        """Return the exit status; None where the program took longer, and was ended with all that it started."""
        try:
            return self.process.wait(timeout=max(0.0, seconds))
        except subprocess.TimeoutExpired:
            self.end()
            return None

    def end(self) -> None:
        """End the program and all that it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def text(self) -> str:
        """Return what the program printed."""
        return self.output.read_text(encoding="utf-8", errors="replace")


def last_json(text: str) -> dict[str, Any] | None:
    """Return the last line of a program's output that is a JSON object, or None."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            try:
                return json.loads(line)
            except json.JSONDecodeError:
                continue
    return None


def last_lines(text: str, characters: int = 400) -> str:
    """Return the end of a program's output, for the record of a failure."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-3:])[-characters:] or "no output"


class Background:
    """Runs programs in the background, a few at a time; their output is not read.

    They compile what later measurements compile again, which then find it in the compiler's cache on disk. Measurements
    do not depend on their success.
    """

    def __init__(
        self,
        commands: Iterable[Sequence[str]],
        environment: Mapping[str, str],
        folder: Path,
        root: Path,
    ) -> None:
        self.waiting = [list(command) for command in commands]
        self.environment, self.folder, self.root = environment, folder, root
        self.running: list[Child] = []
        self.started = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="compile beforehand")
        self._thread.start()

    def _run(self) -> None:
        while (self.waiting or self.running) and not self._stopping.is_set():
            self.running = [child for child in self.running if child.process.poll() is None]
            while self.waiting and len(self.running) < AT_ONCE:
                self.started += 1
                output = self.folder / f"background-{self.started}.txt"
                command = self.waiting.pop(0)
                self.running.append(Child(command, self.environment, output, self.root))
            time.sleep(POLL_SECONDS)
        for child in self.running:
            child.end()

    def finish(self, seconds: float) -> bool:
        """Wait for the programs; return whether all of them ended in time. Those that did not are ended."""
        self._thread.join(max(0.0, seconds))
        in_time = not self._thread.is_alive()
        self._stopping.set()
        self._thread.join()
        return in_time
