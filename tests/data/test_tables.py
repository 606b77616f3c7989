"""Tables of every format give the same rows, and a bad row is named with its place."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import sys
from pathlib import Path

import pytest

from fwk.data.tables import BadRow, TableFormat, delimited, read_table
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


# -- bad rows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "suffix, line, reason",
    [
        (".tsv", "one column", "the row has 1 column, expected 2"),
        (".tsv", "a\tb\tc", "the row has 3 columns, expected 2"),
        (".tsv", "zero\x00\t1", "this is not text (it holds a zero byte)"),
        (".csv", 'a "quoted" word,1,', "the row has 3 columns, expected 2"),
        (".csv", '"closed" early,1', "is closed before the field ends"),
        (".csv", 'a 5" disk,"1', "a quote is opened and not closed"),
        (".csv", '"a\nb",c" d\ne"', "the row holds an unbalanced quote"),
        (".csv", '"never closed,1', "a quote is opened and not closed"),
        (".jsonl", '{"text": ', "not JSON (Expecting value"),
        (".jsonl", "[1, 2]", "expected a JSON object, got a list"),
        (".jsonl", "[" * 5000 + "]" * 5000, "not JSON (it is nested more than 100 levels deep)"),
        (".jsonl", '{"text": "a", "star": 1}', "no field 'stars'. Did you mean 'star'?"),
        (".jsonl", '{"text": "\\ud83d", "stars": 1}', "not text (\\ud83d is half a character)"),
        (".jsonl", '{"text": "\x00", "stars": 1}', "this is not text (it holds a zero byte)"),
    ],
)
def test_a_bad_row_is_named_or_left_out(tmp_path, suffix, line, reason):
    lines = CONTENTS[suffix].splitlines(keepends=True)
    lines.insert(2, line + "\n")
    path = write(tmp_path / f"t{suffix}", "".join(lines))
    with pytest.raises(BadRow) as refused:
        rows(path)
    assert reason in str(refused.value)
    assert refused.value.place == f"{path}:3"
    found, messages = skipped(path)
    assert found[0] == RECORDS[0] and found[-2:] == RECORDS[1:]
    assert messages[0] == str(refused.value)


def test_a_record_of_an_array_is_named_by_its_number(tmp_path):
    path = write(tmp_path / "t.json", '[{"text": "a"}, 3, {"text": "b"}]')
    assert skipped(path, ["text"]) == (
        [{"text": "a"}, {"text": "b"}],
        [f"{path}: row 2: expected a JSON object, got 3"],
    )


def test_a_column_that_no_record_has_ends_the_reading_although_bad_rows_are_left_out(tmp_path):
    path = write(tmp_path / "t.jsonl", as_jsonl(RECORDS))
    with pytest.raises(DataError, match="no record has a field 'star'. Did you mean 'stars'"):
        skipped(path, ["text", "star"])


@pytest.mark.parametrize(
    "content, message",
    [
        ("text\tstars\nB\u00e4r\t1\n".encode("latin-1"), "line 2: not UTF-8 (byte 0xe4)"),
        ("text\tstars\nB\u00e4r\t1\n".encode("utf-16"), "line 1: the file is UTF-16"),
    ],
)
def test_another_encoding_is_refused_even_where_bad_rows_are_left_out(tmp_path, content, message):
    path = write(tmp_path / "t.tsv", content)
    with pytest.raises(DataError) as refused:
        skipped(path)
    assert message in str(refused.value)
    assert path in str(refused.value)


def test_quotes_are_literal_in_tsv_and_not_in_csv(tmp_path):
    content = 'text\tstars\n"a ""b"""\t1\n'
    path = write(tmp_path / "t.tsv", content)
    assert rows(path) == [{"text": '"a ""b"""', "stars": "1"}]
    assert rows(path, quotes="yes") == [{"text": 'a "b"', "stars": "1"}]
    path = write(tmp_path / "t.csv", content.replace("\t", ","))
    assert rows(path) == [{"text": 'a "b"', "stars": "1"}]
    assert rows(path, quotes="no") == [{"text": '"a ""b"""', "stars": "1"}]


def test_quotes_within_a_field_that_is_not_quoted_are_literal(tmp_path):
    path = write(tmp_path / "t.csv", 'text,stars\na 5" disk,1\n"the ""third""\none",2\n')
    assert [*rows(path)[0].values()] == ['a 5" disk', "1"]
    assert [*rows(path)[1].values()] == ['the "third"\none', "2"]


def test_quoted_fields_are_those_of_the_csv_module(tmp_path):
    draw = random.Random(1)
    table = [
        ["".join(draw.choices('ab",\n ', k=draw.randrange(6))) for _ in range(3)]
        for _ in range(400)
    ]
    target = io.StringIO()
    csv.writer(target, lineterminator="\n").writerows(table)
    path = write(tmp_path / "t.csv", target.getvalue())
    assert [list(row.values()) for row in rows(path, [0, 1, 2])] == table


def test_places_are_right_after_rows_of_several_lines(tmp_path):
    path = write(tmp_path / "t.csv", 'text,stars\n"a\nb\n",1\nc,2\nd\n')
    places = [row.place for row in read_table(path, TableFormat(), ["text"], on_bad=print)]
    assert places == [f"{path}:2", f"{path}:5"]
    with pytest.raises(BadRow, match=":6: the row has 1 column"):
        rows(path)


@pytest.mark.parametrize(
    "lines",
    [
        ['x","y'],
        ['5" disk,1'],
        ['"a'],
        ['"open', *['plain,"1"'] * 50],
        ['x,"""'],
        ['a,"b"c'],
        ['"'],
    ],
    ids=lambda lines: lines[0],
)
def test_reading_takes_linear_time_however_many_quotes_are_unbalanced(tmp_path, monkeypatch, lines):
    parsed = []

    def counting(row: str, separator: str) -> list[str]:
        parsed.append(len(row))
        return split_quoted(row, separator)

    monkeypatch.setattr(delimited, "split_quoted", counting)
    content = "\n".join(["first,1", *lines * 400])
    skipped(write(tmp_path / "t.csv", content), [0])
    assert sum(parsed) <= 3 * len(content)


def test_a_quote_that_is_never_closed_costs_one_row(tmp_path):
    path = write(tmp_path / "t.csv", 'text,stars\na,1\n"b,2\n' + "c,3\n" * 100)
    found, messages = skipped(path)
    assert len(found) == 101
    assert messages == [
        f"{path}:3: a quote is opened and not closed; if quotes are literal here, say so (quotes=no)"
    ]


# -- files -------------------------------------------------------------------------------------------------------------


def test_files_globs_and_folders_are_read_one_after_the_other(tmp_path):
    first = write(tmp_path / "a.csv", as_csv(RECORDS[:1]))
    second = write(tmp_path / "b.csv", as_csv(RECORDS[1:]))
    for paths in ([first, second], str(tmp_path), f"{tmp_path}/*.csv"):
        assert rows(paths) == RECORDS


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("absent.csv", {}, "there is no file, folder or glob match"),
        ("-", {}, "standard input cannot be read as a table"),
        ("notes.dat", {}, "name the format. Available: csv, json, jsonl, parquet, tsv"),
        ("mixed", {}, "holds tables of several formats (csv, tsv)"),
        ("empty", {}, "holds no table (looked for .tsv, .csv"),
        ("object.json", {}, "is not JSON"),
        ("pack.parquet.gz", {}, "is compressed twice"),
    ],
)
def test_files_that_are_no_tables_are_refused(tmp_path, name, options, message):
    (tmp_path / "mixed").mkdir()
    (tmp_path / "empty").mkdir()
    for path in ("notes.dat", "mixed/a.csv", "mixed/b.tsv", "pack.parquet.gz"):
        write(tmp_path / path, "text,stars\n")
    write(tmp_path / "object.json", "[1,")
    path = name if name == "-" else str(tmp_path / name)
    with pytest.raises(DataError) as refused:
        rows(path, **options)
    assert message in str(refused.value)


def test_json_lines_are_known_although_their_suffix_is_json(tmp_path):
    path = write(tmp_path / "t.json", as_jsonl(RECORDS))
    assert rows(path) == RECORDS
    assert next(read_table(path, TableFormat(), [])).place == f"{path}:1"


def test_fields_within_fields_have_names_with_dots(tmp_path):
    record = {"question": {"stem": "why", "choices": [{"text": "a"}]}, "a.b": 1}
    path = write(tmp_path / "t.jsonl", as_jsonl([record]))
    assert rows(path, ["question.stem", "a.b"]) == [{"question.stem": "why", "a.b": 1}]


# -- Hugging Face data sets --------------------------------------------------------------------------------------------


@pytest.mark.slow  # importing `datasets` takes seconds
def test_a_saved_data_set_gives_the_same_rows_and_names_its_classes(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    classes = datasets.Features(
        {
            "text": datasets.Value("string"),
            "stars": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["bad", "good"]),
        }
    )
    labelled = [record | {"label": label} for record, label in zip(RECORDS, (1, 0, -1))]
    train = datasets.Dataset.from_list(labelled, features=classes)
    datasets.DatasetDict({"train": train, "test": train.select([0])}).save_to_disk(tmp_path / "d")

    wanted = ["text", "label"]
    expected = [
        {"text": record["text"], "label": label}
        for record, label in zip(RECORDS, ("good", "bad", None))
    ]
    for path in (f"datasets:{tmp_path}/d:train", f"{tmp_path}/d/train"):
        assert rows(path, wanted) == expected
    (row, *_) = read_table(f"datasets:{tmp_path}/d:test", TableFormat(), wanted)
    assert row.place == f"{tmp_path}/d:test: row 1"
    with pytest.raises(DataError, match="has several splits; name one, as in datasets:"):
        rows(f"{tmp_path}/d", wanted)
    with pytest.raises(DataError, match="has no split 'tset'. Did you mean 'test'"):
        rows(f"datasets:{tmp_path}/d:tset", wanted)
    with pytest.raises(DataError, match="has no column 'txt'. Did you mean 'text'"):
        rows(f"{tmp_path}/d/train", ["txt"])

    (tmp_path / "files").mkdir()
    write(tmp_path / "files" / "train.csv", as_csv(RECORDS))
    found = rows(f"datasets:{tmp_path}/files:train", ["text"])
    assert found == [{"text": record["text"]} for record in RECORDS]


def test_a_data_set_that_needs_a_library_says_which(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        DataError, match=r"needs the package 'datasets'; install it with pip install"
    ):
        rows("datasets:imdb:train", ["text"])
