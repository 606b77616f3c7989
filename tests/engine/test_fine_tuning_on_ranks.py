"""Fine-tuning on two ranks gives the updates and the metrics of one process, for every shape of example."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.commands import torchrun
from support.paths import RANKS


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict:
    out = tmp_path_factory.mktemp("ranks") / "results.json"
    done = torchrun(str(RANKS / "fine_tuning_ranks.py"), str(out), ranks=2)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(Path(out).read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["classification", "answers in windows", "multiple choice"])
def test_two_ranks_train_and_evaluate_as_one_process(two_ranks: dict, name: str) -> None:
    result = two_ranks[name]
    assert result["weights"] < 1e-5
    (alone, examples), (together, examples_together) = result["alone"], result["together"]
    assert examples_together == examples
    assert together == pytest.approx(alone, abs=1e-5)
    assert len(alone) > 2
