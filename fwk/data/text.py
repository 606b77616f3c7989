"""Readers of text files, which stream documents.

Memory is bounded, however large a file, a line or a document is.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fwk.contracts.json_files import LARGEST, parse_json
from fwk.data.compressed import COMPRESSED, open_bytes, read_errors
from fwk.errors import DataError, did_you_mean
from fwk.files import expand_user

LINES = (".jsonl", ".ndjson")  # JSON lines
TABLES = (".csv", ".tsv")
FORMATS = ("auto", "text", "jsonl")
TEXT = (".txt", ".text", ".md", ".rst", *LINES)
LONGEST_LINE = 1 << 18  # characters; a longer line is cut at a blank
LONGEST_DOCUMENT = 1 << 22  # characters; a longer document continues as a new one
LONGEST_RECORD = 1 << 28  # bytes of one JSON line
_CHUNK = 1 << 20


@dataclass(frozen=True)
class FileKind:
    """The files that are looked for in folders, and what messages say of them."""

    name: str
    suffixes: tuple[str, ...]  # without that of a compression
    remedy: str  # for a pipe or standard input, which can be read only once


TEXT_FILES = FileKind("text file", TEXT, "pipe it into fwk-preprocess -")


@dataclass(frozen=True)
class Document:
    """The text of one document."""

    lines: tuple[str, ...]  # none is empty
    size: int  # characters of all lines


class _Block(NamedTuple):
    """A stretch of a file: whole lines, or a piece of one very long line."""

    number: int  # number of its first line, from 1
    text: str  # without the newline at the end
    whole: bool  # False: a piece of a line that continues in the next block


def inner_suffix(name: str) -> str:
    """Return the lower-case suffix of a file name, without that of a compression."""
    path = Path(name)
    if path.suffix.lower() in COMPRESSED:
        path = Path(path.stem)
    return path.suffix.lower()


def format_of(file: str, name: str) -> str:
    """Return how a file is read by default: "text", or "jsonl" for JSON lines.

    A `.json` is read as JSON lines where its first line is an object of its own, as `datasets` writes it. name: of the
    file in messages. Raises DataError for any other JSON, and for a table (`.csv`, `.tsv`): its markup is no text.
    """
    suffix = inner_suffix(file)
    if suffix in LINES:
        return "jsonl"
    if suffix in TABLES:
        raise DataError(
            f"{name} is a table, of which the commas or tabs would be read as text; write its texts to a .txt or "
            ".jsonl file, or read it as it is with the format 'text' (--format text, task.format=text)"
        )
    if suffix != ".json" or is_json_lines(file):
        return "text" if suffix != ".json" else "jsonl"
    raise DataError(
        f"{name} is one JSON value over several lines, not JSON lines; write one object per line (jq -c '.[]'), or "
        "read it as it is with the format 'text' (--format text, task.format=text)"
    )


def is_json(file: str) -> bool:
    """Return whether a file is JSON by its suffix, which does not tell JSON lines from other JSON."""
    return inner_suffix(file) == ".json"


def is_json_lines(file: str) -> bool:
    """Return whether the first line of a file that is not empty is a JSON object, or a text."""
    for block in Reader([file]).blocks(file, jsonl=True):
        for line in block.text.split("\n"):
            if line.strip():
                try:
                    return isinstance(parse_json(line), (dict, str))
                except ValueError:
                    return False
    return True  # empty: there is no text in it, whatever it is


def path_not_found(entry: str) -> DataError:
    """Return the error for a path that does not exist; it names the nearest paths that do."""
    path = Path(entry)
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        folder, path = folder.parent, path.parent
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    hint = did_you_mean(path.name, names, everything_up_to=0)
    return DataError(
        f"there is no file, folder or glob match for {entry} (looked in {folder}){hint}"
    )


def find_files(entries: Sequence[str], kind: FileKind = TEXT_FILES) -> list[str]:
    """Return the files that `entries` name, each once.

    An entry is a file, a glob, a folder (searched for files of the kind) or '-' (standard input). Entries keep their
    order, and the files of one entry are sorted. Raises DataError where an entry names no readable file.
    """
    files: list[str] = []
    for entry in entries:
        files += _files_of(str(entry), kind)
    return list(dict.fromkeys(files))


def _files_of(entry: str, kind: FileKind) -> list[str]:
    """Return the files that one entry names."""
    if entry == "-":
        return [entry]
    entry = expand_user(entry)
    if os.path.isdir(entry):
        return _files_of_folder(entry, kind)
    if os.path.isfile(entry):
        return [entry]
    if os.path.exists(entry):
        raise DataError(
            f"{entry} is a pipe, a socket or a device, but it is read twice; expected a regular file, or "
            f"{kind.remedy}"
        )
    globbed = glob.glob(entry, recursive=True) if glob.has_magic(entry) else []
    matches = sorted(match for match in globbed if os.path.isfile(match))
    if not matches:
        raise path_not_found(entry)
    return matches


def _files_of_folder(entry: str, kind: FileKind) -> list[str]:
    """Return the files of a kind below a folder, sorted; hidden files and folders are left out."""
    files = []
    for folder, folders, names in os.walk(entry):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and inner_suffix(name) in kind.suffixes:
                files.append(os.path.join(folder, name))
    if not files:
        raise DataError(
            f"the folder {entry} holds no {kind.name} (looked for {', '.join(kind.suffixes)}, also "
            f"compressed as {', '.join(COMPRESSED)})"
        )
    files.sort()
    for file in files:
        if not os.path.isfile(file):
            raise DataError(
                f"the folder {entry} holds {os.path.relpath(file, entry)}, which is a pipe, a device or a broken "
                "link; move it elsewhere, or name the files one by one"
            )
    return files


def _cut_long_lines(texts: Sequence[str]) -> Iterator[str]:
    """Yield the texts stripped of blanks, cut at a blank where they are longer than a line may be; none is empty."""
    for text in texts:
        start = (
            0  # the rest of the text is not copied for each piece: that would take quadratic time
        )
        while len(text) - start > LONGEST_LINE:
            end = text.rfind(" ", start + LONGEST_LINE // 2, start + LONGEST_LINE)
            if end < 0:
                end = start + LONGEST_LINE
            if piece := text[start:end].strip():
                yield piece
            start = end
        if piece := text[start:].strip():
            yield piece


class Reader:
    """An iterable over the documents of files.

    split: what separates documents. "empty-line": an empty line, and the end of a file; "line": each line is a
    document; "file": each file is one. JSONL files (format="jsonl", or "auto" and `format_of`) hold one document per
    line, in `field`. advance: called with the number of bytes read, as stored, after each read. names: names of files
    in messages, where they differ from their paths.

    Raises DataError, with file and line, where the text cannot be used.
    """

    def __init__(
        self,
        files: Sequence[str],
        split: str = "empty-line",
        field: str = "text",
        format: str = "auto",
        advance: Callable[[int], object] = lambda n: None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        self.files = list(files)
        self.split = split
        self.field = field
        self.format = format
        self.advance = advance
        self.names = {"-": "standard input", **(names or {})}

    def __iter__(self) -> Iterator[Document]:
        for file in self.files:
            format = self.format if self.format != "auto" else format_of(file, self._name(file))
            yield from self._documents(file, format == "jsonl")

    def _name(self, file: str) -> str:
        """Return the name of a file in messages."""
        return self.names.get(file, file)

    def _documents(self, file: str, jsonl: bool) -> Iterator[Document]:
        """Yield the documents of one file; one that is too long continues as a new document."""
        lines: list[str] = []
        size = 0
        for texts, ends in self._runs(file, jsonl):
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

    def _runs(self, file: str, jsonl: bool) -> Iterator[tuple[Sequence[str], bool]]:
        """Yield successive lines, stripped and not empty, and whether a document ends with them."""
        by_paragraph = self.split == "empty-line" and not jsonl
        for block in self.blocks(file, jsonl):
            paragraphs = [block.text]
            if by_paragraph and block.whole:
                paragraphs = block.text.split("\n\n")
            for index, paragraph in enumerate(paragraphs):
                ends = index < len(paragraphs) - 1
                texts = paragraph.split("\n")
                stripped = [text.strip() for text in texts]
                if by_paragraph and all(stripped) and len(paragraph) <= LONGEST_LINE:
                    yield stripped, ends  # the usual case: many lines at once
                    continue
                yield from self._single_lines(block, texts, stripped, file, jsonl)
                if ends:
                    yield (), True

    def _single_lines(
        self, block: _Block, texts: Sequence[str], stripped: Sequence[str], file: str, jsonl: bool
    ) -> Iterator[tuple[Sequence[str], bool]]:
        """Yield lines one by one, as `_runs` does."""
        # the number of the line is right for JSONL alone, whose blocks are not split into paragraphs
        for number, (text, bare) in enumerate(zip(texts, stripped, strict=True), block.number):
            if jsonl and bare:
                pieces = self._record(text, file, number).split("\n")
            else:
                pieces = [text]
            ends_line = self.split == "line" or (self.split == "empty-line" and not bare)
            yield [*_cut_long_lines(pieces)], jsonl or (block.whole and ends_line)

    def _record(self, text: str, file: str, number: int) -> str:
        """Return the document in one line of a JSONL file."""
        name = self._name(file)
        try:
            record = parse_json(text)
        except ValueError as error:
            raise DataError(
                f"{name}, line {number}: not a JSON object ({str(error)[:80]})"
            ) from None
        if isinstance(record, str):
            return check_characters(record, name, number)
        if not isinstance(record, dict):
            raise DataError(
                f"{name}, line {number}: expected a JSON object with the field '{self.field}'"
            )
        value: object = record
        for part in self.field.split("."):
            if not isinstance(value, dict) or part not in value:
                raise DataError(
                    f"{name}, line {number}: the record has no field '{self.field}'{did_you_mean(part, record)}"
                )
            value = value[part]
        if not isinstance(value, str):
            raise DataError(
                f"{name}, line {number}: the field '{self.field}' is {type(value).__name__}, expected text"
            )
        return check_characters(value, name, number).replace("\r\n", "\n")

    def blocks(self, file: str, jsonl: bool, zeros: bool = False) -> Iterator[_Block]:
        """Yield a file as blocks of whole lines; a line longer than a document may be comes in pieces.

        zeros: whether the text may hold zero bytes; they raise DataError otherwise.
        """
        name = self._name(file)
        longest = LONGEST_RECORD if jsonl else 4 * LONGEST_LINE
        number, pending = 1, b""
        chunks = _with_newlines(self._chunks(file, name))
        for chunk in _until_line_ends(chunks, longest):
            pending += chunk
            end = pending.rfind(b"\n") + 1
            if end:
                text = _decode(pending[:end], name, number, zeros)
                yield _Block(number, text[:-1], True)
                number += text.count("\n")
                pending = pending[end:]

            if len(pending) > longest:
                if jsonl:
                    raise DataError(
                        f"{name}, line {number}: one line is longer than {longest >> 20} MiB"
                    )
                end = _end_of_piece(pending)
                yield _Block(number, _decode(pending[:end], name, number, zeros), False)
                pending = pending[end:]
        if pending:
            yield _Block(number, _decode(pending, name, number, zeros), True)

    def _chunks(self, file: str, name: str) -> Iterator[bytes]:
        """Yield the decompressed bytes of a file without its byte order mark, and report the progress."""
        stream, raw = open_bytes(file)
        position, first = 0, True
        try:
            while True:
                try:
                    chunk = stream.read(_CHUNK)
                except read_errors() as error:
                    reason = " ".join(str(error).split())[:100]
                    raise DataError(
                        f"{name} is damaged, or its suffix names the wrong format ({reason})"
                    ) from None
                before = position
                position = position + len(chunk) if raw is stream else raw.tell()
                self.advance(position - before)
                if first:
                    chunk = chunk.removeprefix(b"\xef\xbb\xbf")
                    if chunk[:2] in (b"\xff\xfe", b"\xfe\xff"):
                        raise DataError(f"{name}, line 1: the file is UTF-16, expected UTF-8")
                    first = False
                if not chunk:
                    return
                yield chunk
        finally:
            if file != "-":
                stream.close()
                raw.close()


def _with_newlines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the bytes of a file, with newlines for carriage returns where these alone end its lines (old Macintosh)."""
    ends_in_returns: bool | None = None
    for chunk in chunks:
        if ends_in_returns is None:
            ends_in_returns = (
                b"\r" in chunk[:-1] and b"\n" not in chunk
            )  # the last one may be half of \r\n
        yield chunk.replace(b"\r", b"\n") if ends_in_returns else chunk


def _until_line_ends(chunks: Iterable[bytes], longest: int) -> Iterator[bytes]:
    """Yield chunks joined to parts that hold a line end, but for the last one, or are longer than `longest`.

    Chunks within a line are joined once: adding each to those before it would take quadratic time.
    """
    waiting: list[bytes] = []
    size = 0
    for chunk in chunks:
        waiting.append(chunk)
        size += len(chunk)
        if b"\n" in chunk or size > longest:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def _end_of_piece(line: bytes) -> int:
    """Return where to cut a line that is too long: after its last blank, or else between two characters."""
    end = line.rfind(b" ") + 1
    if end:
        return end
    end = len(line)
    while end and line[end - 1] & 0xC0 == 0x80:  # a continuation byte of UTF-8
        end -= 1
    return max(end - 1, 1)


def _decode(data: bytes, name: str, number: int, zeros: bool = False) -> str:
    """Return UTF-8 bytes that begin in line `number` as text with Unix line ends."""
    if b"\x00" in data and not zeros:
        line = number + data[: data.index(b"\x00")].count(b"\n")
        raise DataError(f"{name}, line {line}: this is not text (it holds a zero byte)")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = number + data[: error.start].count(b"\n")
        raise DataError(
            f"{name}, line {line}: not UTF-8 (byte 0x{data[error.start]:02x}); convert the file "
            "first, for example with iconv"
        ) from None
    return text.replace("\r\n", "\n")


def check_characters(text: str, name: str, number: int) -> str:
    """Return the text of a record; raise DataError where a JSON escape leaves half of a surrogate pair."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{name}, line {number}: not text (\\u{ord(text[error.start]):04x} is half a character)"
            ) from None
    return text


def read_text(file: str, largest: int = LARGEST) -> str:
    """Return the whole text of a file, which may be compressed, with Unix line ends.

    Raises DataError where it is larger than `largest` bytes or no text.
    """
    parts: list[bytes] = []
    size = 0
    for chunk in Reader([file])._chunks(file, file):
        parts.append(chunk)
        size += len(chunk)
        if size > largest:
            raise DataError(f"{file} is larger than {largest >> 20} MiB")
    return _decode(b"".join(parts), file, 1)


def numbered_lines(
    file: str, advance: Callable[[int], object] = lambda n: None, zeros: bool = False
) -> Iterator[tuple[int, str]]:
    """Yield every line of a text file, which may be compressed (or - for standard input), with its number, from 1.

    advance: see `Reader`. zeros: see `Reader.blocks`.
    """
    for block in Reader([file], advance=advance).blocks(file, jsonl=True, zeros=zeros):
        yield from enumerate(block.text.split("\n"), start=block.number)


def text_lines(
    file: str, advance: Callable[[int], object] = lambda n: None
) -> Iterator[tuple[int, str]]:
    """Return the lines of a file with one text per line, as `numbered_lines` does.

    Raises DataError for a file whose suffix says that it is JSON or a table: its markup would be read as text.
    """
    suffix = inner_suffix(file)
    if suffix in (*LINES, *TABLES, ".json"):
        raise DataError(
            f"{file} is {'a table' if suffix in TABLES else 'JSON'} by its suffix, of which the markup would be read "
            "as text; expected a text file with one text per line"
        )
    return numbered_lines(file, advance)


_END = r"[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])"
_AFTER_STOP = re.compile(r"\." + _END)  # searching for one character is much faster
_AFTER_ANY = re.compile(r"[.!?]" + _END)
_ONE_SENTENCE = 40  # characters; a shorter line is not cut


def split_sentences(lines: Sequence[str]) -> list[str]:
    """Return stripped lines cut after . ! ? before a capital, a digit or a quote; only blanks at the cuts are lost."""
    sentences = []
    for line in lines:
        if len(line) >= _ONE_SENTENCE:
            pattern = _AFTER_ANY if "!" in line or "?" in line else _AFTER_STOP
            start = 0
            for match in pattern.finditer(line):
                end = match.end()
                sentences.append(line[start:end].rstrip())
                start = end
            line = line[start:]
        sentences.append(line)
    return sentences
