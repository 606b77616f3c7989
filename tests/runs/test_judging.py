"""Weights are judged by another task, and by criteria that need no training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from support.paths import FIXTURES

import fwk
from fwk.cli.evaluate import main
from fwk.testing import tiny_config, train_briefly

ROWS = [json.loads(line) for line in (FIXTURES / "examples.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of a masked LM on the table's questions and passages."""
    folder = tmp_path_factory.mktemp("judged")
    text = folder / "text.txt"
    text.write_text("\n\n".join(f"{row['question']} {row['passage']}" for row in ROWS))
    task = {"name": "mlm", "data": str(text), "vocabulary": 120, "length": 48, "valid_share": 0.1}
    train_briefly(tiny_config({"task": task, "train": {"precision": "fp32"}}), folder / "run", 2)
    return folder / "run"


def judge(run: Path, *arguments: str) -> int:
    table = f"task.data={FIXTURES / 'examples.jsonl'}"
    return main([str(run), "--task", "sts", table, *arguments])


def test_cosines_of_pooled_vectors_are_correlated_with_the_labels(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["task.texts=[question,passage]", "task.label=length", "task.length=48"]
    fields = "criterion.fields=[question,passage]"
    assert judge(trained, "--criterion", "similarity", fields, *texts) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]

    loaded = fwk.load(trained)
    first, second = (loaded.encode([row[name] for row in ROWS]) for name in ("question", "passage"))
    cosines = F.cosine_similarity(first, second)
    expected = stats.spearmanr(cosines.numpy(), torch.tensor([r["length"] for r in ROWS]).numpy())
    assert metrics["spearman"] == pytest.approx(expected.statistic, abs=1e-6)


def test_a_head_that_was_never_trained_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["task.texts=[question,passage]", "task.label=length", "task.length=48"]
    assert judge(trained, "--criterion", "regression", *texts) == 2
    assert "holds no weights of its head" in capsys.readouterr().err
