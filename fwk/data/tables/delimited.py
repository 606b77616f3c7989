"""Tables with one row per line and a separator between the fields: TSV and CSV.

Fields in quotes are parsed here and not by Python's `csv`, whose limit of a field's length is global to the process,
and which cannot say in which line an unbalanced quote begins, nor continue behind it.
"""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from fwk.data.tables.columns import LONGEST_NAME, Wanted
from fwk.data.tables.rows import Refuse, Row, TableFormat
from fwk.data.text import numbered_lines
from fwk.errors import DataError

LONGEST_QUOTED = 1 << 24  # characters of a row of several lines; more of them lack a closing quote


class _Record(NamedTuple):
    """The fields of one row, and the line in which it begins."""

    number: int
    fields: list[str]


class _Layout(NamedTuple):
    """What the first line tells about the columns."""

    has_header: bool
    width: int
    columns: dict[str, int]  # index of each wanted column


def read_delimited(
    file: str, separator: str, table: TableFormat, wanted: Wanted, refuse: Refuse
) -> Iterator[Row]:
    """Yield the rows of a TSV or CSV file. Empty lines are left out where rows have several columns."""
    quoted = table.quotes == "yes" or (table.quotes == "auto" and separator == ",")
    layout = None
    for number, fields in _records(file, separator, quoted, refuse):
        is_empty = fields == [""]
        if layout is None:
            if is_empty:
                continue
            layout = _layout(file, fields, table, wanted)
            if layout.has_header:
                continue
        if len(fields) != layout.width:
            if not is_empty:
                refuse(number, f"{_columns(len(fields))}, expected {layout.width}")
            continue
        values = {name: fields[index] for name, index in layout.columns.items()}
        yield Row(refuse.place(number), values)


def _columns(count: int) -> str:
    return f"the row has {count} column{'s' if count > 1 else ''}"


def _layout(file: str, first: list[str], table: TableFormat, wanted: Wanted) -> _Layout:
    """Return what the first line is and where the wanted columns are. Raises DataError."""
    cells = [cell.strip() for cell in first]
    names = list(table.columns)
    has_header = table.header == "yes"
    if table.header == "auto":
        asked = names or wanted.names
        has_header = bool(asked) and all(name in cells for name in asked)
    if names and len(names) != len(cells):
        raise DataError(
            f"{file} has {len(cells)} columns, but {len(names)} are named (columns: {', '.join(names)})"
        )
    if not names and wanted.names:
        if not has_header and table.header == "no":
            raise DataError(f"{file} is read without a header, so {_nameless(wanted)}")
        if not has_header and not _may_be_header(cells, wanted):
            raise DataError(f"{file} has no header, so {_nameless(wanted)}")
    if not names and (has_header or wanted.names):
        names = cells
    return _Layout(has_header, len(cells), wanted.find(names, len(cells), f"{file} has"))


def _nameless(wanted: Wanted) -> str:
    name = wanted.names[0]
    return f"there is no column '{name}'; give the numbers of columns (from 0), or name all columns (columns)"


def _may_be_header(cells: list[str], wanted: Wanted) -> bool:
    """Return whether a first line without some of the wanted names is still a header, with other names."""
    short = [cell for cell in cells if len(cell) <= LONGEST_NAME]
    return any(difflib.get_close_matches(name, short, n=1) for name in wanted.names)


def _records(file: str, separator: str, quoted: bool, refuse: Refuse) -> Iterator[_Record]:
    """Yield the rows of a file as lists of fields."""
    lines = numbered_lines(file, zeros=True)
    waiting: deque[tuple[int, str]] = deque()  # lines behind a row with unbalanced quotes
    while (entry := waiting.popleft() if waiting else next(lines, None)) is not None:
        number, line = entry
        if "\x00" in line:
            refuse(number, "this is not text (it holds a zero byte)")
        elif not quoted or '"' not in line:
            yield _Record(number, line.split(separator))
        else:
            parts = [line]
            try:
                try:
                    fields = split_quoted(line, separator)
                except ValueError:
                    parts += _continuation(line, waiting, lines)
                    fields = split_quoted("\n".join(parts), separator)
            except ValueError as error:
                # the row is the first line alone: those after it may be whole rows
                waiting.extendleft(reversed([*enumerate(parts[1:], number + 1)]))
                refuse(number, str(error))
            else:
                yield _Record(number, fields)


def _continuation(
    first: str, waiting: deque[tuple[int, str]], lines: Iterator[tuple[int, str]]
) -> list[str]:
    """Return the lines after one that does not close its quotes, up to the one that does.

    A row with all quotes closed has an even number of them. A line with an even number thus ends a row or lies within a
    quoted field, and each line is read at most twice, however many quotes are unbalanced.
    """
    parts: list[str] = []
    size = len(first)
    is_open = first.count('"') % 2 == 1
    while is_open and size <= LONGEST_QUOTED:
        entry = waiting.popleft() if waiting else next(lines, None)
        if entry is None:
            break
        parts.append(entry[1])
        size += len(entry[1])
        is_open = entry[1].count('"') % 2 == 0
    return parts


def split_quoted(row: str, separator: str) -> list[str]:
    """Return the fields of a row, where those in quotes may hold separators, line ends and doubled quotes.

    A quote within a field that does not begin with one is literal. Raises ValueError with a short reason.
    """
    fields: list[str] = []
    start = 0
    while True:
        if row.startswith('"', start):
            end = _closing_quote(row, start)
            value = row[start + 1 : end].replace('""', '"')
            end += 1
            if end < len(row) and not row.startswith(separator, end):
                raise ValueError(
                    f"the quote of column {len(fields)} (from 0) is closed before the field ends; quotes within a "
                    'quoted field are doubled ("")'
                )
        else:
            end = row.find(separator, start)
            end = len(row) if end < 0 else end
            value = row[start:end]
            if "\n" in value:
                raise ValueError(
                    "the row holds an unbalanced quote; a field with quotes is quoted as a whole, with doubled quotes "
                    '(""), or all quotes are literal (quotes=no)'
                )
        fields.append(value)
        if end >= len(row):
            return fields
        start = end + 1


def _closing_quote(row: str, start: int) -> int:
    """Return where the quoted field that begins at `start` ends. Raises ValueError where it does not."""
    end = start + 1
    while (end := row.find('"', end)) >= 0:
        if not row.startswith('""', end):
            return end
        end += 2
    raise ValueError(
        "a quote is opened and not closed; if quotes are literal here, say so (quotes=no)"
    )
