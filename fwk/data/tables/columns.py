"""Which columns of a table are asked for: by name, or by number (from 0; negative ones count from the end)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from fwk.errors import DataError, did_you_mean

Column: TypeAlias = (
    str | int
)  # a name or a number; digits are a number where no column has that name
_NUMBER = re.compile(r"-?[0-9]{1,9}")
LONGEST_NAME = (
    60  # characters of a name in a message; a first line that is no header may hold long texts
)


@dataclass(frozen=True)
class Wanted:
    """The columns that are asked for."""

    required: tuple[Column, ...]
    optional: tuple[Column, ...] = ()  # left out of a row where the table has no such column

    @property
    def names(self) -> list[str]:
        """The required columns that can only be names."""
        return [name for name in self.required if as_number(name) is None and isinstance(name, str)]

    @property
    def everything(self) -> bool:
        """Whether all columns are wanted, because none is named."""
        return not self.required and not self.optional

    def find(self, names: Sequence[str], width: int, missing: str) -> dict[str, int]:
        """Return the index of each wanted column, by what it was asked for as.

        names: of all columns, empty where they have none; width: their number. missing: the beginning of the error for
        a name that is not there. Raises DataError.
        """
        if self.everything:
            return {name: index for index, name in enumerate(names or map(str, range(width)))}
        found = {str(column): _index(column, names, width, missing) for column in self.required}
        for column in self.optional:
            if _is_there(column, names, width):
                found[str(column)] = _index(column, names, width, missing)
        return found


def as_number(column: Column) -> int | None:
    """Return the number of a column that is given by number; None for a name."""
    if isinstance(column, int):
        return column
    return int(column) if _NUMBER.fullmatch(column) else None


def near(name: Column, names: Iterable[str]) -> str:
    """Return the remedy for a column that is not there: the nearest name, and all names."""
    return did_you_mean(str(name), dict.fromkeys(known[:LONGEST_NAME] for known in names))


def _is_there(column: Column, names: Sequence[str], width: int) -> bool:
    number = as_number(column)
    return column in names or (number is not None and -width <= number < width)


def _index(column: Column, names: Sequence[str], width: int, missing: str) -> int:
    """Return the index of one column."""
    if isinstance(column, str) and column in names:
        if names.count(column) > 1:
            raise DataError(
                f"{missing} two columns '{column}'; give the number of one (from 0), or other names (columns)"
            )
        return names.index(column)
    number = as_number(column)
    if number is None:
        raise DataError(f"{missing} no column '{column}'{near(column, names)}")
    if not -width <= number < width:
        raise DataError(
            f"{missing} no column {number}; it has {width} columns, numbered from 0{near(column, names)}"
        )
    return number % width
