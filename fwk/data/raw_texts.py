"""Raw texts for predictions: a text per line, or the named texts of an example per row of a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fwk.contracts.task import RawText
from fwk.data.tables import TableFormat, read_table
from fwk.data.tables.reading import FORMATS
from fwk.data.text import inner_suffix, text_lines
from fwk.errors import DataError


def read_raw_texts(file: str, names: Sequence[str]) -> Iterator[tuple[RawText, str]]:
    """Yield what a model predicts, and its place: lines that are not empty, or rows of a table by its suffix.

    names: the texts that the task reads, which are the columns of a table; empty: it names none, and reads no table.
    Raises DataError, with the place, for what cannot be read.
    """
    if names and inner_suffix(file) in FORMATS:
        # the first line names the columns, whatever else it may look like
        for place, values in read_table(file, TableFormat(header="yes"), names):
            yield {name: values[name] for name in names}, place
        return
    if len(names) > 1:
        raise DataError(
            f"{file}: the model reads {', '.join(names)} of each example, and a line is one text; expected a table "
            f"with these columns, as {', '.join(FORMATS)}"
        )
    for number, line in text_lines(file):
        if line.strip():
            yield line, f"{file}:{number}"
