"""GLUE's tasks from their files: splits, sources, metrics, submissions, and a run judged by another task's file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef

from fwk.errors import DataError
from fwk.tasks.glue import Glue

WORDS = ["door", "house", "apple", "barn", "red", "green", "old", "new", "small", "white"]
CLASSES = ("contradiction", "entailment", "neutral")


def sentence(number: int) -> str:
    return f"the {WORDS[number % 10]} is {WORDS[(3 * number + 4) % 10]}"


def table(folder: Path, name: str, columns: list[str], labels: list[object]) -> None:
    """Write a file with a sentence in every column but `index` and the last, which has the labels."""
    folder.mkdir(exist_ok=True)
    lines = ["\t".join(columns)]
    for number, label in enumerate(labels):
        texts = [sentence(number + place) for place in range(len(columns) - 2)]
        lines.append("\t".join([str(number), *texts, str(label)]))
    (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def mrpc(folder: Path) -> None:
    columns = ["index", "#1 String", "#2 String", "Quality"]
    for name in ("train", "dev"):
        table(folder / "MRPC", name, columns, [n % 2 for n in range(8)])
    table(folder / "MRPC", "test", [*columns[:-1], "other"], ["-"] * 4)


def mnli(folder: Path) -> None:
    columns = ["index", "sentence1", "sentence2", "gold_label"]
    table(folder / "MNLI", "train", columns, [CLASSES[n % 3] for n in range(9)])
    for number, name in enumerate(("dev_matched", "dev_mismatched")):
        table(folder / "MNLI", name, columns, [CLASSES[n % 3] for n in range(4 + number)])
    table(folder / "AX", "diagnostic", [*columns[:-1], "other"], ["-"] * 3)


def config(folder: Path, name: str, **options: object) -> Glue.Config:
    return Glue.Config(
        **{"data": str(folder), "set": name, "vocabulary": 60, "length": 32, **options}
    )


def measured(opened: Glue, source: str, values: np.ndarray) -> dict[str, float]:
    predictions = {source: {"label": {n: torch.as_tensor(v) for n, v in enumerate(values)}}}
    return opened.metrics_of_predictions("valid", predictions)


def test_metrics_are_those_that_glue_names(tmp_path: Path) -> None:
    mrpc(tmp_path)
    table(tmp_path / "CoLA", "train", ["index", "sentence", "label"], [n % 2 for n in range(8)])
    table(tmp_path / "CoLA", "dev", ["index", "sentence", "label"], [n % 2 for n in range(8)])
    scores = [0.5 * n for n in range(8)]
    for name in ("train", "dev"):
        table(tmp_path / "STS-B", name, ["index", "sentence1", "sentence2", "score"], scores)
    generator, gold = np.random.default_rng(0), np.arange(8) % 2
    logits = generator.normal(size=(8, 2))
    predicted = logits.argmax(1)
    assert measured(Glue(config(tmp_path, "mrpc")), "mrpc", logits) == pytest.approx(
        {"accuracy": np.mean(gold == predicted), "f1": f1_score(gold, predicted)}
    )
    assert measured(Glue(config(tmp_path, "cola")), "cola", logits) == pytest.approx(
        {"matthews": matthews_corrcoef(gold, predicted)}
    )
    numbers = generator.normal(size=8)
    assert measured(Glue(config(tmp_path, "stsb")), "stsb", numbers) == pytest.approx(
        {
            "pearson": stats.pearsonr(scores, numbers).statistic,
            "spearman": stats.spearmanr(scores, numbers).statistic,
        }
    )


def test_both_development_sets_of_mnli_are_measured(tmp_path: Path) -> None:
    mnli(tmp_path)
    opened = Glue(config(tmp_path, "mnli"))
    assert {name: len(source) for name, source in opened.sources("valid").items()} == {
        "matched": 4,
        "mismatched": 5,
    }
    right = {"label": {n: torch.eye(3)[n % 3] for n in range(4)}}
    wrong = {"label": {n: -torch.eye(3)[n % 3] for n in range(5)}}
    metrics = opened.metrics_of_predictions("valid", {"matched": right, "mismatched": wrong})
    assert metrics == {"matched/accuracy": 1.0, "mismatched/accuracy": 0.0}


def test_doubled_pairs_are_training_examples_in_both_orders(tmp_path: Path) -> None:
    mrpc(tmp_path)
    plain, doubled = (Glue(config(tmp_path, "mrpc", double_pairs=yes)) for yes in (False, True))
    assert len(doubled.sources("valid")["mrpc"]) == len(plain.sources("valid")["mrpc"])
    source, examples = plain.sources("train")["mrpc"], doubled.sources("train")["mrpc"]
    assert len(examples) == 2 * len(source)
    for number in range(len(source)):
        first, second = examples[2 * number], examples[2 * number + 1]
        assert first.labels == second.labels == source[number].labels
        for name, other in (("sentence1", "sentence2"), ("sentence2", "sentence1")):
            assert np.array_equal(second.texts[name][0], first.texts[other][0])


def test_a_run_writes_submissions_of_its_test_split_and_of_the_diagnostic_set(
    tmp_path: Path,
) -> None:
    mrpc(tmp_path)
    mnli(tmp_path)
    for name, split_of, source, count in (("mrpc", "mrpc", "mrpc", 4), ("mnli", "ax", "ax", 3)):
        trained = Glue(config(tmp_path, name))
        run = tmp_path / f"run {name}"
        run.mkdir()
        trained.save_assets(run / "tokenizer")
        opened = Glue.for_evaluation(config(tmp_path, split_of), 1, run, "test", trained.config)
        assert list(opened.sources("test")) == [source]
        classes = trained.labels()["label"]
        values = {n: torch.eye(len(classes))[n % len(classes)] for n in range(count)}
        path = tmp_path / f"{split_of}.tsv"
        opened.check_predictions("test", {source: path})
        opened.write_predictions("test", source, {"label": values}, path)
        lines = [f"{n}\t{classes[n % len(classes)]}" for n in range(count)]
        assert path.read_text() == "\n".join(["index\tprediction", *lines]) + "\n"


def test_a_run_is_not_judged_by_a_task_with_other_texts(tmp_path: Path) -> None:
    mrpc(tmp_path)
    mnli(tmp_path)
    trained = Glue(config(tmp_path, "mnli"))
    trained.save_assets(tmp_path / "tokenizer")
    with pytest.raises(DataError, match="no text 'premise', which the model reads"):
        Glue.for_evaluation(config(tmp_path, "mrpc"), 1, tmp_path, "valid", trained.config)


def test_a_set_without_training_data_is_refused(tmp_path: Path) -> None:
    mnli(tmp_path)
    with pytest.raises(DataError, match="ax has no file of the split 'train'; it has test"):
        Glue(config(tmp_path, "ax"))
