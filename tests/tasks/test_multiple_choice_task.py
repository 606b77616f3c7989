"""Multiple choice from its usual files: rows per choice, measures and predictions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fwk.errors import ConfigError
from fwk.tasks.multiple_choice import SOURCE, MultipleChoiceTask

ENDINGS = ["in the barn", "in the attic", "in the old school", "at home"]


def hellaswag(path: Path, sizes: list[int]) -> Path:
    lines = [
        {"ctx": f"the door number {n} is", "endings": ENDINGS[:size], "label": n % size}
        for n, size in enumerate(sizes)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def task(data: Path, **options: object) -> MultipleChoiceTask:
    values = {"data": str(data), "vocabulary": 60, "length": 32, **options}
    return MultipleChoiceTask(MultipleChoiceTask.Config(**values), 1)


@pytest.fixture
def opened(tmp_path: Path) -> MultipleChoiceTask:
    return task(hellaswag(tmp_path / "data.jsonl", [4, 2, 3]))


def test_a_view_of_context_and_choices_has_a_row_per_choice(opened: MultipleChoiceTask) -> None:
    source = opened.sources("train")[SOURCE]
    batch = opened.collate([source[n] for n in range(3)], np.array([7, 8, 9]), np.zeros(3))
    view = batch.texts.rendered(batch, ["context", "choices"])
    assert view.draws.tolist() == [7] * 4 + [8] * 2 + [9] * 3
    assert view.labels["label"].tolist() == [0] * 4 + [1] * 2 + [2] * 3
    names = source[0].texts
    frame = [opened.tokenizer.cls, opened.tokenizer.sep]
    assert view.tokens[1][view.mask[1]].tolist() == [
        frame[0],
        *names["context"][0].tolist(),
        frame[1],
        *names["choices"][1].tolist(),
        frame[1],
    ]


def test_scores_of_different_numbers_of_choices_are_measured_and_written(
    opened: MultipleChoiceTask, tmp_path: Path
) -> None:
    none = -torch.inf
    scores = {
        0: torch.tensor([1.0, 0.5, 0.2, 0.1]),
        1: torch.tensor([1.0, 0.0, none, none]),
        2: torch.tensor([-3.0, -2.0, -1.0, none]),
    }
    metrics = opened.metrics_of_predictions("train", {SOURCE: {"label": scores}})
    assert metrics == {"accuracy": pytest.approx(2 / 3)}
    path = tmp_path / "said.jsonl"
    opened.write_predictions("train", SOURCE, {"label": scores}, path)
    said = [json.loads(line)["label"] for line in path.read_text().splitlines()]
    assert [entry["prediction"] for entry in said] == [0, 0, 2]
    for number, entry in enumerate(said):
        finite = scores[number][scores[number].isfinite()]
        assert entry["probabilities"] == pytest.approx(finite.softmax(0).tolist(), abs=1e-6)


def test_choices_are_not_read_in_windows(tmp_path: Path) -> None:
    path = hellaswag(tmp_path / "data.jsonl", [4, 2, 3])
    with pytest.raises(ConfigError, match="'choices' is a list"):
        task(path, stride=4)
    windowed = task(path, stride=2, windows="context", length=14)
    source = windowed.sources("train")[SOURCE]
    assert len(source) > 3
    # what several batches predict is padded to the most choices of each
    rows = {
        n: torch.tensor([1.0, 0.0, 0.0, -torch.inf][: 4 if n % 2 else 3])
        if source.example_of(n)
        else torch.tensor([3.0, 1.0, 0.0, 0.0])
        for n in range(len(source))
    }
    metrics = windowed.metrics_of_predictions("train", {SOURCE: {"label": rows}})
    assert metrics == {"accuracy": pytest.approx(1 / 3)}
