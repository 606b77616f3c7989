"""Tables of JSON records: one object per line, or one array of objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from fwk.contracts.json_files import parse_json
from fwk.contracts.plain import PlainDict, PlainMapping
from fwk.contracts.shapes import Plain, shown
from fwk.data.tables.columns import Column, Wanted, near
from fwk.data.tables.rows import Refuse, Row
from fwk.data.text import numbered_lines, read_text
from fwk.errors import DataError

_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")  # may be an escape of half a surrogate pair


def read_json_lines(file: str, wanted: Wanted, refuse: Refuse) -> Iterator[Row]:
    """Yield the records of a file with one JSON object per line; empty lines are left out."""
    return _rows(file, _parsed_lines(file, refuse), wanted, refuse)


def read_json_array(file: str, wanted: Wanted, refuse: Refuse) -> Iterator[Row]:
    """Yield the records of a file that is one JSON array of objects."""
    text = read_text(file)
    try:
        records = parse_json(text)
    except ValueError as error:
        raise DataError(f"{file} is not JSON ({str(error)[:100]})") from None
    if not isinstance(records, list):
        raise DataError(f"{file} is {shown(records)}, expected an array of objects, or JSON lines")
    check = _HALF_CHARACTER.search(text) is not None
    del text
    return _rows(file, _checked(enumerate(records, 1), check, refuse), wanted, refuse)


def json_kind(file: str) -> str:
    """Return "json" for a file that is one array, "jsonl" for one with an object per line, as `datasets` writes it."""
    for _, line in numbered_lines(file, zeros=True):
        if line.strip():
            return "json" if line.lstrip().startswith("[") else "jsonl"
    return "jsonl"


def _parsed_lines(file: str, refuse: Refuse) -> Iterator[tuple[int, Plain]]:
    for number, line in numbered_lines(file, zeros=True):
        if "\x00" in line:
            refuse(number, "this is not text (it holds a zero byte)")
        elif line and not line.isspace():
            try:
                record = parse_json(line)
            except ValueError as error:
                refuse(number, f"not JSON ({str(error)[:80]})")
                continue
            yield from _checked([(number, record)], "\\u" in line, refuse)


def _checked(
    records: Iterator[tuple[int, Plain]] | list[tuple[int, Plain]], check: bool, refuse: Refuse
) -> Iterator[tuple[int, PlainDict]]:
    """Yield the records that are objects. check: whether their texts may hold half of a surrogate pair."""
    for number, record in records:
        if not isinstance(record, dict):
            refuse(number, f"expected a JSON object, got {shown(record)}")
            continue
        if check:
            try:
                json.dumps(record, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                half = ord(error.object[error.start])
                refuse(number, f"not text (\\u{half:04x} is half a character)")
                continue
        yield number, record


def _rows(
    file: str, records: Iterator[tuple[int, PlainDict]], wanted: Wanted, refuse: Refuse
) -> Iterator[Row]:
    """Yield the wanted fields of each record. Raises DataError where no record at all has one of them."""
    never: set[Column] = set(wanted.required)
    known: dict[str, None] = {}
    for number, record in records:
        values: PlainDict = dict(record) if wanted.everything else {}
        lacks: list[Column] = []
        for column in (*wanted.required, *wanted.optional):
            try:
                values[str(column)] = field_of(record, str(column))
            except KeyError:
                lacks.append(column)
        never = {column for column in never if str(column) not in values}
        required = [column for column in lacks if column in wanted.required]
        if required:
            if len(known) < 100:
                known |= dict.fromkeys(list(record)[:100])
            refuse(number, _lacking(required[0], record))
        else:
            yield Row(refuse.place(number), values)
    if never and known:
        column = next(column for column in wanted.required if column in never)
        raise DataError(f"{file}: no record has a field '{column}'{near(column, known)}")


def _lacking(column: Column, record: PlainMapping) -> str:
    reason = f"the record has no field '{column}'"
    if isinstance(column, int):
        reason += ", and the fields of a JSON record have no numbers; give a name"
    return reason + near(column, record)


def field_of(record: PlainMapping, name: str) -> Plain:
    """Return the field of a record; "a.b" is the field b of the field a, where no field has the name itself.

    Raises KeyError.
    """
    if name in record:
        return record[name]
    value: Plain = record
    for part in name.split("."):
        if not isinstance(value, dict):
            raise KeyError(name)
        value = value[part]
    return value
