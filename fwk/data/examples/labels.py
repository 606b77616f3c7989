"""The labels of examples: their kinds, their values, and how they become arrays.

kind      value in a record            array                  absent
class     its name                     int64 []               -1
classes   names                        float32 [C], 0 or 1    -1
number    a number                     float32 []             NaN
numbers   numbers                      float32 [n]            NaN
choice    the place of the right one   int64 []               -1
span      (first, last) token          int64 [2]              -1
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from fwk.errors import DataError, did_you_mean

Kind = Literal["class", "classes", "number", "numbers", "choice", "span"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class LabelSpace:
    """A label of a task: its kind, and the values that it may have."""

    name: str
    kind: str  # one of KINDS
    values: tuple[str, ...] = ()  # of class and classes; the names of numbers
    text: str = ""  # the text that a span is in
    optional: bool = False  # an example may lack the label by nature: a question without an answer

    @property
    def absent(self) -> np.ndarray:
        """The array of an example without this label."""
        if self.kind in ("number", "numbers"):
            return np.full(self._shape, np.nan, dtype=np.float32)
        if self.kind == "classes":
            return np.full(self._shape, -1, dtype=np.float32)
        return np.full(self._shape, -1, dtype=np.int64)

    @property
    def _shape(self) -> tuple[int, ...]:
        if self.kind in ("classes", "numbers"):
            return (len(self.values),)
        return (2,) if self.kind == "span" else ()

    def encoded(self, value: Any, place: str) -> np.ndarray:
        """Return the array of a value; None: absent. Raises DataError, with the place, for another kind of value."""
        if value is None:
            return self.absent
        if self.kind == "class":
            return np.asarray(self._number_of(value, place), dtype=np.int64)
        if self.kind == "classes":
            array = np.zeros(self._shape, dtype=np.float32)
            array[[self._number_of(name, place) for name in value]] = 1
            return array
        if self.kind in ("number", "numbers"):
            array = np.asarray(value, dtype=np.float32)
        else:
            array = np.asarray(value, dtype=np.int64)
        if array.shape != self._shape:
            expected = f"{len(self.values)} numbers" if self._shape else "one number"
            raise DataError(f"{place}: the label '{self.name}' is {value!r}, expected {expected}")
        return array

    def _number_of(self, value: object, place: str) -> int:
        name = str(value)
        if name not in self._numbers:
            raise DataError(
                f"{place}: the label '{self.name}' is '{name[:60]}', which training does not have"
                f"{did_you_mean(name, self.values)}"
            )
        return self._numbers[name]

    @property
    def _numbers(self) -> Mapping[str, int]:
        numbers = self.__dict__.get("_cached")
        if numbers is None:
            numbers = {value: number for number, value in enumerate(self.values)}
            object.__setattr__(self, "_cached", numbers)
        return numbers


def stacked(arrays: Sequence[np.ndarray], space: LabelSpace) -> np.ndarray:
    """Return the labels of N examples, [N, ...]."""
    if not arrays:
        return np.zeros((0, *space.absent.shape), dtype=space.absent.dtype)
    return np.stack(arrays)
