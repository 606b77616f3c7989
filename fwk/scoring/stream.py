"""Texts in, scores out, in the same order and in bounded memory; what was written before an interruption is not done again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fwk.errors import DataError
from fwk.files import write_atomically
from fwk.scoring.scorer import Scored, ScoredText, Scorer

WINDOW, LETTERS = (
    4096,
    1 << 20,
)  # texts that are sorted by length together, and how long they are together at most


def scored(
    scorer: Scorer, texts: Iterable[ScoredText], done: int = 0, window: int = WINDOW, **how: Any
) -> Iterator[tuple[ScoredText, Scored]]:
    """Every text but the first `done` with what is said of it, in order. how: see `Scorer.encode`. Texts share calls with those
    they would have shared them with from the start, so what comes out is the same to the last bit."""
    before = 0
    for some in _windows(texts, window):
        if before + len(some) > done:
            yield from list(zip(some, scorer(some, **how), strict=True))[max(done - before, 0) :]
        before += len(some)


def _windows(texts: Iterable[ScoredText], window: int) -> Iterator[list[ScoredText]]:
    some: list[ScoredText] = []
    letters = 0
    for text in texts:
        if some and (len(some) == window or letters + len(text.text) > LETTERS):
            yield some
            some, letters = [], 0
        some.append(text)
        letters += len(text.text)
    yield some


class Journal:
    """Records, one line of JSON each, in OUTPUT.partial until all are there.

    identity: what the records follow from. A journal of the same identity goes on where it ended (a torn last line is made
    again), any other is thrown away. done: the number of records that were there.
    """

    def __init__(self, output: Path, identity: Mapping[str, Any], overwrite: bool = False):
        if output.is_dir() or not output.name:
            raise DataError(f"{output} is a folder; expected a file's name for --output")
        self.output, self.path = output, output.with_name(output.name + ".partial")
        self.about = output.with_name(output.name + ".partial.json")
        if output.exists() and not overwrite:
            raise DataError(
                f"{output} exists; choose another --output, or give --overwrite to replace it"
            )
        if not output.parent.is_dir():
            raise DataError(f"{output.parent} is not a folder; expected one for {output.name}")
        said = json.dumps(identity, sort_keys=True)
        if not (
            self.path.exists()
            and self.about.exists()
            and self.about.read_text(encoding="utf-8") == said
        ):
            self.path.write_bytes(b"")
            write_atomically(self.about, said.encode())
        self.done = self._whole_lines()
        self._file = open(self.path, "a", encoding="utf-8")

    def _whole_lines(self) -> int:
        lines, end = 0, 0
        with open(self.path, "rb+") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                lines, end = lines + 1, end + len(line)
            file.truncate(end)
        return lines

    def write(self, records: Iterable[Mapping[str, Any]], every: int = WINDOW) -> None:
        for number, record in enumerate(records, start=1):
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            if number % every == 0:
                self._file.flush()
        self._file.flush()
        os.fsync(self._file.fileno())

    def records(self) -> Iterator[dict[str, Any]]:
        with open(self.path, encoding="utf-8") as file:
            yield from map(json.loads, file)

    def close(self) -> None:
        self._file.close()

    def discard(self) -> None:
        """Leaves nothing: what was asked for cannot be done."""
        self.close()
        for path in (self.path, self.about):
            path.unlink(missing_ok=True)

    def finish(self, content: bytes | None = None) -> None:
        """The records, or something made of them, become OUTPUT."""
        self.close()
        if content is None:
            os.replace(self.path, self.output)
        else:
            write_atomically(self.output, content)
            self.path.unlink()
        with suppress(FileNotFoundError):
            self.about.unlink()


def file_identity(path: str) -> list[Any]:
    """A file by name, size and time of its last change; standard input is never the same twice."""
    if path == "-":
        return ["-", os.getpid()]
    about = os.stat(path)
    return [os.path.abspath(path), about.st_size, about.st_mtime_ns]
