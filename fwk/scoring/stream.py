"""Streams of texts and of their scores, in the same order and in bounded memory.

Scores that were written before an interruption are kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from fwk.contracts.json_files import parse_json
from fwk.contracts.plain import PlainDict, PlainMapping
from fwk.errors import DataError
from fwk.files.file_system import sync_handle
from fwk.files.kinds import is_own_file, read_object, read_start
from fwk.files.outputs import is_same, open_output
from fwk.files.replacing import remove_file, truncate, write_atomically
from fwk.scoring.scorer import Scored, ScoredText, Scorer

# texts of a window are sorted by length together
WINDOW = 4096  # most texts of a window
CHARACTERS = 1 << 20  # most characters of a window, unless it is a single text
UNFINISHED = "unfinished scores"  # how OUTPUT.partial.json says what it is
OLD_IDENTITY = {"format", "mode", "model", "options"}  # keys of those that say nothing else


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
    (without a torn last line), any other is discarded. `done` is the number of records that it holds already. reads:
    files that the same command reads. Raises UserError where `output` cannot be written, exists and `overwrite` is not
    given, or is being written by another process, and where OUTPUT.partial is not a journal.
    """

    def __init__(
        self,
        output: Path,
        identity: PlainMapping,
        overwrite: bool = False,
        reads: Sequence[Path] = (),
    ) -> None:
        if not output.name:
            raise DataError(f"{output} is a folder; expected a file's name for --output")
        self._stack = ExitStack()
        self.output = self._stack.enter_context(
            open_output("--output", output, reads=reads, overwrite=overwrite)
        )
        try:
            place = self.output.place
            self.path = place.with_name(place.name + ".partial")
            self.identity_path = place.with_name(place.name + ".partial.json")
            self._require_own_files(reads)
            text = json.dumps({"fwk": UNFINISHED, **identity}, sort_keys=True)
            if not (self.path.exists() and read_start(self.identity_path) == text):
                write_atomically(self.identity_path, text.encode())
                write_atomically(self.path, b"")
            self.done = self._cut_torn_line()
            file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  (see `close`)
            self._file = self._stack.enter_context(file)
        except BaseException:
            self._stack.close()
            raise

    def _require_own_files(self, reads: Sequence[Path]) -> None:
        """Raise DataError where one of the files beside the output was not written by an interrupted command."""
        known = read_object(self.identity_path)
        ours = known.get("fwk") == UNFINISHED or known.keys() >= OLD_IDENTITY
        for path in (self.path, self.identity_path):
            if not os.path.lexists(path):
                continue
            is_read = any(is_same(path, other) for other in reads)
            if is_read or not ours or not is_own_file(path):
                raise DataError(
                    f"{path} is not what an interrupted command left, and would be replaced; move it, or choose "
                    "another --output"
                )

    def _cut_torn_line(self) -> int:
        """Remove a last line that a crash has torn; return the number of lines."""
        lines, end = 0, 0
        with open(self.path, "rb+") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                lines, end = lines + 1, end + len(line)
            truncate(file, end)
        return lines

    def write(self, records: Iterable[PlainMapping], every: int = WINDOW) -> None:
        """Append records, and wait until they are on the disk. every: records between two flushes."""
        for number, record in enumerate(records, start=1):
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            if number % every == 0:
                self._file.flush()
        self._file.flush()
        sync_handle(self._file.fileno())

    def records(self) -> Iterator[PlainDict]:
        """Yield all records."""
        with open(self.path, encoding="utf-8") as file:
            yield from map(parse_json, file)

    def close(self) -> None:
        """Close the file and end the lock; what the file holds can be continued."""
        self._stack.close()

    def discard(self) -> None:
        """Remove everything, because the request cannot be fulfilled."""
        for path in (self.path, self.identity_path):
            remove_file(path)
        self.close()

    def finish(self, content: bytes | None = None) -> None:
        """Turn the records, or `content` made of them, into OUTPUT."""
        if content is None:
            self.output.take(self.path)
        else:
            self.output.write(content)
            remove_file(self.path)
        remove_file(self.identity_path)
        self.close()


def file_identity(path: str) -> list[str | int]:
    """Return name, size and time of the last change of a file; standard input is never the same twice."""
    if path == "-":
        return ["-", os.getpid()]
    status = os.stat(path)
    return [os.path.abspath(path), status.st_size, status.st_mtime_ns]
