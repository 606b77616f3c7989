"""Streams of texts and of their scores, in the same order and in bounded memory.

Scores that were written before an interruption are kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from fwk.contracts.plain import PlainDict, PlainMapping
from fwk.errors import DataError
from fwk.files import write_atomically
from fwk.scoring.scorer import Scored, ScoredText, Scorer

# texts of a window are sorted by length together
WINDOW = 4096  # most texts of a window
CHARACTERS = 1 << 20  # most characters of a window, unless it is a single text


def score_texts(
    scorer: Scorer,
    texts: Iterable[ScoredText],
    done: int = 0,
    window: int = WINDOW,
    cut: bool = False,
    lenient: bool = False,
) -> Iterator[tuple[ScoredText, Scored]]:
    """Yield every text with its score, in order, but for the first `done`. cut, lenient: see `Scorer.encode`.

    Texts share calls with the same texts whatever `done` is, so the scores are the same to the last bit.
    """
    before = 0
    for group in _windows(texts, window):
        if before + len(group) > done:
            scores = scorer(group, cut=cut, lenient=lenient)
            yield from list(zip(group, scores, strict=True))[max(done - before, 0) :]
        before += len(group)


def _windows(texts: Iterable[ScoredText], window: int) -> Iterator[list[ScoredText]]:
    """Yield the texts in groups, the last of which may be empty."""
    group: list[ScoredText] = []
    characters = 0
    for text in texts:
        if group and (len(group) == window or characters + len(text.text) > CHARACTERS):
            yield group
            group, characters = [], 0
        group.append(text)
        characters += len(text.text)
    yield group


class Journal:
    """Records in OUTPUT.partial, one line of JSON each, until all are written.

    identity: everything that determines the records. A journal with the same identity is continued where it ended
    (without a torn last line), any other is discarded. `done` is the number of records that it holds already. Raises
    DataError where `output` cannot be written, or exists and `overwrite` is not given.
    """

    def __init__(self, output: Path, identity: PlainMapping, overwrite: bool = False) -> None:
        if output.is_dir() or not output.name:
            raise DataError(f"{output} is a folder; expected a file's name for --output")
        self.output = output
        self.path = output.with_name(output.name + ".partial")
        self.identity_path = output.with_name(output.name + ".partial.json")
        if output.exists() and not overwrite:
            raise DataError(
                f"{output} exists; choose another --output, or give --overwrite to replace it"
            )
        if not output.parent.is_dir():
            raise DataError(f"{output.parent} is not a folder; expected one for {output.name}")
        text = json.dumps(identity, sort_keys=True)
        if not (self.path.exists() and self._kept_identity() == text):
            self.path.write_bytes(b"")
            write_atomically(self.identity_path, text.encode())
        self.done = self._cut_torn_line()
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  (see `close`)

    def _kept_identity(self) -> str | None:
        if not self.identity_path.exists():
            return None
        return self.identity_path.read_text(encoding="utf-8")

    def _cut_torn_line(self) -> int:
        """Remove a last line that a crash has torn; return the number of lines."""
        lines, end = 0, 0
        with open(self.path, "rb+") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                lines, end = lines + 1, end + len(line)
            file.truncate(end)
        return lines

    def write(self, records: Iterable[PlainMapping], every: int = WINDOW) -> None:
        """Append records, and wait until they are on the disk. every: records between two flushes."""
        for number, record in enumerate(records, start=1):
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            if number % every == 0:
                self._file.flush()
        self._file.flush()
        os.fsync(self._file.fileno())

    def records(self) -> Iterator[PlainDict]:
        """Yield all records."""
        with open(self.path, encoding="utf-8") as file:
            yield from map(json.loads, file)

    def close(self) -> None:
        """Close the file; what it holds can be continued."""
        self._file.close()

    def discard(self) -> None:
        """Remove everything, because the request cannot be fulfilled."""
        self.close()
        for path in (self.path, self.identity_path):
            path.unlink(missing_ok=True)

    def finish(self, content: bytes | None = None) -> None:
        """Turn the records, or `content` made of them, into OUTPUT."""
        self.close()
        if content is None:
            os.replace(self.path, self.output)
        else:
            write_atomically(self.output, content)
            self.path.unlink()
        with suppress(FileNotFoundError):
            self.identity_path.unlink()


def file_identity(path: str) -> list[str | int]:
    """Return name, size and time of the last change of a file; standard input is never the same twice."""
    if path == "-":
        return ["-", os.getpid()]
    status = os.stat(path)
    return [os.path.abspath(path), status.st_size, status.st_mtime_ns]
