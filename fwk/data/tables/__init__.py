"""Labelled tables as streams of rows: TSV, CSV, JSON lines, JSON, Parquet and Hugging Face data sets.

    for row in read_table("reviews.csv", TableFormat(), ["text", "stars"]):
        row.place               # reviews.csv:2
        row.values["text"]

A column is named as the file's header (or its schema) has it, or by its number. A row that cannot be read is a
`BadRow`, which names the file and the line; it is raised, or given to `on_bad` and left out.
"""

from fwk.data.tables.columns import Column
from fwk.data.tables.reading import FORMATS, read_table
from fwk.data.tables.rows import BadRow, OnBad, Row, TableFormat, convert

__all__ = [
    "FORMATS",
    "BadRow",
    "Column",
    "OnBad",
    "Row",
    "TableFormat",
    "convert",
    "read_table",
]
