"""What a run measures and predicts does not depend on batches, ranks, or data that are gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.cases import TABLE, config_of
from support.commands import torchrun

import fwk
from fwk.data.targets import hashed_keys, read_targets
from fwk.engine.evaluate import evaluate
from fwk.runs.evaluating import evaluate_run
from fwk.testing import train_briefly, trainer_of

CHOICE, WINDOWS = "multiple_choice", "joint answers in windows"
OTHERS = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("classification", "regression", "multilabel", "similarity")
]


def trained(name: str, folder: Path, **changes: object) -> Path:
    train_briefly(config_of(name, changes), folder, 2)
    return folder


@pytest.mark.parametrize("name", [CHOICE, WINDOWS, *OTHERS])
def test_measures_and_targets_are_equal_whatever_the_batches(name: str, tmp_path: Path) -> None:
    run = trained(name, tmp_path / "run")
    results, targets = [], []
    for number, overrides in enumerate(
        (["train.batch=12"], ["task.by_length=false", "train.batch=5", "train.micro_batch=2"])
    ):
        path = tmp_path / f"{number}.safetensors"
        results.append(evaluate_run(run, overrides=overrides, targets=path)["metrics"])
        targets.append(read_targets(path))
    assert results[0] == pytest.approx(results[1], rel=1e-9)
    (source,) = targets[0].tensors
    assert torch.equal(targets[0].keys[source], targets[1].keys[source])
    assert targets[0].origin["fingerprint"] == targets[1].origin["fingerprint"]
    for label, values in targets[0].tensors[source].items():
        torch.testing.assert_close(values, targets[1].tensors[source][label], equal_nan=True)
        if name != WINDOWS:
            assert torch.equal(targets[0].keys[source], hashed_keys(list(map(str, range(40)))))
            assert not bool(values.isnan().any())


@pytest.mark.parametrize("name", ["classification", CHOICE])
def test_a_part_of_the_split_is_measured_where_validation_reads_a_part(name: str) -> None:
    for batches in (1, 2):
        with trainer_of(config_of(name, {"train": {"validate_batches": batches}})) as trainer:
            metrics = evaluate(trainer.run, "valid")
            assert metrics["accuracy"] == pytest.approx(metrics[f"{name}/accuracy"])


@pytest.mark.parametrize("name", ["classification", pytest.param(WINDOWS, marks=pytest.mark.slow)])
def test_a_run_is_evaluated_and_asked_without_the_data_of_training(
    name: str, tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    shutil.copy(TABLE, data)
    run = trained(name, tmp_path / "run", task={"data": str(data)})
    before = evaluate_run(run)["metrics"]
    data.unlink()
    assert evaluate_run(run)["metrics"] == before
    rows = [json.loads(line) for line in Path(TABLE).read_text(encoding="utf-8").splitlines()]
    test = tmp_path / "test.jsonl"
    unlabelled = [{key: row[key] for key in ("question", "passage")} for row in rows[:5]]
    test.write_text("".join(json.dumps(row) + "\n" for row in unlabelled))
    said = tmp_path / "said.jsonl"
    result = evaluate_run(run, "test", overrides=[f"task.test={test}"], predictions=said)
    lines = [json.loads(line) for line in said.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 5 and result["split"] == "test"
    if name != WINDOWS:
        answers = fwk.load(run).predict(unlabelled)
        for line, answer in zip(lines, answers, strict=True):
            assert line["label"]["prediction"] == answer["label"]["prediction"]
            shares = line["label"]["probabilities"]
            assert shares == pytest.approx(answer["label"]["probabilities"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["regression", CHOICE, WINDOWS])
def test_two_ranks_measure_what_one_measures(name: str, tmp_path: Path) -> None:
    run = trained(name, tmp_path / "run")
    metrics = evaluate_run(run)["metrics"]
    finished = torchrun("-m", "fwk.cli.evaluate", str(run), ranks=2)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["metrics"] == pytest.approx(metrics, rel=1e-9)
