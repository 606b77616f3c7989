"""Reading of tables of any format."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

from fwk.data.tables.arrow import PREFIX, is_saved_dataset, read_dataset, read_parquet
from fwk.data.tables.columns import Column, Wanted
from fwk.data.tables.delimited import read_delimited
from fwk.data.tables.records import json_kind, read_json_array, read_json_lines
from fwk.data.tables.rows import OnBad, Refuse, Row, TableFormat
from fwk.data.text import FileKind, find_files, inner_suffix
from fwk.errors import DataError, did_you_mean
from fwk.files import expand_user

FORMATS = {
    ".tsv": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
}
_SEPARATORS = {"tsv": "\t", "csv": ","}
_READERS: dict[str, Callable[[str, Wanted, Refuse], Iterator[Row]]] = {
    "jsonl": read_json_lines,
    "json": read_json_array,
    "parquet": read_parquet,
    "datasets": read_dataset,
}
_WITH_LINES = ("tsv", "csv", "jsonl")  # formats whose places are lines


def read_table(
    paths: str | Sequence[str],
    table: TableFormat,
    wanted: Sequence[Column],
    *,
    optional: Sequence[Column] = (),
    on_bad: OnBad | None = None,
) -> Iterator[Row]:
    """Return an iterator over the rows of tables.

    paths: files, globs or folders of tables; or data sets of Hugging Face `datasets`, as "datasets:NAME[/CONFIG]:SPLIT"
    or a folder that `save_to_disk` wrote. wanted: the columns that rows have, by name or number; none means all.
    optional: further columns, which a row lacks where its table does. on_bad: called for each row that cannot be read,
    which is then left out.

    Raises DataError at once for paths that do not exist, and while reading for columns that do not exist, for a file
    that is no text or is damaged, and BadRow for a row where there is no `on_bad`.
    """
    entries = [paths] if isinstance(paths, str) else list(paths)
    sources = [source for entry in entries for source in _sources(entry, table)]
    if not sources:
        raise DataError("no table is named, expected at least one path")
    columns = Wanted(tuple(wanted), tuple(optional))
    return (row for source in sources for row in _rows(*source, table, columns, on_bad))


def _sources(entry: str, table: TableFormat) -> list[tuple[str, str]]:
    """Return the files that an entry names, or the data set itself, each with its format."""
    if entry.startswith(PREFIX) or table.format == "datasets" or is_saved_dataset(entry):
        return [(entry, "datasets")]
    if entry == "-":
        raise DataError(
            "standard input cannot be read as a table, because it is read twice; write it to a file"
        )
    suffixes = tuple(suffix for suffix, name in FORMATS.items() if table.format in ("auto", name))
    files = find_files([entry], FileKind("table", suffixes, "write it to a file first"))
    sources = [(file, _format_of(file, table)) for file in files]
    formats = {format for _, format in sources}
    if len(formats) > 1 and os.path.isdir(expand_user(entry)):
        raise DataError(
            f"the folder {entry} holds tables of several formats ({', '.join(sorted(formats))}); name the files, or "
            "the format"
        )
    return sources


def _format_of(file: str, table: TableFormat) -> str:
    """Return the format of a file. Raises DataError where its suffix names none."""
    if table.format != "auto":
        return table.format
    suffix = inner_suffix(file)
    if suffix not in FORMATS:
        choices = list(dict.fromkeys(FORMATS.values()))
        raise DataError(
            f"{file} does not say by its suffix which format it has; name the format"
            f"{did_you_mean(suffix, choices)}"
        )
    return json_kind(file) if suffix == ".json" else FORMATS[suffix]


def _rows(
    source: str, format: str, table: TableFormat, wanted: Wanted, on_bad: OnBad | None
) -> Iterator[Row]:
    """Return the rows of one source."""
    refuse = Refuse(source.removeprefix(PREFIX), on_bad, format in _WITH_LINES)
    if format in _SEPARATORS:
        return read_delimited(source, _SEPARATORS[format], table, wanted, refuse)
    return _READERS[format](source, wanted, refuse)
