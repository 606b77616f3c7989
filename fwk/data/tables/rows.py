"""The rows of a table, and the options that say how it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from fwk.contracts.plain import PlainMapping
from fwk.errors import DataError

FormatName: TypeAlias = Literal["auto", "tsv", "csv", "jsonl", "json", "parquet", "datasets"]
Given = TypeVar("Given")
Made = TypeVar("Made")
YesNo: TypeAlias = Literal["auto", "yes", "no"]


class Row(NamedTuple):
    """A row of a table, or a record of a file of records."""

    place: str  # FILE:LINE, or "FILE: row N" (from 1) where the file has no lines of its own; for messages
    values: PlainMapping  # text, number, bool, None, list or nested value, by column as it was asked for


@dataclass(frozen=True, kw_only=True)
class TableFormat:
    """How a table is read. The options of a task that have these names are passed on."""

    format: FormatName = "auto"  # auto: by the suffix, without that of a compression
    header: YesNo = "auto"  # whether the first line names the columns; auto: if it has all names that are asked for
    columns: tuple[str, ...] = ()  # names of the columns, where there is no header, or in its place
    quotes: YesNo = "auto"  # whether fields may be quoted; auto: in CSV; in TSV quotes are literal


class BadRow(DataError):
    """A row cannot be used. Carries its `place` and the `reason`."""

    def __init__(self, place: str, reason: str) -> None:
        self.place, self.reason = place, reason
        super().__init__(f"{place}: {reason}")


OnBad: TypeAlias = Callable[[BadRow], None]  # called for a row that is left out


class Refuse:
    """Called with a line or a row number and a reason; raises BadRow, or passes it on."""

    def __init__(self, file: str, on_bad: OnBad | None, has_lines: bool) -> None:
        self._on_bad = on_bad
        self._place = f"{file}:" if has_lines else f"{file}: row "

    def place(self, number: int) -> str:
        """Return the place of a row, for messages."""
        return f"{self._place}{number}"

    def __call__(self, number: int, reason: str) -> None:
        bad = BadRow(self.place(number), reason)
        if self._on_bad is None:
            raise bad
        self._on_bad(bad)


def convert(
    rows: Iterable[Given], converted: Callable[[Given], Made], on_bad: OnBad | None
) -> Iterator[Made]:
    """Yield what becomes of each row; a BadRow that `converted` raises is passed to `on_bad`, if there is one."""
    for row in rows:
        try:
            made = converted(row)
        except BadRow as bad:
            if on_bad is None:
                raise
            on_bad(bad)
        else:
            yield made
