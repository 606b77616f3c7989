"""Many sentences in little memory: a number for every word, and every distinct word once, in a few arrays that processes share."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence

import numpy as np


class Packed:
    """Sentences of words, 4 bytes a word and 8 a sentence beside the distinct words. They are added one after the other; `pack`
    then lays the distinct words out as bytes too, and nothing can be added any more.

    A Python object for every word would be some ten times as large, and a process that touches one gets a copy of its page.
    """

    def __init__(self) -> None:
        self._numbers: (
            dict[str, int] | None
        ) = {}  # of distinct words, in the order in which they came
        self._kinds: list[str] = []
        self._said, self._starts = array("i"), array("q", [0])

    def add(self, words: Sequence[str]) -> None:
        for word in words:
            number = self._numbers.setdefault(word, len(self._kinds))
            if number == len(self._kinds):
                self._kinds.append(word)
            self._said.append(number)
        self._starts.append(len(self._said))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def counts(self) -> Iterator[tuple[str, int]]:
        """Every distinct word and how often it is there; before `pack`."""
        found = (
            np.bincount(np.frombuffer(self._said, dtype=np.int32), minlength=len(self._kinds))
            if self._kinds
            else ()
        )
        return zip(self._kinds, map(int, found), strict=True)

    def pack(self, ids: Callable[[str], int]) -> None:
        """ids: what `ids` of a sentence are to say of a word."""
        spelled = [word.encode() for word in self._kinds]
        self._ids = np.fromiter(map(ids, self._kinds), dtype=np.int32, count=len(self._kinds))
        self._ends = np.cumsum([0, *map(len, spelled)], dtype=np.int64)  # [K + 1], in `_bytes`
        self._bytes = np.frombuffer(b"".join(spelled), dtype=np.uint8)
        self._said, self._starts = (
            np.array(of, dtype=kind)
            for of, kind in ((self._said, np.int32), (self._starts, np.int64))
        )
        self._numbers, self._kinds = None, []

    def words(self, index: int) -> tuple[str, ...]:
        numbers = self._said[self._starts[index] : self._starts[index + 1]]
        if self._numbers is not None:
            return tuple(self._kinds[number] for number in numbers)
        return tuple(
            self._bytes[self._ends[number] : self._ends[number + 1]].tobytes().decode()
            for number in numbers
        )

    def encoded(self, index: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids of the words, int32 [n], and their bytes from 1, int16 [n, W]; of more than `longest` bytes the middle is left out.
        After `pack`."""
        numbers = self._said[self._starts[index] : self._starts[index + 1]]
        start, end = self._ends[numbers][:, None], self._ends[numbers + 1][:, None]  # [n, 1] each
        size = np.minimum(end - start, longest)
        place = np.arange(max(1, int(size.max())))  # [W]
        behind = (end - start > longest) & (place >= longest - longest // 2)
        where = np.where(behind, end - longest + place, start + place)  # [n, W]
        if not len(self._bytes):  # all words are empty
            return self._ids[numbers], np.zeros(where.shape, dtype=np.int16)
        found = self._bytes[np.minimum(where, len(self._bytes) - 1)] + np.int16(1)
        return self._ids[numbers], np.where(place < size, found, np.int16(0))
