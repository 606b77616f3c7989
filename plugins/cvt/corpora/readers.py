"""Annotated and plain sentences from files, and files that the official scorers read.

Files are UTF-8, as they are or compressed (.gz, .xz, .zst). A `DataError` begins with file:line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TextIO

import numpy as np

from fwk.data.store import Store
from fwk.data.text import numbered_lines, path_not_found
from fwk.errors import ConfigError, DataError, did_you_mean

CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
KEPT = ("form", "lemma", "upos", "xpos", "feats", "deprel")
MULTIWORD = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")  # its id: 3-4
EMPTY = re.compile(r"[0-9]+\.[0-9]+")  # the id of an empty node: 8.1
BLANKS = " \t"  # what parts columns: a no-break space is part of a word
DOCUMENT = "-DOCSTART-"

Line = tuple[int, str]  # its number in the file, from 1
Row = tuple[int, list[str]]  # the line's number, its fields


@dataclass(frozen=True)
class Sentence:
    """columns: by name, one value a word. heads: numbers of words, from 1, or 0 for ROOT; where trees were asked for, one with one root.
    place: file:line of the first word. joined: multiword tokens, as the first word (from 1), the last one and how it is written."""

    words: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    heads: tuple[int, ...] | None = None
    place: str = ""
    joined: tuple[tuple[int, int, str], ...] = ()


def fault(heads: Sequence[int]) -> tuple[int, str] | None:
    """The word (from 1) at which heads within 0..n are no tree with one root, and how; None where they are one."""
    roots = [word for word, head in enumerate(heads, start=1) if head == 0]
    if len(roots) > 1:
        return roots[1], f"hangs from ROOT (0), as word {roots[0]} does; expected one root"
    attached = {0}
    for word in range(1, len(heads) + 1):
        walk: dict[int, None] = {}  # in the order of the steps
        while word not in attached and word not in walk:
            walk[word] = None
            word = heads[word - 1]
        if word in walk:
            cycle = [*walk][[*walk].index(word) :]
            return (
                word,
                f"hangs from itself ({' -> '.join(map(str, [*cycle, word]))}); expected a tree",
            )
        attached.update(walk)
    return None


def read_conllu(path: str | os.PathLike[str], trees: bool = True) -> Iterator[Sentence]:
    """Sentences of a CoNLL-U file, with the columns `KEPT`. Of multiword tokens the form alone is kept; empty nodes and comments are
    left out. heads is None where no word of the sentence has one (all are _). trees: they must make a tree with one root."""
    for block in _blocks(path, _is_blank, lambda line: line.startswith("#")):
        everything = [
            row for row in _rows(path, block, len(CONLLU), "\t") if not EMPTY.fullmatch(row[1][0])
        ]
        rows = [row for row in everything if not MULTIWORD.fullmatch(row[1][0])]
        for expected, (number, fields) in enumerate(rows, start=1):
            if fields[0] != str(expected):
                raise DataError(
                    f"{path}:{number}: the word's id is '{fields[0]}', expected {expected}"
                )
            if "" in fields:
                raise DataError(
                    f"{path}:{number}: the column {CONLLU[fields.index('')]} is empty, expected _ or a value"
                )
        if rows:
            values = dict(zip(CONLLU, zip(*(fields for _, fields in rows))))
            unknown = set(values["head"]) == {"_"}
            yield Sentence(
                values["form"],
                {name: values[name] for name in KEPT},
                None if unknown else _heads(path, rows, values["head"], trees),
                f"{path}:{rows[0][0]}",
                _joined(path, everything),
            )


def _joined(path: str | os.PathLike[str], rows: Sequence[Row]) -> tuple[tuple[int, int, str], ...]:
    """The multiword tokens among the rows of a sentence; DataError for one that does not stand before its first word, or overlaps."""
    found: list[tuple[int, int, str]] = []
    words = sum(not MULTIWORD.fullmatch(fields[0]) for _, fields in rows)
    before = 0
    for number, (id, form, *_) in rows:
        if not (range_ := MULTIWORD.fullmatch(id)):
            before += 1
            continue
        first, last = map(int, range_.groups())
        if first != before + 1 or not first < last <= words or found and found[-1][1] >= first:
            raise DataError(
                f"{path}:{number}: the multiword token's id is '{id}', expected {before + 1}-LAST, LAST being a later one of the "
                f"sentence's {words} words, and the words of no other token"
            )
        found.append((first, last, form))
    return tuple(found)


def read_columns(
    path: str | os.PathLike[str],
    columns: Sequence[str],
    separator: str | None = None,
    trees: bool = True,
) -> Iterator[Sentence]:
    """Sentences of a file with one word a line and a blank line after each sentence.

    columns: a name for each column, _ where it is not wanted; "word" must be one of them, and "head", if there, becomes `heads`.
    separator: None for any run of spaces and tabs. With "\\t" a word may hold spaces, or be empty; a line of nothing but spaces
    and tabs still ends a sentence (WNUT-17 has such). Lines that begin with -DOCSTART- are no sentence. trees: as in `read_conllu`.
    """
    names = [name for name in columns if name != "_"]
    if "word" not in names:
        raise ConfigError(
            "columns",
            f"none of {', '.join(columns) or 'no columns'} is the word; call one of them 'word'",
        )
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(
            "columns", f"two columns are called '{twice}'; those that are not wanted are called _"
        )
    if separator == "":
        raise ConfigError(
            "separator", "is empty; expected null (any run of spaces and tabs) or a character"
        )
    return _column_sentences(path, columns, separator, trees)


def _column_sentences(
    path: str | os.PathLike[str], columns: Sequence[str], separator: str | None, trees: bool
) -> Iterator[Sentence]:
    for block in _blocks(path, lambda line: _is_blank(line) or _is_document(line)):
        rows = _rows(path, block, len(columns), separator, columns)
        for number, fields in rows:
            for name, value in zip(columns, fields):
                if not value and name not in ("word", "_"):
                    raise DataError(f"{path}:{number}: the column {name} is empty")
        values = {
            name: column
            for name, column in zip(columns, zip(*(fields for _, fields in rows)))
            if name != "_"
        }
        heads = _heads(path, rows, values.pop("head"), trees) if "head" in values else None
        yield Sentence(values["word"], values, heads, f"{path}:{rows[0][0]}")


def read_plain(path: str | os.PathLike[str]) -> Iterator[Sentence]:
    """One sentence a line, its words parted by blanks; empty lines are none."""
    for number, line in _lines(path):
        if words := tuple(line.split()):
            yield Sentence(words, place=f"{path}:{number}")


def read_store(folder: str | os.PathLike[str]) -> Iterator[Sentence]:
    """Sentences of a token store's training split (fwk-preprocess), decoded by its tokenizer, their words parted by blanks.

    The text is as the tokenizer has it: normalised (NFKC), and in lower case where it was told so. Sentences with a character
    that it did not know are left out. DataError where it does not keep which words are parted by blanks (WordPiece).
    """
    store = Store(folder)
    tokenizer, split = store.tokenizer(), store.split("train")
    if tokenizer.encode("a .") == tokenizer.encode("a."):
        raise DataError(
            f"the tokenizer of the token store {folder} forgets where blanks are (WordPiece does), so its words cannot be read back; "
            "expected a store of the kind unigram, bpe or byte_bpe, or text files"
        )
    for document in range(split.documents):
        tokens = split.document(document)
        for part in np.split(tokens, split.sentence_starts(document)[1:]):
            if tokenizer.unk not in part and (words := tuple(tokenizer.decode(part).split())):
                yield Sentence(words, place=f"{folder}, document {document + 1}")


def is_lower(folder: str | os.PathLike[str]) -> bool:
    """Whether the text of a token store is in lower case."""
    encode = Store(folder).tokenizer().encode
    return all(encode(letter) == encode(letter.lower()) for letter in "AEN")


def write_conllu(sentences: Iterable[Sentence], out: TextIO) -> None:
    """What is unknown is _. Multiword tokens are written before their words: scorers align by the characters of the tokens."""
    for sentence in sentences:
        columns = {
            "id": range(1, len(sentence.words) + 1),
            **sentence.columns,
            "form": sentence.words,
        }
        if sentence.heads is not None:
            columns["head"] = sentence.heads
        before = {
            first: "\t".join([f"{first}-{last}", form, *["_"] * (len(CONLLU) - 2)])
            for first, last, form in sentence.joined
        }
        _write(
            sentence,
            [columns.get(name, ("_",) * len(sentence.words)) for name in CONLLU],
            "\t",
            out,
            before,
        )


def write_columns(
    sentences: Iterable[Sentence], columns: Sequence[str], out: TextIO, separator: str = " "
) -> None:
    """One word a line, a blank line after each sentence. conlleval reads the word first, gold and predicted tags last."""
    for sentence in sentences:
        there = {**sentence.columns, "word": sentence.words} | (
            {} if sentence.heads is None else {"head": sentence.heads}
        )
        for name in columns:
            if name not in there:
                raise ConfigError(
                    "columns",
                    f"the sentence at {sentence.place} has no column '{name}'{did_you_mean(name, there)}",
                )
        _write(sentence, [there[name] for name in columns], separator, out)


def _write(
    sentence: Sentence,
    columns: Sequence[Sequence[object]],
    separator: str,
    out: TextIO,
    before: Mapping[int, str] = {},
) -> None:
    """before: lines that stand before words, by the number of the word."""
    lines = []
    for word, values in enumerate(zip(*columns, strict=True), start=1):
        values = [str(value) for value in values]
        line = separator.join(values)
        # what would be read as something else
        if (
            _split(line, None if separator == " " else separator) != values
            or "\n" in line
            or line.endswith("\r")
            or _is_blank(line)
            or _is_document(line)
        ):
            raise DataError(
                f"{sentence.place}: word {word}, {values}, cannot be written in columns parted by {separator!r}"
            )
        lines.extend(f"{one}\n" for one in (before.get(word), line) if one is not None)
    out.write("".join(lines) + "\n")


def _lines(path: str | os.PathLike[str]) -> Iterator[Line]:
    if not os.path.exists(path):
        raise path_not_found(str(path))
    return numbered_lines(str(path))


def _is_blank(line: str) -> bool:
    return not line.strip(BLANKS)


def _is_document(line: str) -> bool:
    return line.lstrip(BLANKS).startswith(DOCUMENT)


def _split(line: str, separator: str | None) -> list[str]:
    return line.split(separator) if separator else re.findall(rf"[^{BLANKS}]+", line)


def _blocks(
    path: str | os.PathLike[str],
    divides: Callable[[str], bool],
    left_out: Callable[[str], bool] = lambda line: False,
) -> Iterator[list[Line]]:
    """The lines between those that divide; none is empty."""
    block: list[Line] = []
    for number, line in _lines(path):
        if not divides(line):
            if not left_out(line):
                block.append((number, line))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _rows(
    path: str | os.PathLike[str],
    block: Sequence[Line],
    width: int,
    separator: str | None,
    columns: Sequence[str] = (),
) -> list[Row]:
    rows = []
    for number, line in block:
        fields = _split(line, separator)
        if len(fields) != width:
            parted = repr(separator) if separator else "spaces or tabs"
            named = f" ({', '.join(columns)})" if columns else ""
            raise DataError(
                f"{path}:{number}: expected {width} columns{named} parted by {parted}, got {len(fields)}: "
                f"{line[:80]!r}"
            )
        rows.append((number, fields))
    return rows


def _heads(
    path: str | os.PathLike[str], rows: Sequence[Row], texts: Sequence[str], trees: bool
) -> tuple[int, ...]:
    for (number, _), text in zip(rows, texts):
        if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > len(rows):
            raise DataError(
                f"{path}:{number}: the head is '{text}', expected a whole number from 0 (ROOT) to {len(rows)}"
            )
    heads = tuple(map(int, texts))
    if trees and (found := fault(heads)):
        word, how = found
        raise DataError(f"{path}:{rows[word - 1][0]}: word {word} {how}")
    return heads
