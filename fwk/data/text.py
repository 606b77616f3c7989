"""Text files -> documents, as a stream: bounded memory whatever the size of a file, a line or a document."""

from __future__ import annotations

import glob
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fwk.errors import DataError, did_you_mean

COMPRESSED = (".gz", ".xz", ".zst")
TEXT = (".txt", ".text", ".md", ".rst", ".jsonl", ".ndjson")
LONGEST_LINE = 1 << 18  # characters; a longer line is cut at a blank
LONGEST_DOCUMENT = 1 << 22  # characters; a longer document goes on as a new one
LONGEST_RECORD = 1 << 28  # bytes of one JSON line
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Document:
    """Non-empty lines of one document; `size` counts their characters."""

    lines: tuple[str, ...]
    size: int


def _inner_suffix(name: str) -> str:
    path = Path(name)
    return (Path(path.stem).suffix if path.suffix.lower() in COMPRESSED else path.suffix).lower()


def missing(entry: str) -> DataError:
    """The error for a path that is not there, with the nearest names that are."""
    path = Path(entry)
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        folder, path = folder.parent, path.parent
    there = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    hint = did_you_mean(path.name, there, everything_up_to=0)
    return DataError(
        f"there is no file, folder or glob match for {entry} (looked in {folder}){hint}"
    )


def find_files(entries: Sequence[str]) -> list[str]:
    """Files, globs, directories (searched for text files) and '-' (stdin) -> files, in the order given, sorted inside
    an entry, each once."""
    found: list[str] = []
    for entry in entries:
        entry = str(entry)
        if entry == "-":
            found.append(entry)
            continue
        entry = os.path.expanduser(entry)
        if os.path.isdir(entry):
            inside = sorted(
                os.path.join(folder, name)
                for folder, folders, names in os.walk(entry)
                if not folders.sort()
                and not any(p.startswith(".") for p in Path(folder).relative_to(entry).parts)
                for name in names
                if not name.startswith(".") and _inner_suffix(name) in TEXT
            )
            if not inside:
                raise DataError(
                    f"the folder {entry} holds no text file (looked for {', '.join(TEXT)}, also "
                    f"compressed as {', '.join(COMPRESSED)})"
                )
            for file in inside:
                if not os.path.isfile(file):
                    raise DataError(
                        f"the folder {entry} holds {os.path.relpath(file, entry)}, which is no regular file but a "
                        "pipe, a device or a link to nothing; move it elsewhere, or name the files one by one"
                    )
            found += inside
        elif os.path.isfile(entry):
            found.append(entry)
        elif os.path.exists(entry):
            raise DataError(
                f"{entry} is no regular file but a pipe, a socket or a device, and text is read twice; pipe it "
                "into fwk-preprocess -"
            )
        else:
            globbed = glob.glob(entry, recursive=True) if glob.has_magic(entry) else []
            matches = sorted(match for match in globbed if os.path.isfile(match))
            if not matches:
                raise missing(entry)
            found += matches
    return list(dict.fromkeys(found))


def _open(file: str) -> tuple[BinaryIO, BinaryIO]:
    """The decompressed stream and the raw one under it, whose position tells the progress."""
    if file == "-":
        return sys.stdin.buffer, sys.stdin.buffer
    try:
        raw = open(file, "rb")
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror})") from None
    suffix = Path(file).suffix.lower()
    if suffix == ".gz":
        import gzip

        return gzip.open(raw), raw  # type: ignore[return-value]
    if suffix == ".xz":
        import lzma

        return lzma.open(raw), raw  # type: ignore[return-value]
    if suffix == ".zst":
        try:
            import zstandard
        except ImportError:
            raw.close()
            raise DataError(
                f"reading {file} needs the package 'zstandard'; install it with pip install zstandard"
            ) from None
        return zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True), raw
    return raw, raw


def _read_errors() -> tuple[type[BaseException], ...]:
    import lzma
    import zlib

    errors: tuple[type[BaseException], ...] = (OSError, EOFError, zlib.error, lzma.LZMAError)
    if "zstandard" in sys.modules:
        errors += (sys.modules["zstandard"].ZstdError,)
    return errors


def _short(texts: Sequence[str]) -> Iterator[str]:
    """The texts without blanks around, cut at a blank where they are longer than a line may be; none is empty."""
    for text in texts:
        while len(text) > LONGEST_LINE:
            at = text.rfind(" ", LONGEST_LINE // 2, LONGEST_LINE)
            at = LONGEST_LINE if at < 0 else at
            if piece := text[:at].strip():
                yield piece
            text = text[at:]
        if piece := text.strip():
            yield piece


class Reader:
    """Iterates over the documents of files.

    split: "empty-line" (an empty line ends a document, and so does the end of a file), "line" (each line is one) or
    "file". JSONL files (by suffix, or format="jsonl") hold one document per line, in `field`. `advanced` hears how many
    bytes of the files (as stored) were read.
    """

    def __init__(
        self,
        files: Sequence[str],
        split: str = "empty-line",
        field: str = "text",
        format: str = "auto",
        advanced: Callable[[int], Any] = lambda n: None,
    ):
        self.files, self.split, self.field, self.format, self.advanced = (
            list(files),
            split,
            field,
            format,
            advanced,
        )

    def __iter__(self) -> Iterator[Document]:
        for file in self.files:
            jsonl = self.format == "jsonl" or (
                self.format == "auto" and _inner_suffix(file) in (".jsonl", ".ndjson")
            )
            yield from self._documents(file, jsonl)

    def _documents(self, file: str, jsonl: bool) -> Iterator[Document]:
        shown = "standard input" if file == "-" else file
        lines: list[str] = []
        size = 0
        for texts, ends in self._runs(file, shown, jsonl):
            more = sum(map(len, texts))
            if size + more <= LONGEST_DOCUMENT:
                lines += texts
                size += more
            else:
                for text in texts:
                    if lines and size + len(text) > LONGEST_DOCUMENT:
                        yield Document(tuple(lines), size)
                        lines, size = [], 0
                    lines.append(text)
                    size += len(text)
            if ends and lines:
                yield Document(tuple(lines), size)
                lines, size = [], 0
        if lines:
            yield Document(tuple(lines), size)

    def _runs(self, file: str, shown: str, jsonl: bool) -> Iterator[tuple[Sequence[str], bool]]:
        """Successive lines without blanks around, none of them empty, and whether a document ends with them."""
        by_paragraph = self.split == "empty-line" and not jsonl
        for number, block, whole in self._blocks(file, shown, jsonl):
            paragraphs = block.split("\n\n") if by_paragraph and whole else [block]
            for left, paragraph in zip(range(len(paragraphs) - 1, -1, -1), paragraphs):
                texts = paragraph.split("\n")
                stripped = [text.strip() for text in texts]
                if by_paragraph and all(stripped) and len(paragraph) <= LONGEST_LINE:
                    yield stripped, left > 0  # the usual case, many lines at once
                    continue
                for text, bare in zip(texts, stripped, strict=True):
                    if jsonl and bare:
                        pieces = [*_short(self._record(text, shown, number).split("\n"))]
                    else:
                        pieces = [*_short([text])]
                    yield (
                        pieces,
                        jsonl
                        or whole
                        and (self.split == "line" or self.split == "empty-line" and not bare),
                    )
                    number += 1  # which records alone tell of
                if left:
                    yield (), True

    def _record(self, text: str, shown: str, number: int) -> str:
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{shown}, line {number}: not a JSON object ({str(error)[:80]})"
            ) from None
        if isinstance(record, str):
            return whole(record, shown, number)
        if not isinstance(record, dict):
            raise DataError(
                f"{shown}, line {number}: expected a JSON object with the field '{self.field}'"
            )
        value: Any = record
        for part in self.field.split("."):
            if not isinstance(value, dict) or part not in value:
                raise DataError(
                    f"{shown}, line {number}: there is no field '{self.field}'{did_you_mean(part, record)}"
                )
            value = value[part]
        if not isinstance(value, str):
            raise DataError(
                f"{shown}, line {number}: the field '{self.field}' is {type(value).__name__}, "
                "expected text"
            )
        return whole(value, shown, number).replace("\r\n", "\n")

    def _blocks(self, file: str, shown: str, jsonl: bool) -> Iterator[tuple[int, str, bool]]:
        """(number of its first line, text, True): whole lines, without the end of the last; or (line number, text, False):
        a piece of a line that goes on."""
        stream, raw = _open(file)
        number, held, first, at = 1, b"", True, 0
        longest = LONGEST_RECORD if jsonl else 4 * LONGEST_LINE
        try:
            while True:
                try:
                    chunk = stream.read(_CHUNK)
                except _read_errors() as error:
                    raise DataError(
                        f"{shown} is damaged or not what its name says "
                        f"({' '.join(str(error).split())[:100]})"
                    ) from None
                now = at + len(chunk) if raw is stream else raw.tell()
                self.advanced(now - at)
                at = now
                if first:
                    chunk = chunk.removeprefix(b"\xef\xbb\xbf")
                    if chunk[:2] in (b"\xff\xfe", b"\xfe\xff"):
                        raise DataError(f"{shown}, line 1: the file is UTF-16, expected UTF-8")
                    first = False
                if not chunk:
                    break
                held += chunk
                end = held.rfind(b"\n") + 1
                if end:
                    text = self._decode(held[:end], shown, number)
                    yield number, text[:-1], True
                    number += text.count("\n")
                    held = held[end:]
                if len(held) > longest:
                    if jsonl:
                        raise DataError(
                            f"{shown}, line {number}: one line is longer than {longest >> 20} MiB"
                        )
                    end = held.rfind(b" ") + 1
                    if not end:  # no blank at all: cut between characters
                        end = len(held)
                        while end and held[end - 1] & 0xC0 == 0x80:
                            end -= 1
                        end = max(end - 1, 1)
                    yield number, self._decode(held[:end], shown, number), False
                    held = held[end:]
            if held:
                yield number, self._decode(held, shown, number), True
        finally:
            if file != "-":
                stream.close()
                raw.close()

    @staticmethod
    def _decode(data: bytes, shown: str, number: int) -> str:
        if b"\x00" in data:
            line = number + data[: data.index(b"\x00")].count(b"\n")
            raise DataError(f"{shown}, line {line}: this is not text (it holds a zero byte)")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = number + data[: error.start].count(b"\n")
            raise DataError(
                f"{shown}, line {line}: not UTF-8 (byte 0x{data[error.start]:02x}); convert the file "
                "first, for example with iconv"
            ) from None
        return text.replace("\r\n", "\n")


def whole(text: str, shown: str, number: int) -> str:
    """The text of a record. DataError where an escape of JSON stands for half a character."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{shown}, line {number}: not text (\\u{ord(text[error.start]):04x} is half a character)"
            ) from None
    return text


def numbered_lines(
    file: str, advanced: Callable[[int], Any] = lambda n: None
) -> Iterator[tuple[int, str]]:
    """Every line of a text file (.gz, .xz, .zst; - for standard input) with its number, from 1. `advanced` as in `Reader`."""
    for number, text, _ in Reader([file], advanced=advanced)._blocks(
        file, "standard input" if file == "-" else file, True
    ):
        yield from enumerate(text.split("\n"), start=number)


_END = r"[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])"
_AFTER_STOP, _AFTER_ANY = (
    re.compile(r"\." + _END),
    re.compile(r"[.!?]" + _END),
)  # a single character is found much faster
_ONE_SENTENCE = 40  # characters; a line of fewer is not cut


def sentences(lines: Sequence[str]) -> list[str]:
    """Lines without blanks around, cut after . ! ? before a capital, a digit or a quote; nothing is lost but blanks at
    the cuts."""
    found = []
    for line in lines:
        if len(line) >= _ONE_SENTENCE:
            start = 0
            for match in (_AFTER_ANY if "!" in line or "?" in line else _AFTER_STOP).finditer(line):
                end = match.end()
                found.append(line[start:end].rstrip())
                start = end
            line = line[start:]
        found.append(line)
    return found
