"""Tables of every format give the same rows, and a bad row is named with its place."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import random
from pathlib import Path

import pytest

from fwk.data.tables import BadRow, TableFormat, read_table
from fwk.data.tables.delimited import split_quoted
from fwk.errors import DataError

RECORDS = [
    {"text": 'He said "no", twice.', "stars": "5"},
    {"text": "Ein Bär\u2028im Wald", "stars": "1"},
    {"text": "third", "stars": "3"},
]


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def as_csv(records: list[dict], separator: str = ",") -> str:
    target = io.StringIO()
    writer = csv.DictWriter(target, list(records[0]), delimiter=separator, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return target.getvalue()


def as_tsv(records: list[dict]) -> str:
    rows = [list(records[0]), *(record.values() for record in records)]
    return "".join("\t".join(row) + "\n" for row in rows)


def as_jsonl(records: list[dict]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


CONTENTS = {
    ".csv": as_csv(RECORDS),
    ".tsv": as_tsv(RECORDS),
    ".jsonl": as_jsonl(RECORDS),
    ".json": json.dumps(RECORDS, indent=1),
}


def rows(path: str, wanted=("text", "stars"), **options) -> list[dict]:
    format_options = {k: v for k, v in options.items() if k not in ("optional", "on_bad")}
    others = {k: v for k, v in options.items() if k in ("optional", "on_bad")}
    table = TableFormat(**format_options)
    return [dict(row.values) for row in read_table(path, table, wanted, **others)]


def skipped(path: str, wanted=("text", "stars"), **options) -> tuple[list[dict], list[str]]:
    """The rows of a file, and the messages of those that were left out."""
    bad: list[BadRow] = []
    found = rows(path, wanted, on_bad=bad.append, **options)
    return found, [str(error) for error in bad]


# -- formats -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", CONTENTS)
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    assert rows(write(tmp_path / f"t{suffix}", CONTENTS[suffix])) == RECORDS


@pytest.mark.parametrize("suffix", CONTENTS)
@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.rstrip(b"\n"),
        lambda text: text + b"\n\n",
    ],
    ids=["bom", "crlf", "no last line end", "empty lines"],
)
def test_line_ends_and_byte_order_marks_are_no_part_of_a_row(tmp_path, suffix, change):
    content = CONTENTS[suffix].encode()
    assert rows(write(tmp_path / f"t{suffix}", change(content))) == RECORDS


@pytest.mark.parametrize("suffix", CONTENTS)
@pytest.mark.parametrize("pack", [(".gz", gzip), (".xz", lzma), (".bz2", bz2)], ids=lambda p: p[0])
def test_compressed_tables_are_read(tmp_path, suffix, pack):
    data = pack[1].compress(CONTENTS[suffix].encode())
    assert rows(write(tmp_path / f"t{suffix}{pack[0]}", data)) == RECORDS
    cut = write(tmp_path / f"cut{suffix}{pack[0]}", data[:-4])
    with pytest.raises(DataError, match="is damaged, or its suffix names the wrong format"):
        rows(cut)


def test_a_parquet_file_gives_the_same_rows(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = str(tmp_path / "t.parquet")
    parquet.write_table(arrow.Table.from_pylist(RECORDS), path, row_group_size=2)
    assert rows(path) == RECORDS
    assert rows(path, [1]) == [{"1": record["stars"]} for record in RECORDS]
    (row, *_) = read_table(path, TableFormat(), ["text"])
    assert row.place == f"{path}: row 1"
    with pytest.raises(DataError, match="has no column 'txt'. Did you mean 'text'"):
        rows(path, ["txt"])
    damaged = write(tmp_path / "damaged.parquet", Path(path).read_bytes()[:-9])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        rows(damaged)


def test_the_values_of_a_parquet_file_are_those_of_json(tmp_path):
    import datetime
    import decimal

    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = str(tmp_path / "t.parquet")
    record = {
        "n": 3, "x": 1.5, "none": None, "flag": True, "list": ["a", "b"], "inner": {"start": [1]},
        "day": datetime.date(2020, 1, 2), "price": decimal.Decimal("1.50"), "image": b"\xff",
    }  # fmt: skip
    parquet.write_table(arrow.Table.from_pylist([record]), path)
    wanted = [name for name in record if name != "image"]
    assert rows(path, wanted) == [
        {name: record[name] for name in wanted} | {"day": "2020-01-02", "price": "1.50"}
    ]
    with pytest.raises(DataError, match="the column 'image' holds binary, expected text"):
        rows(path, ["image"])


# -- columns -----------------------------------------------------------------------------------------------------------


def test_columns_are_found_by_name_and_by_number(tmp_path):
    named = write(tmp_path / "named.tsv", "id\ttext\tstars\n7\tgood\t5\n")
    bare = write(tmp_path / "bare.tsv", "7\tgood\t5\n")
    assert rows(named, ["text", -1]) == [{"text": "good", "-1": "5"}]
    assert rows(named, ["1", 2], header="yes") == [{"1": "good", "2": "5"}]
    assert rows(bare, [1, "-1"]) == [{"1": "good", "-1": "5"}]
    assert rows(bare, ["text"], columns=("id", "text", "stars")) == [{"text": "good"}]
    assert rows(named, ["text"], columns=("id", "text", "stars")) == [{"text": "good"}]
    assert rows(named, ["b"], columns=("a", "b", "c"), header="yes") == [{"b": "good"}]
    assert rows(named, ["text"], optional=["label", 9, 0]) == [{"text": "good", "0": "7"}]
    assert rows(bare, []) == [{"0": "7", "1": "good", "2": "5"}]


def test_digits_name_a_column_before_they_number_one(tmp_path):
    path = write(tmp_path / "t.csv", "1,text,0\na,b,c\n")
    assert rows(path, ["1", "0", "text"]) == [{"1": "a", "0": "c", "text": "b"}]


@pytest.mark.parametrize(
    "content, wanted, options, message",
    [
        ("id,text\n1,a\n", ["txt"], {}, "has no column 'txt'. Did you mean 'text'? Available: id, text"),
        ("id,text\n1,a\n", ["text", "label"], {}, "has no column 'label'. Available: id, text"),
        ("id,text\n1,a\n", ["text", 2], {}, "has no column 2; it has 2 columns, numbered from 0"),
        ("1,a\n", ["text"], {}, "has no header, so there is no column 'text'; give the numbers"),
        ("text\n", ["text"], {"header": "no"}, "is read without a header, so there is no column"),
        ("1,a\n", ["x"], {"columns": ("x",)}, "has 2 columns, but 1 are named"),
        ("text,text\n1,a\n", ["text"], {}, "has two columns 'text'"),
        ('{"text": 1}\n', ["txt"], {"format": "jsonl"}, "no field 'txt'. Did you mean 'text'"),
        ('{"text": 1}\n', [0], {"format": "jsonl"}, "no field '0', and the fields of a JSON record have"),
    ],
)  # fmt: skip
def test_a_column_that_is_not_there_is_refused(tmp_path, content, wanted, options, message):
    path = write(tmp_path / "t.csv", content)
    with pytest.raises(DataError) as refused:
        rows(path, wanted, **options)
    assert message in str(refused.value)
    assert path in str(refused.value)
