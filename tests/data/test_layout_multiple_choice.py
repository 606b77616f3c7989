"""Data sets of multiple choice become contexts with choices, however their files are laid out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.paths import SHARED

from fwk.data.layouts.multiple_choice import read_multiple_choice
from fwk.data.tables import BadRow
from fwk.errors import DataError, UnknownName

SWAG = (
    ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label"
)
# a file of each layout: its name, its content without the last label, that label, and the example
FILES = {
    "swag": (
        "train.csv",
        f'{SWAG}\n0,v,17,"A, b. She",A "b".,She,gold,runs,"eats, too.",sits,naps,',
        "1",
        ('A "b".', ("She runs", "She eats, too.", "She sits", "She naps"), 1, "17"),
    ),
    "hellaswag": (
        "train.jsonl",
        '{"ind": 4, "ctx_a": "A", "ctx_b": "b", "ctx": "A b", "endings": ["c", "d", "e"], "label": ',
        "2",
        ("A b", ("c", "d", "e"), 2, "4"),
    ),
    "arc": (
        "train.jsonl",
        '{"id": "M1", "question": {"stem": "Why?", "choices": [{"text": "c", "label": "1"}, '
        '{"text": "d", "label": "2"}]}, "answerKey": ',
        '"2"',
        ("Why?", ("c", "d"), 1, "M1"),
    ),
    "arc of the hub": (
        "train.json",
        '{"id": "M1", "question": "Why?", "choices": {"text": ["c", "d"], "label": ["A", "B"]}, "answerKey": ',
        '"B"',
        ("Why?", ("c", "d"), 1, "M1"),
    ),
    "arc as csv": ("train.csv", 'Why?,c,"d, e",f,g,', "B", ("Why?", ("c", "d, e", "f", "g"), 1, "0")),
    "mutual": (
        "train.jsonl",
        '{"id": "train_1", "article": "m : hi", "options": ["f : a", "f : b", "f : c", "f : d"], "answers": ',
        '"D"',
        ("m : hi", ("f : a", "f : b", "f : c", "f : d"), 3, "train_1"),
    ),
}  # fmt: skip


def write(folder: Path, name: str, label: str | None = None) -> str:
    file, content, right, _ = FILES[name]
    end = "}" if content.startswith("{") else ""
    path = folder / file
    path.write_text(f"{content}{right if label is None else label}{end}\n")
    return str(path)


@pytest.mark.parametrize("name", FILES)
def test_a_layout_is_recognised_by_its_columns(tmp_path, name):
    path = write(tmp_path, name)
    layout = name.split()[0]
    context, choices, label, key = FILES[name][3]
    for asked in ("auto", layout):
        (example,) = read_multiple_choice(path, asked)
        assert example.texts == {"context": context, "choices": choices}
        assert example.labels == {"label": label}
        assert example.key == key
        assert example.place.startswith(path)


@pytest.mark.parametrize("name, label", [("swag", ""), ("hellaswag", '""'), ("mutual", "null")])
def test_an_example_without_a_label_has_none(tmp_path, name, label):
    (example,) = read_multiple_choice(write(tmp_path, name, label))
    assert example.labels == {}


@pytest.mark.parametrize(
    "name, label, reason",
    [
        ("swag", "4", "the right choice is '4', expected one of 0, 1, 2, 3"),
        ("hellaswag", "-1", "the right choice is '-1', expected one of 0, 1, 2"),
        ("arc", '"A"', "the right choice is 'A', expected one of 1, 2"),
        ("mutual", "[1]", "expected a class as label, got a list"),
    ],
)
def test_a_label_that_is_no_choice_is_refused(tmp_path, name, label, reason):
    path = write(tmp_path, name, label)
    with pytest.raises(BadRow) as refused:
        list(read_multiple_choice(path))
    assert reason in str(refused.value)
    bad: list[BadRow] = []
    assert list(read_multiple_choice(path, on_bad=bad.append)) == []
    assert [str(error) for error in bad] == [str(refused.value)]


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"endings": ["c"]}, "expected at least 2 choices, each with a name, got 1"),
        ({"endings": "cd"}, "endings is 'cd', expected a list"),
        ({"endings": ["c", 3]}, "the choice 1 is 3, expected text"),
        ({"ctx": None}, "the context is null, expected text"),
        ({"ctx": ...}, "the record has no field 'ctx'"),
    ],
)
def test_a_bad_record_is_named(tmp_path, change, reason):
    record = {"ctx": "A", "endings": ["c", "d"], "label": 1}
    bad = {name: value for name, value in (record | change).items() if value is not ...}
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in (record, bad)))
    with pytest.raises(BadRow) as refused:
        list(read_multiple_choice(str(path)))
    assert str(refused.value) == f"{path}:2: {reason}"


def test_files_of_another_layout_are_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,a,b,c,stars\ngood,1,2,3,5\n")
    with pytest.raises(DataError, match="the columns are those of no data set of multiple choice"):
        read_multiple_choice(str(path))
    with pytest.raises(DataError, match="known are mutual: article, options"):
        read_multiple_choice(write(tmp_path, "hellaswag"), "mutual")
    with pytest.raises(UnknownName, match="Did you mean 'hellaswag'"):
        read_multiple_choice(str(path), "helaswag")
    path.write_text("\n")
    with pytest.raises(DataError, match="holds no example"):
        read_multiple_choice(str(path))


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "multichoice").is_dir(), reason="the data sets are not there")
def test_every_row_of_real_files_is_an_example():
    for path in sorted((SHARED / "multichoice").glob("*/*.xz")):
        examples = list(read_multiple_choice(str(path)))
        assert len(examples) > 100
        assert all(len(e.texts["choices"]) == 4 and "label" in e.labels for e in examples)
