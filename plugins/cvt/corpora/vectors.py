"""Word vectors from text files: GloVe's (`word v1 ... vD`) and word2vec's (the same after a line `count D`).

Files are UTF-8, uncompressed or compressed (.gz, .xz, .zst). A `DataError` begins with file:line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fwk import Vocabulary
from fwk.data.text import numbered_lines, path_not_found
from fwk.errors import DataError

HEADER = re.compile(r"[0-9]{1,12} [0-9]{1,9}")


@dataclass(frozen=True)
class Vectors:
    """The vectors of a file."""

    by_word: Mapping[str, Tensor]  # float32 [D] each, under the words that were asked for
    width: int  # D
    file: str

    def table(self, words: Iterable[str]) -> Tensor:
        """Return float32 [V, D], with NaN for a word without a vector."""
        no_vector = torch.full((self.width,), math.nan)
        return torch.stack([self.by_word.get(word, no_vector) for word in words])


@dataclass(frozen=True, kw_only=True)
class WordVocabulary(Vocabulary):
    """A vocabulary of words, and what else an encoder of words needs."""

    # float32 [V, D], initial word vectors, NaN for words without one; None: no file, or a trained model is used without
    # its data
    vectors: Tensor | None = None
    width: int = 0  # D; 0 where there are no such vectors
    pretrained: str | None = None  # the run whose frozen encoder is read


def read_vectors(
    path: str, wanted: Iterable[str], normal: Callable[[str], str], loosest: Callable[[str], str]
) -> Vectors:
    """Return the vectors of the wanted words.

    A word of the file gives its vector to every wanted word that equals, from the best match to the worst: itself; its
    lower case; itself after `normal`; itself where both are after `loosest`. Among equally good matches the first in
    the file wins.

    Every line must have D numbers after its word; whether they are numbers is checked for wanted words only. Raises
    DataError for a malformed file.
    """
    wanted = set(wanted)
    by_lower, by_loosest = _grouped(wanted, str.lower), _grouped(wanted, loosest)
    best: dict[str, tuple[int, Tensor]] = {}  # wanted word -> rank of its match, vector
    width = 0
    for line in _lines(path):
        width, vector = line.width, None
        matches = (
            [line.word],
            by_lower.get(line.word, []),
            [normal(line.word)],
            by_loosest.get(loosest(line.word), []),
        )
        for rank, words in enumerate(matches):
            for word in words:
                if word in wanted and (word not in best or rank < best[word][0]):
                    if vector is None:
                        vector = _numbers(path, line)
                    best[word] = (rank, vector)
    if not width:
        raise DataError(
            f"{path} contains no word vector; expected lines such as 'word 0.1 -0.2 ...'"
        )
    return Vectors({word: vector for word, (_, vector) in best.items()}, width, path)


def _grouped(words: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for word in words:
        groups.setdefault(key(word), []).append(word)
    return groups


class _VectorLine(NamedTuple):
    """One line of a file of vectors."""

    number: int
    width: int  # D
    word: str
    values: str  # D numbers as they are written


def _lines(path: str) -> Iterator[_VectorLine]:
    """Yield the lines that hold a vector. Raises DataError for a malformed line, or a wrong count in the header."""
    if not Path(path).exists():
        raise path_not_found(path)
    width, declared, count = 0, None, 0
    for number, line in numbered_lines(path):
        line = line.rstrip(" \t\r")
        if number == 1 and HEADER.fullmatch(line):
            declared, width = map(int, line.split(" "))
            continue
        if not line:
            continue
        width = width or line.count(" ")
        word, values = _word_and_values(path, number, line, width)
        count += 1
        yield _VectorLine(number, width, word, values)
    if declared is not None and count != declared:
        raise DataError(
            f"{path}:1: the header declares {declared:,} words, and the file has {count:,}; the file was truncated, or "
            "the header is wrong"
        )


def _word_and_values(path: str, number: int, line: str, width: int) -> tuple[str, str]:
    """Return the word of a line and its `width` numbers. A word may contain spaces (GloVe's of 840 billion tokens)."""
    blanks = line.count(" ")
    word, _, values = line.partition(" ")
    if blanks > width > 0:
        word, *numbers = line.rsplit(" ", width)
        values = " ".join(numbers)

    too_many = blanks > width and all(map(_is_number, word.split(" ")[1:]))
    if not width or blanks < width or too_many:
        expected = width or "its"
        raise DataError(
            f"{path}:{number}: expected a word and {expected} numbers, got {blanks}: {line[:60]!r}"
        )
    return word, values


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(path: str, line: _VectorLine) -> Tensor:
    """Return the numbers of a line, float32 [D]. Raises DataError unless all are finite."""
    numbers = []
    for text in line.values.split(" "):
        if not _is_number(text) or not math.isfinite(float(text)):
            raise DataError(
                f"{path}:{line.number}: the vector of '{line.word[:40]}' contains {text[:40]!r}, expected a finite "
                "number"
            )
        numbers.append(float(text))
    return torch.tensor(numbers)
