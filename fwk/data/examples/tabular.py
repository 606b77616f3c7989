"""From the rows of tables to records: texts, choices and one label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fwk.contracts.plain import PlainMapping
from fwk.data.examples.bad_rows import read_all
from fwk.data.examples.cells import is_empty, kind_of, parsed
from fwk.data.labelled import Labelled
from fwk.data.tables import BadRow, OnBad, Row, TableFormat, convert, read_table

CHOICES, LABEL = "choices", "label"  # names of a text and of the label


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of a table that make a record."""

    texts: Sequence[tuple[str, str]]  # name and column
    choices: Sequence[str] = ()  # columns, or one that holds a list
    label: str | None = None
    key: str | None = None
    separator: str = ","  # between several labels in one cell

    @property
    def wanted(self) -> list[str]:
        """The columns that every row has, without the label."""
        key = [] if self.key is None else [self.key]
        return [*(column for _, column in self.texts), *self.choices, *key]


@dataclass
class TableReader:
    """Reads the records of tables with the same columns. The first table determines the kind of label."""

    columns: Columns
    table: TableFormat
    kind: str  # of the label, or 'auto'
    classes: Sequence[str] = ()  # empty: any
    skip_malformed: bool = False

    def read(
        self, paths: str | Sequence[str], key: str, unlabelled: bool = False
    ) -> list[Labelled]:
        """Return the records of tables. key: where they are named. unlabelled: whether rows may lack the label.

        Raises DataError, with file and line, for a row that cannot be read, unless such rows are left out and counted.
        """

        def records(on_bad: OnBad | None) -> Iterator[Labelled]:
            label = [] if self.columns.label is None else [self.columns.label]
            wanted, optional = self.columns.wanted, label
            if not unlabelled:
                wanted, optional = wanted + label, []
            rows = list(read_table(paths, self.table, wanted, optional=optional, on_bad=on_bad))
            if self.kind == "auto" and label:
                self.kind = kind_of(row.values.get(label[0]) for row in rows)
            make = partial(self._record, unlabelled=unlabelled)
            return convert(enumerate(rows), make, on_bad)

        return read_all(records, key, self.skip_malformed)

    def _record(self, numbered: tuple[int, Row], unlabelled: bool) -> Labelled:
        columns, (number, (place, values)) = self.columns, numbered
        texts: dict[str, str | tuple[str, ...]] = {
            name: require_text(values[column], place, column) for name, column in columns.texts
        }
        if columns.choices:
            texts[CHOICES] = _choices({column: values[column] for column in columns.choices}, place)
        value = self._label(values, place, unlabelled)
        self._check_fits(value, texts, place)
        return Labelled(
            place=place,
            key=str(number if columns.key is None else values[columns.key]),
            texts=texts,
            labels={} if value is None else {LABEL: value},
        )

    def _label(self, values: PlainMapping, place: str, unlabelled: bool) -> Any:
        column = self.columns.label
        if column is None:
            return None
        value = values.get(column)
        if not is_empty(value):
            return parsed(value, self.kind, place, self.columns.separator, self.classes)
        if unlabelled or self.kind == "span":
            return None
        raise BadRow(place, f"the label '{column}' is empty")

    def _check_fits(self, value: Any, texts: PlainMapping, place: str) -> None:
        """Raise BadRow for a choice that does not exist, and for a span beyond its text."""
        if value is not None and self.kind == "choice":
            count = len(texts.get(CHOICES, ()))
            if not value < count:
                raise BadRow(place, f"the right choice is number {value}, and there are {count}")
        if value is not None and self.kind == "span":
            name = self.columns.texts[-1][0]
            if value[1] > len(texts[name]):
                raise BadRow(place, f"the answer ends at character {value[1]}, beyond '{name}'")


def require_text(value: object, place: str, column: str) -> str:
    """Return a text. Raises BadRow where it is empty, or no text."""
    if isinstance(value, str) and value.strip():
        return value
    shown = f"is {value!r:.60}" if value is not None and not isinstance(value, str) else "is empty"
    raise BadRow(place, f"the text '{column}' {shown}; expected text")


def _choices(cells: PlainMapping, place: str) -> tuple[str, ...]:
    """Return the choices of a row. cells: by column; the last ones may be empty, where a row has fewer choices."""
    named = list(cells.items())
    column, only = named[0]
    if len(named) == 1 and isinstance(only, (list, tuple)):
        named = [(column, element) for element in only]
    else:
        while named and is_empty(named[-1][1]):
            named.pop()
    choices = tuple(require_text(element, place, column) for column, element in named)
    if len(choices) < 2:
        raise BadRow(place, f"there is {len(choices)} choice, expected at least 2")
    return choices
