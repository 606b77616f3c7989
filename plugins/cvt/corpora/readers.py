"""Readers of annotated sentences (CoNLL-U, columns) and of plain ones (text files, token stores).

Files are UTF-8, uncompressed or compressed (.gz, .xz, .zst). A `DataError` begins with file:line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fwk.data.store import Store
from fwk.data.text import numbered_lines, path_not_found, text_lines
from fwk.errors import ConfigError, DataError
from fwk_plugins.cvt.corpora.trees import tree_fault

CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
CONLLU_COLUMNS_READ = (
    "form",
    "lemma",
    "upos",
    "xpos",
    "feats",
    "deprel",
)  # in addition to the heads
MULTIWORD_ID = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")  # such as 3-4
EMPTY_NODE_ID = re.compile(r"[0-9]+\.[0-9]+")  # such as 8.1
BLANKS = " \t"  # separators of columns; a no-break space is part of a word
DOCUMENT = "-DOCSTART-"

Line = tuple[int, str]  # its number in the file, from 1, and its text
Row = tuple[int, list[str]]  # the line's number and its fields


@dataclass(frozen=True)
class Sentence:
    """The words of a sentence and their annotation."""

    words: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # one value per word
    heads: tuple[int, ...] | None = None  # numbers of words from 1, or 0 for ROOT; None: no tree
    place: str = ""  # file:line of the first word, for error messages
    joined: tuple[tuple[int, int, str], ...] = ()  # multiword tokens: first and last word, form


# -- CoNLL-U -----------------------------------------------------------------------------------------------------------


def read_conllu(path: str | Path, trees: bool = True) -> Iterator[Sentence]:
    """Yield the sentences of a CoNLL-U file with `CONLLU_COLUMNS_READ`.

    Multiword tokens keep their form only; empty nodes and comments are skipped. `heads` is None where no word of the
    sentence has a head (all are _). trees: heads must form a tree with one root. Raises DataError for a malformed file.
    """
    for block in _blocks(path, _is_blank, skipped=lambda line: line.startswith("#")):
        rows = [
            row
            for row in _rows(path, block, len(CONLLU), "\t")
            if not EMPTY_NODE_ID.fullmatch(row[1][0])
        ]
        words = [row for row in rows if not MULTIWORD_ID.fullmatch(row[1][0])]
        _check_conllu_words(path, words)
        if not words:
            continue

        values = dict(zip(CONLLU, zip(*(fields for _, fields in words))))
        without_heads = set(values["head"]) == {"_"}
        yield Sentence(
            words=values["form"],
            columns={name: values[name] for name in CONLLU_COLUMNS_READ},
            heads=None if without_heads else _heads(path, words, values["head"], trees),
            place=f"{path}:{words[0][0]}",
            joined=_multiword_tokens(path, rows, len(words)),
        )


def _check_conllu_words(path: str | Path, words: Sequence[Row]) -> None:
    """Raise DataError unless ids count from 1 and no column is empty."""
    for expected, (number, fields) in enumerate(words, start=1):
        if fields[0] != str(expected):
            raise DataError(f"{path}:{number}: the word's id is '{fields[0]}', expected {expected}")
        if "" in fields:
            column = CONLLU[fields.index("")]
            raise DataError(f"{path}:{number}: the column {column} is empty, expected _ or a value")


def _multiword_tokens(
    path: str | Path, rows: Sequence[Row], words: int
) -> tuple[tuple[int, int, str], ...]:
    """Return the multiword tokens of a sentence of that many words.

    Raises DataError for a token that does not precede its first word, or overlaps another one.
    """
    tokens: list[tuple[int, int, str]] = []
    words_before = 0
    for number, (id_, form, *_) in rows:
        id_range = MULTIWORD_ID.fullmatch(id_)
        if id_range is None:
            words_before += 1
            continue

        first, last = map(int, id_range.groups())
        overlaps = bool(tokens) and tokens[-1][1] >= first
        if first != words_before + 1 or not first < last <= words or overlaps:
            raise DataError(
                f"{path}:{number}: the multiword token's id is '{id_}', expected {words_before + 1}-LAST, where LAST "
                f"is a later one of the sentence's {words} words and no other token covers these words"
            )
        tokens.append((first, last, form))
    return tuple(tokens)


# -- columns -----------------------------------------------------------------------------------------------------------


def read_columns(
    path: str | Path,
    columns: Sequence[str],
    separator: str | None = None,
    trees: bool = True,
) -> Iterator[Sentence]:
    """Yield the sentences of a file with one word per line and a blank line after each sentence.

    columns: a name per column, _ for one that is not read. One must be "word"; "head", if present, becomes `heads`.

    separator: None for any run of spaces and tabs. With "\\t" a word may contain spaces or be empty; a line of nothing
    but spaces and tabs still ends a sentence (WNUT-17 has such lines). Lines that begin with -DOCSTART- are skipped.

    trees: as in `read_conllu`. Raises ConfigError for impossible columns at once, DataError for a malformed file.
    """
    check_column_names(columns)
    if separator == "":
        raise ConfigError(
            "separator", "is empty; expected null (any run of spaces and tabs) or a character"
        )
    return _column_sentences(path, columns, separator, trees)


def check_column_names(columns: Sequence[str]) -> None:
    """Raise ConfigError unless one column is called "word" and no two have the same name."""
    names = [name for name in columns if name != "_"]
    if "word" not in names:
        raise ConfigError(
            "columns",
            f"no column is called 'word', got {', '.join(columns) or 'no columns'}; "
            "expected that name for the column of the words",
        )
    for name in names:
        if names.count(name) > 1:
            raise ConfigError("columns", f"two columns are called '{name}'; call unused columns _")


def _column_sentences(
    path: str | Path, columns: Sequence[str], separator: str | None, trees: bool
) -> Iterator[Sentence]:
    for block in _blocks(path, ends_sentence):
        rows = _rows(path, block, len(columns), separator, columns)
        for number, fields in rows:
            for name, value in zip(columns, fields):
                if not value and name not in ("word", "_"):
                    raise DataError(f"{path}:{number}: the column {name} is empty")

        by_column = zip(columns, zip(*(fields for _, fields in rows)))
        values = {name: column for name, column in by_column if name != "_"}
        heads = _heads(path, rows, values.pop("head"), trees) if "head" in values else None
        yield Sentence(values["word"], values, heads, f"{path}:{rows[0][0]}")


# -- plain text --------------------------------------------------------------------------------------------------------


def read_plain(path: str | Path) -> Iterator[Sentence]:
    """Yield one sentence per line, with words separated by whitespace; empty lines are skipped."""
    for number, line in _lines(path, text_lines):
        words = tuple(line.split())
        if words:
            yield Sentence(words, place=f"{path}:{number}")


def read_store(folder: str | Path) -> Iterator[Sentence]:
    """Yield the sentences of a token store's training split (fwk-preprocess), decoded by its tokenizer.

    The text is normalised as the tokenizer does (NFKC, and lower case where it was made so). Sentences with a character
    unknown to the tokenizer are skipped. Raises DataError where the tokenizer does not keep whitespace (WordPiece),
    because words cannot be recovered then.
    """
    store = Store(folder)
    tokenizer, split = store.tokenizer(), store.split("train")
    if tokenizer.encode("a .") == tokenizer.encode("a."):
        raise DataError(
            f"the tokenizer of the token store {folder} does not keep whitespace (WordPiece), so its words cannot be "
            "recovered; expected a store of the kind unigram, bpe or byte_bpe, or text files"
        )
    for document in range(split.documents):
        tokens = split.document(document)
        for sentence in np.split(tokens, split.sentence_starts(document)[1:]):
            if tokenizer.unk in sentence:
                continue
            words = tuple(tokenizer.decode(sentence).split())
            if words:
                yield Sentence(words, place=f"{folder}, document {document + 1}")


def is_lower_case(folder: str | Path) -> bool:
    """Return whether the text of a token store is in lower case."""
    encode = Store(folder).tokenizer().encode
    return all(encode(letter) == encode(letter.lower()) for letter in "AEN")


# -- lines -------------------------------------------------------------------------------------------------------------


def split_fields(line: str, separator: str | None) -> list[str]:
    """Return the fields of a line. separator: None for any run of spaces and tabs."""
    return line.split(separator) if separator else re.findall(rf"[^{BLANKS}]+", line)


def ends_sentence(line: str) -> bool:
    """Return whether a line of a column file separates sentences instead of holding a word."""
    return _is_blank(line) or _is_document(line)


def _lines(
    path: str | Path, read: Callable[[str], Iterator[Line]] = numbered_lines
) -> Iterator[Line]:
    if not os.path.exists(path):
        raise path_not_found(str(path))
    return read(str(path))


def _is_blank(line: str) -> bool:
    return not line.strip(BLANKS)


def _is_document(line: str) -> bool:
    return line.lstrip(BLANKS).startswith(DOCUMENT)


def _blocks(
    path: str | Path,
    separates: Callable[[str], bool],
    skipped: Callable[[str], bool] = lambda line: False,
) -> Iterator[list[Line]]:
    """Yield the lines between those that separate sentences; no block is empty."""
    block: list[Line] = []
    for number, line in _lines(path):
        if not separates(line):
            if not skipped(line):
                block.append((number, line))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _rows(
    path: str | Path,
    block: Sequence[Line],
    width: int,
    separator: str | None,
    columns: Sequence[str] = (),
) -> list[Row]:
    """Return the fields of each line. Raises DataError unless there are `width` of them."""
    rows = []
    for number, line in block:
        fields = split_fields(line, separator)
        if len(fields) != width:
            separators = repr(separator) if separator else "spaces or tabs"
            names = f" ({', '.join(columns)})" if columns else ""
            raise DataError(
                f"{path}:{number}: expected {width} columns{names} separated by {separators}, got {len(fields)}: "
                f"{line[:80]!r}"
            )
        rows.append((number, fields))
    return rows


def _heads(
    path: str | Path, rows: Sequence[Row], texts: Sequence[str], trees: bool
) -> tuple[int, ...]:
    """Return the heads of a sentence. Raises DataError where they are no numbers of words or, with `trees`, no tree."""
    for (number, _), text in zip(rows, texts):
        if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > len(rows):
            raise DataError(
                f"{path}:{number}: the head is '{text}', expected a whole number from 0 (ROOT) to {len(rows)}"
            )
    heads = tuple(map(int, texts))
    fault = tree_fault(heads) if trees else None
    if fault:
        word, reason = fault
        raise DataError(f"{path}:{rows[word - 1][0]}: word {word} {reason}")
    return heads
