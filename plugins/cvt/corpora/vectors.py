"""Word vectors from text files: GloVe's (`word v1 ... vD`) and word2vec's (the same under a line `count D`).

Files are UTF-8, as they are or compressed (.gz, .xz, .zst). A `DataError` begins with file:line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fwk import Vocabulary
from fwk.data.text import numbered_lines, path_not_found
from fwk.errors import DataError

HEADER = re.compile(r"[0-9]+ [0-9]+")


@dataclass(frozen=True)
class Vectors:
    """of: float32 [D] each, by word as it was asked for. width: D. file: where they are from."""

    of: dict[str, Tensor]
    width: int
    file: str

    def table(self, words: Iterable[str]) -> Tensor:
        """float32 [V, D]; NaN for a word without a vector."""
        none = torch.full((self.width,), math.nan)
        return torch.stack([self.of.get(word, none) for word in words])


@dataclass(frozen=True, kw_only=True)
class WordVocabulary(Vocabulary):
    """vectors: float32 [V, D], what the encoder's word vectors begin with; NaN for words without one; None where a trained model
    is used without its data. width: D, or 0 where there are no such vectors. pretrained: the run whose frozen encoder is read."""

    vectors: Tensor | None = None
    width: int = 0
    pretrained: str | None = None


def read_vectors(
    path: str, wanted: Iterable[str], normal: Callable[[str], str], loosest: Callable[[str], str]
) -> Vectors:
    """The vectors of the wanted words. A word of the file stands for a wanted one that is, from the best to the worst: itself;
    its lower case; itself as `normal` has it; `loosest` of it. Among equally good ones the first of the file wins.

    Every line must have D numbers behind its word; that they are numbers is seen where the word is wanted.
    """
    wanted = set(wanted)
    lowered: dict[str, list[str]] = {}
    loosened: dict[str, list[str]] = {}
    for word in wanted:
        lowered.setdefault(word.lower(), []).append(word)
        loosened.setdefault(loosest(word), []).append(word)
    best: dict[str, tuple[int, Tensor]] = {}
    width = 0
    for number, size, word, values in _lines(path):
        width, vector = size, None
        for rank, words in enumerate(
            ((word,), lowered.get(word, ()), (normal(word),), loosened.get(loosest(word), ()))
        ):
            for one in words:
                if one in wanted and (one not in best or rank < best[one][0]):
                    if vector is None:
                        vector = _numbers(path, number, word, values)
                    best[one] = (rank, vector)
    if not width:
        raise DataError(f"{path} holds no word vector; expected lines such as 'word 0.1 -0.2 ...'")
    return Vectors({word: vector for word, (_, vector) in best.items()}, width, path)


def _lines(path: str) -> Iterator[tuple[int, int, str, str]]:
    """Line number, D, word and its D numbers, as they are written. Words may hold blanks (GloVe's of 840 billion words)."""
    if not Path(path).exists():
        raise path_not_found(path)
    width, said, found = 0, None, 0
    for number, line in numbered_lines(path):
        line = line.rstrip(" \t\r")
        if number == 1 and HEADER.fullmatch(line):
            said, width = map(int, line.split(" "))
            continue
        if not line:
            continue
        blanks = line.count(" ")
        width = width or blanks
        word, _, values = line.partition(" ")
        if blanks > width:
            word, *numbers = line.rsplit(" ", width)
            values = " ".join(numbers)
        if (
            not width
            or blanks < width
            or blanks > width
            and all(map(_is_number, word.split(" ")[1:]))
        ):
            raise DataError(
                f"{path}:{number}: expected a word and {width or 'its'} numbers, got {blanks}: {line[:60]!r}"
            )
        found += 1
        yield number, width, word, values
    if said is not None and found != said:
        raise DataError(
            f"{path}:1: says that there are {said:,} words, and there are {found:,}; the file was cut off, or this line is "
            "wrong"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(path: str, number: int, word: str, values: str) -> Tensor:
    """float32 [D]."""
    numbers = []
    for text in values.split(" "):
        if not _is_number(text) or not math.isfinite(float(text)):
            raise DataError(
                f"{path}:{number}: the vector of '{word[:40]}' holds {text[:40]!r}, expected a finite number"
            )
        numbers.append(float(text))
    return torch.tensor(numbers)
