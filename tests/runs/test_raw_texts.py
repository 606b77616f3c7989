"""Raw texts are predicted as the examples of a split are: in windows, and from tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from support.paths import FIXTURES

import fwk
from fwk.cli.evaluate import main
from fwk.contracts.plain import PlainDict
from fwk.testing import tiny_config, train_briefly

TABLE = FIXTURES / "examples.jsonl"
ROWS = [json.loads(line) for line in TABLE.read_text().splitlines()]
RUNS: dict[str, tuple[PlainDict, PlainDict]] = {
    "class": ({"label": "colour", "stride": 5, "length": 30}, {"classification": {}}),
    "span": (
        {"label": "answer", "kind": "span", "stride": 5, "length": 30},
        {"answer_span": {"best": 4}},
    ),
    "choice": (
        {"texts": ["passage"], "choices": "choices", "label": "right", "length": 64},
        {"multiple_choice": {"fields": ["passage", "choices"]}},
    ),
}


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function: kind of label -> a run, which is made once."""
    folder = tmp_path_factory.mktemp("runs")

    @cache
    def trained(kind: str) -> Path:
        task, criterion = RUNS[kind]
        shared = {"name": "examples", "data": str(TABLE), "valid": str(TABLE), "vocabulary": 120}
        texts = {"texts": ["question", "passage"]}
        config = tiny_config(
            {
                "task": {**shared, **texts, **task},
                "criterion": criterion,
                "train": {"precision": "fp32", "updates": 1, "validate_every": 9},
            }
        )
        train_briefly(config, folder / kind)
        return folder / kind

    return trained


def predicted(run: Path, file: Path, *arguments: object) -> list[PlainDict]:
    """Return what `fwk-evaluate` writes to a file."""
    file.unlink(missing_ok=True)
    assert main([str(run), "--predictions", str(file), *map(str, arguments)]) == 0
    return [json.loads(line) for line in file.read_text().splitlines()]


def check_same(ours: PlainDict, theirs: PlainDict) -> None:
    """Check that two predictions agree; batches of other lengths round otherwise."""
    assert ours.keys() == theirs.keys() and ours["prediction"] == theirs["prediction"]
    for name in ours.keys() - {"prediction"}:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-5)


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.mostly_slow("=span")
def test_a_raw_text_has_the_prediction_of_its_example(
    kind: str, run_of: Callable[[str], Path], tmp_path: Path
) -> None:
    evaluated = predicted(run_of(kind), tmp_path / "split.jsonl")
    loaded = fwk.load(run_of(kind))
    names = loaded.task.text_names()
    from_python = loaded.predict([{name: row[name] for name in names} for row in ROWS])
    from_table = predicted(run_of(kind), tmp_path / "raw.jsonl", "--text", TABLE)
    assert len(evaluated) == len(ROWS) == len(from_python) == len(from_table)
    for split, text, row in zip(evaluated, from_python, from_table):
        check_same(split["label"], text["label"])
        check_same(split["label"], row["label"])


def test_a_text_in_windows_is_not_cut(run_of: Callable[[str], Path], caplog) -> None:
    task = fwk.load(run_of("span")).task
    assert len(task.examples_of(["Where?", ROWS[0]["passage"]])) > 1
    assert "is cut" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("separator, suffix", [("\t", ".tsv"), (",", ".csv")])
def test_a_table_of_separated_values_holds_lists_as_json(
    separator: str, suffix: str, run_of: Callable[[str], Path], tmp_path: Path
) -> None:
    table = tmp_path / f"raw{suffix}"
    with open(table, "w", newline="", encoding="utf-8") as file:
        quoting = csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE
        writer = csv.writer(
            file, delimiter=separator, quoting=quoting, quotechar='"' if separator == "," else None
        )
        writer.writerow(["choices", "other", "passage"])
        for row in ROWS[:3]:
            writer.writerow([json.dumps(row["choices"]), "x", row["passage"]])
    ours = predicted(run_of("choice"), tmp_path / "ours.jsonl", "--text", table)
    theirs = predicted(run_of("choice"), tmp_path / "theirs.jsonl", "--text", TABLE)
    for left, right in zip(ours, theirs[:3], strict=True):
        check_same(left["label"], right["label"])


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.tsv", "question\tpassages\na\tb\n", "a.tsv has no column 'passage'"),
        ("a.tsv", "question\tpassage\na\tb\nc\t \n", "a.tsv:3: the text 'passage' is empty"),
        ("a.tsv", "question\tpassage\na\n", "a.tsv:2: the row has 1 column, expected 2"),
        (
            "a.jsonl",
            '{"question": "a", "passage": 3}\n',
            "a.jsonl:1: 'passage' is 3, expected text",
        ),
        ("a.jsonl", '{"question": "a"}\n', "a.jsonl:1: the record has no field 'passage'"),
        ("a.txt", "one text\n", "reads question, passage of each example, and a line is one text"),
    ],
)
def test_what_cannot_be_read_is_named(
    name: str, content: str, message: str, run_of: Callable[[str], Path], tmp_path: Path, capsys
) -> None:
    (tmp_path / name).write_text(content)
    output = tmp_path / "predictions.jsonl"
    command = [str(run_of("span")), "--text", str(tmp_path / name), "--predictions", str(output)]
    assert main(command) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()
