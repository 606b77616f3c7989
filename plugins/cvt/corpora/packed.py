"""Many sentences in little memory: an integer for every word, and every distinct word stored once.

The few arrays that hold them are shared between processes.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np


class Packed:
    """Sentences of words, in 4 bytes per word and 8 per sentence, in addition to the distinct words.

    Sentences are added one after the other. `pack` then stores the distinct words as bytes, too; nothing can be added
    afterwards. A Python object per word would take about ten times as much, and a process that touches an object gets
    its own copy of the memory page.
    """

    def __init__(self) -> None:
        self._numbers: (
            dict[str, int] | None
        ) = {}  # distinct words in order of appearance; None once packed
        self._distinct: list[str] = []
        # numbers of distinct words, and where each sentence starts among them: grow until `pack`, arrays afterwards
        self._words: Any = array("i")
        self._starts: Any = array("q", [0])

    def add(self, words: Sequence[str]) -> None:
        """Append a sentence. Only possible before `pack`."""
        if self._numbers is None:
            raise RuntimeError("packed sentences cannot grow")
        for word in words:
            number = self._numbers.setdefault(word, len(self._distinct))
            if number == len(self._distinct):
                self._distinct.append(word)
            self._words.append(number)
        self._starts.append(len(self._words))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def counts(self) -> Iterator[tuple[str, int]]:
        """Yield every distinct word with the number of its occurrences. Only possible before `pack`."""
        numbers = np.frombuffer(self._words, dtype=np.int32) if self._distinct else np.zeros(0, int)
        occurrences = np.bincount(numbers, minlength=len(self._distinct))
        return zip(self._distinct, map(int, occurrences), strict=True)

    def pack(self, id_of: Callable[[str], int]) -> None:
        """Store the distinct words as bytes. id_of: the id of a word, as `encoded` returns it."""
        spelled = [word.encode() for word in self._distinct]
        self._ids = np.fromiter(
            map(id_of, self._distinct), dtype=np.int32, count=len(self._distinct)
        )
        self._ends = np.cumsum([0, *map(len, spelled)], dtype=np.int64)  # [K + 1], in `_bytes`
        self._bytes = np.frombuffer(b"".join(spelled), dtype=np.uint8)
        self._words = np.array(self._words, dtype=np.int32)
        self._starts = np.array(self._starts, dtype=np.int64)
        self._numbers, self._distinct = None, []

    def words(self, index: int) -> tuple[str, ...]:
        """Return the words of a sentence."""
        numbers = self._words[self._starts[index] : self._starts[index + 1]]
        if self._numbers is not None:
            return tuple(self._distinct[number] for number in numbers)
        return tuple(
            self._bytes[self._ends[number] : self._ends[number + 1]].tobytes().decode()
            for number in numbers
        )

    def encoded(self, index: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of a sentence's words, int32 [n], and their characters, int16 [n, W].

        Only possible after `pack`. Characters are as in `examples.spell`: bytes + 1, without the middle of
        words of more than `longest` bytes.
        """
        numbers = self._words[self._starts[index] : self._starts[index + 1]]
        starts, ends = self._ends[numbers][:, None], self._ends[numbers + 1][:, None]  # [n, 1] each
        sizes = np.minimum(ends - starts, longest)
        place = np.arange(max(1, int(sizes.max())))  # [W]

        in_tail = (ends - starts > longest) & (place >= longest - longest // 2)
        where = np.where(in_tail, ends - longest + place, starts + place)  # [n, W]
        if not len(self._bytes):  # all words are empty
            return self._ids[numbers], np.zeros(where.shape, dtype=np.int16)
        characters = self._bytes[np.minimum(where, len(self._bytes) - 1)] + np.int16(1)
        return self._ids[numbers], np.where(place < sizes, characters, np.int16(0))
