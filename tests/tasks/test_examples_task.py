"""Examples from tables: what is read, chosen, measured and written, and what is refused."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef

from fwk.errors import ConfigError, DataError, FwkError, UserError
from fwk.tasks.examples import SOURCE, Examples

ROWS = [
    (f"{noun} number {number}, which is {word}", ("good", "bad", "v 1.0")[number % 3])
    for number, (noun, word) in enumerate(
        (noun, word)
        for noun in ("door", "house", "apple")
        for word in ("red", "green", "old", "new")
    )
]


def task(data: Path, seed: int = 1, **options: object) -> Examples:
    given = {"valid_share": 0.0, "vocabulary": 60, "length": 32, **options}
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    return Examples(Examples.Config(data=str(data), **values), seed)


def jsonl(folder: Path, rows: list[dict], name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return jsonl(tmp_path, [{"text": text, "label": label} for text, label in ROWS])


def contents(opened: Examples, split: str = "train") -> list[tuple]:
    """Return tokens and label of every example of a split."""
    source = opened.sources(split)[SOURCE]
    return [
        (*(ids.tolist() for ids in source[n].texts["text"]), source[n].labels["label"].tolist())
        for n in range(len(source))
    ]


# -- reading


def separated(path: Path, separator: str, header: bool, newline: str = "\n") -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=separator, lineterminator=newline)
        writer.writerows([("text", "label")] * header + ROWS)
    return path


def test_every_shape_of_a_table_gives_the_same_examples(table: Path, tmp_path: Path) -> None:
    expected = contents(task(table))
    for name, separator, newline in (
        ("a.csv", ",", "\n"),
        ("b.csv", ",", "\r\n"),
        ("a.tsv", "\t", "\n"),
    ):
        path = separated(tmp_path / name, separator, True, newline)
        assert contents(task(path)) == expected
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert contents(task(path)) == expected
    bare = separated(tmp_path / "bare.csv", ",", False)
    assert contents(task(bare, columns=["text", "label"])) == expected
    for last in (1, -1, "1"):
        assert contents(task(bare, texts=["text=0"], label=last)) == expected
    for texts in ([0], 0, "0"):
        assert task(bare, texts=texts, label=1).text_names() == ("text0",)


@pytest.mark.parametrize(
    ("cells", "options", "kind", "values"),
    [
        (["b", "a", "b"], {}, "class", ("a", "b")),
        ([10, 9, 10], {}, "class", ("9", "10")),
        ([True, False, True], {}, "class", ("false", "true")),
        ([0.5, 2, 3], {}, "number", ()),
        ([1, 2, 3], {"kind": "number"}, "number", ()),
        ([["x y"], [], ["z", "x y"]], {}, "classes", ("x y", "z")),
        (["x;z", "", "z"], {"kind": "classes", "separator": ";"}, "classes", ("x", "z")),
        ([[1, 2.5], [3, 4], [0, 0]], {}, "numbers", ("0", "1")),
        ([2, 1, 0], {"classes": [2, 1, 0]}, "class", ("2", "1", "0")),
    ],
)
def test_the_kind_of_a_label_follows_from_its_cells(
    cells: list, options: dict, kind: str, values: tuple, tmp_path: Path
) -> None:
    rows = [{"text": text, "label": cell} for (text, _), cell in zip(ROWS, cells)]
    if "" in cells:
        rows = [row for row in rows if row["label"]]
    opened = task(jsonl(tmp_path, rows), **options)
    assert opened.label_kinds() == {"label": kind} and opened.labels() == {"label": values}


def test_a_label_beside_choices_is_the_right_one(tmp_path: Path) -> None:
    rows = [
        {"text": "where is it", "among": ["here", "there", "away"][: 2 + n % 2], "label": n % 2}
        for n in range(4)
    ]
    path = jsonl(tmp_path, rows)
    opened = task(path, choices=["among"])
    assert opened.label_kinds() == {"label": "choice"}
    assert task(path, choices=["among"], kind="class").labels() == {"label": ("0", "1")}
    source = opened.sources("train")[SOURCE]
    assert [len(source[n].texts["choices"]) for n in range(4)] == [2, 3, 2, 3]


def test_a_row_may_leave_its_last_choices_empty(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("q,1st,2nd,3rd,gold\nwhere,here,there,away,C\nwho,you,me,,A\n")
    options = {"texts": "q", "choices": ["1st", "2nd", "3rd"], "label": "gold"}
    source = task(path, **options).sources("train")[SOURCE]
    assert [len(source[n].texts["choices"]) for n in range(2)] == [3, 2]
    assert source.labels["label"].tolist() == [2, 0]
    for row, message in (
        ("who,you,,me,A", "data.csv:2: the text '2nd' is empty"),
        ("who,you,,,A", "there is 1 choice, expected at least 2"),
        ("who,you,me,,C", "the right choice is number 2, and there are 2"),
        ("who,you,me,he,E", "the right choice is number 4, and there are 3"),
    ):
        path.write_text(f"q,1st,2nd,3rd,gold\n{row}\n")
        with pytest.raises(DataError, match=message):
            task(path, **options)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "there is no row that can be used"),
        ([{"text": "a", "label": "x"}], {}, "has only 'x', expected at least two classes"),
        ([{"text": "a"}], {}, "no field 'label'"),
        ([{"text": "a", "label": "x"}], {"texts": ["txt"]}, "no field 'txt'.*Did you mean 'text'"),
        ([{"text": "a", "label": None}], {}, r"data.jsonl:1: the label 'label' is empty"),
        ([{"text": " ", "label": "x"}], {}, r"data.jsonl:1: the text 'text' is '?.*expected text"),
        ([{"text": 5, "label": "x"}], {}, "the text 'text' is 5; expected text"),
        ([{"text": "a", "label": ["x"]}], {"kind": "class"}, "expected a class as label"),
        ([{"text": "a", "label": "1,5"}], {"kind": "number"}, "decimals follow a point"),
        ([{"text": "a", "label": "y"}], {"classes": ["x", "z"]}, "unknown label 'y'"),
        ([{"text": "a", "label": [5, 9]}], {"kind": "span"}, "beyond 'text'"),
        (
            [{"text": "a", "label": [1]}, {"text": "b", "label": [1, 2]}],
            {"kind": "numbers"},
            "from 1 to 2",
        ),
    ],
)
def test_rows_that_cannot_be_used_are_named(
    rows: list[dict], options: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        task(jsonl(tmp_path, rows), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": ["text", "text"]}, "two texts are called 'text'"),
        ({"classes": ["bad", "good", 1, "1"]}, "lists '1' twice"),
        ({"truncate": "txt"}, "there is no text 'txt'"),
        ({"windows": "text"}, "needs stride"),
        ({"stride": 4, "choices": ["text", "label"], "label": None}, "'choices' is a list"),
        ({"metrics": ["f1"]}, "'f1' is of two classes, and the label 'label' has 3"),
        ({"metrics": ["pearson"]}, "measures a label of the kind number.*expected accuracy"),
        ({"metrics": ["accurac"]}, "Did you mean 'accuracy'"),
        ({"fraction": 0.5, "per_class": 1}, "expected one of them"),
        ({"label": None, "per_class": 1}, "no label with classes"),
    ],
)
def test_options_that_do_not_fit_are_refused_when_the_task_opens(
    options: dict, message: str, table: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        task(table, **options)


# -- choosing


def test_held_out_rows_and_the_others_are_all_rows(table: Path) -> None:
    everything = contents(task(table))
    for seed in range(3):
        opened = task(table, seed, valid_share=0.25)
        parts = contents(opened) + contents(opened, "valid")
        assert len(contents(opened, "valid")) == 3 and len(parts) == len(everything)
    # a class of held-out rows alone is known all the same
    assert all(task(table, seed, valid_share=0.7).labels()["label"] for seed in range(5))


def test_rows_of_one_key_leave_none_to_hold_out(tmp_path: Path) -> None:
    rows = [{"text": text, "label": label, "id": "x"} for text, label in ROWS]
    with pytest.raises(DataError, match="12 examples with one key leave none to hold out"):
        task(jsonl(tmp_path, rows), key="id", valid_share=0.1)


@pytest.mark.parametrize(
    ("name", "values", "sizes"),
    [("fraction", (0.2, 0.5, 1.0), (3, 6, 12)), ("per_class", (1, 2, 9), (3, 6, 12))],
)
def test_a_smaller_choice_is_part_of_a_larger_one(
    name: str, values: tuple, sizes: tuple, table: Path
) -> None:
    chosen = []
    for value in values:
        opened = task(table, choice_seed=7, **{name: value})
        chosen.append(set(opened.sources("train")[SOURCE].keys))
        assert opened.labels() == {"label": ("bad", "good", "v 1.0")}
    assert tuple(map(len, chosen)) == sizes
    assert chosen[0] < chosen[1] < chosen[2]
    assert chosen[0] == set(
        task(table, 5, choice_seed=7, **{name: values[0]}).sources("train")[SOURCE].keys
    )


# -- measuring: predictions are made by hand


def predict(opened: Examples, values: list, split: str = "train") -> dict[str, float]:
    return opened.metrics_of_predictions(
        split, {SOURCE: {"label": {n: torch.as_tensor(v) for n, v in enumerate(values)}}}
    )


def test_metrics_of_classes_are_those_of_scikit_learn(table: Path) -> None:
    names = ["accuracy", "macro_f1", "micro_f1", "matthews"]
    opened = task(table, metrics=names)
    logits = np.random.default_rng(0).normal(size=(12, 3))
    gold, predicted = opened.sources("train")[SOURCE].labels["label"], logits.argmax(1)
    metrics = predict(opened, list(logits))
    assert metrics == pytest.approx(
        {
            "accuracy": np.mean(gold == predicted),
            "macro_f1": f1_score(gold, predicted, average="macro"),
            "micro_f1": f1_score(gold, predicted, average="micro"),
            "matthews": matthews_corrcoef(gold, predicted),
        }
    )


def test_metrics_of_numbers_are_those_of_scipy(tmp_path: Path) -> None:
    gold = np.random.default_rng(1).normal(size=12)
    rows = [{"text": text, "label": float(y)} for (text, _), y in zip(ROWS, gold)]
    predicted = np.random.default_rng(2).normal(size=12)
    metrics = predict(task(jsonl(tmp_path, rows)), list(predicted))
    assert metrics == pytest.approx(
        {
            "pearson": stats.pearsonr(gold, predicted).statistic,
            "spearman": stats.spearmanr(gold, predicted).statistic,
            "mse": np.mean((gold - predicted) ** 2),
        },
        rel=1e-5,
    )


def test_metrics_of_several_classes_are_those_of_scikit_learn(tmp_path: Path) -> None:
    names = np.array(["p", "q", "r"])
    gold = np.random.default_rng(3).random((12, 3)) > 0.5
    rows = [{"text": text, "label": names[yes].tolist()} for (text, _), yes in zip(ROWS, gold)]
    logits = np.random.default_rng(4).normal(size=(12, 3))
    metrics = predict(
        task(jsonl(tmp_path, rows), metrics=["micro_f1", "macro_f1", "accuracy"]), list(logits)
    )
    assert metrics == pytest.approx(
        {
            "micro_f1": f1_score(gold, logits > 0, average="micro", zero_division=0),
            "macro_f1": f1_score(gold, logits > 0, average="macro", zero_division=0),
            "accuracy": np.mean((gold == (logits > 0)).all(1)),
        }
    )


def test_rows_without_a_label_are_not_measured(table: Path, tmp_path: Path) -> None:
    rows = [
        {"text": text, "label": label if n % 2 else None} for n, (text, label) in enumerate(ROWS)
    ]
    opened = task(table, test=str(jsonl(tmp_path, rows, "test.jsonl")))
    gold = opened.sources("test")[SOURCE].labels["label"]
    assert (gold < 0).sum() == 6
    right = np.eye(3)[np.maximum(gold, 0)]  # of unlabelled rows it is any class
    assert predict(opened, list(right), "test") == {"accuracy": 1.0}
    assert predict(opened, list(-right), "test") == {"accuracy": 0.0}


def test_windows_of_an_example_are_one_prediction(tmp_path: Path) -> None:
    words = "one two three four five six seven eight nine ten"
    rows = [{"text": " ".join(words.split()[n:]), "label": "ab"[n % 2]} for n in range(9)]
    opened = task(jsonl(tmp_path, rows), length=10, stride=3)
    source = opened.sources("train")[SOURCE]
    assert len(source) > len(source.keys)
    logits = np.random.default_rng(0).normal(size=(len(source), 2))
    examples = np.array([source.example_of(n) for n in range(len(source))])
    means = np.array([logits[examples == n].mean(0) for n in range(9)])
    expected = np.mean(means.argmax(1) == source.labels["label"])
    assert predict(opened, list(logits))["accuracy"] == pytest.approx(expected)
    values = {"label": {n: torch.tensor(row) for n, row in enumerate(logits)}}
    opened.write_predictions("train", SOURCE, values, tmp_path / "said.csv")
    with open(tmp_path / "said.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["label"] for row in table] == ["ab"[place] for place in means.argmax(1)]


# -- predictions


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize(
    ("cells", "values", "expected"),
    [
        (["a", "b", "a"], [[2.0, 0.0], [0.0, 1.0], [3.0, 1.0]], ["a", "b", "a"]),
        ([0.5, 1.5, 2.5], [1.25, 2.5, -3.0], [1.25, 2.5, -3.0]),
        (
            [["x y"], ["z"], []],
            [[1.0, 2.0], [-1.0, 1.0], [1.0, -1.0]],
            [["x y", "z"], ["z"], ["x y"]],
        ),
        (
            [[1, 2], [3, 4], [5, 6]],
            [[1.5, 2.0], [0.5, 1.0], [-1.0, 0.25]],
            [[1.5, 2.0], [0.5, 1.0], [-1.0, 0.25]],
        ),
    ],
    ids=["class", "number", "classes", "numbers"],
)
def test_a_table_of_predictions_can_be_read_as_labels(
    suffix: str, cells: list, values: list, expected: list, tmp_path: Path
) -> None:
    rows = [{"id": f"k,{n}", "text": ROWS[n][0], "label": cell} for n, cell in enumerate(cells)]
    opened = task(jsonl(tmp_path, rows), key="id")
    path = tmp_path / f"said{suffix}"
    given = {"label": {n: torch.tensor(value) for n, value in enumerate(values)}}
    opened.check_predictions("train", {SOURCE: path})
    opened.write_predictions("train", SOURCE, given, path)
    if suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert [line["key"] for line in lines] == [row["id"] for row in rows]
        assert [line["label"]["prediction"] for line in lines] == expected
        return
    with open(path, encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file, delimiter="," if suffix == ".csv" else "\t"))
    assert {len(line) for line in lines} == {len(lines[0])}
    assert [line[0] for line in lines[1:]] == [row["id"] for row in rows]
    texts = [",".join(map(str, v)) if isinstance(v, list) else str(v) for v in expected]
    assert [line[1] for line in lines[1:]] == texts


def test_a_file_that_does_not_say_how_predictions_are_written_is_refused(table: Path) -> None:
    with pytest.raises(UserError, match=r"expected a name that ends in .csv, .tsv, .jsonl"):
        task(table).check_predictions("train", {SOURCE: Path("said.txt")})


# -- questions about a text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one", "expected the texts text, among"),
        (5, "expected the texts text, among, got 5"),
        (["a", ["b", "c"], "d"], "expected the texts"),
        ({"text": "a"}, "expected the texts"),
        (["a", "b"], "'choices' is 'b', expected a list of texts"),
        ([["a"], ["b", "c"]], "expected text"),
        (["a", ["b", 5]], "expected text"),
        (["a", ["b", " "]], "the text 'choices' is empty"),
        (["a", []], "expected a list of texts"),
    ],
)
def test_a_text_of_another_shape_is_one_sentence(
    text: object, message: str, tmp_path: Path
) -> None:
    rows = [{"text": "where is it", "among": ["here", "there"], "label": n % 2} for n in range(4)]
    opened = task(jsonl(tmp_path, rows), choices=["among"])
    with pytest.raises(FwkError, match=message.replace("among", "choices")):
        opened.example_of(text)
    by_name = opened.example_of({"choices": ["b", "c"], "text": "a"})
    in_order = opened.example_of(["a", ("b", "c")])
    for name in ("text", "choices"):
        pairs = zip(by_name.texts[name], in_order.texts[name], strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)


# -- without the data of training


def test_a_run_evaluates_other_tables_with_its_own_classes(table: Path, tmp_path: Path) -> None:
    trained = task(table)
    (tmp_path / "run").mkdir()
    trained.save_assets(tmp_path / "run" / "tokenizer")
    other = jsonl(tmp_path, [{"said": "the door is new"}, {"said": "an old house"}], "other.jsonl")
    table.unlink()

    def evaluated(split: str, **options: object) -> Examples:
        config = Examples.Config(data=str(table), **options)
        return Examples.for_evaluation(config, 1, tmp_path / "run", split, trained.config)

    opened = evaluated("test", test=str(other), texts=("text=said",), length=32)
    assert opened.labels() == trained.labels() and opened.fingerprint() == trained.fingerprint()
    assert (opened.sources("test")[SOURCE].labels["label"] == -1).all()
    with pytest.raises(DataError, match="no text 'text', which the model reads"):
        evaluated("test", test=str(other), texts=("said",), length=32)
    with pytest.raises(DataError, match="unknown label 'fine'"):
        wrong = jsonl(tmp_path, [{"text": "a", "label": "fine"}], "wrong.jsonl")
        evaluated("test", test=str(wrong), length=32)


def test_classes_are_counted_among_what_is_trained_on_and_kept_with_the_run(
    table: Path, tmp_path: Path
) -> None:
    few = task(table, per_class=1)
    assert few.label_counts() == {"label": (1,) * len(few.labels()["label"])}
    trained = task(table)
    counts = dict(zip(trained.labels()["label"], trained.label_counts()["label"]))
    assert counts == dict(Counter(str(label) for _, label in ROWS))
    (tmp_path / "run").mkdir()
    trained.save_assets(tmp_path / "run" / "tokenizer")
    opened = Examples.without_data(trained.config, 1, tmp_path / "run")
    assert opened.label_counts() == trained.label_counts()


def test_a_text_that_is_cut_is_told_once(table: Path, caplog) -> None:
    opened = task(table)
    for _ in range(2):
        opened.example_of("word " * 100)
    assert caplog.text.count("more than task.length=32 tokens and is cut") == 1
