"""BAM whole, on tiny files of GLUE: teachers that are missing, their targets, the student, and what is reused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import fine_tuning
from support.paths import ROOT

SETS = ("rte", "stsb")
OTHERS = [name for name in fine_tuning.GLUE if name not in SETS]
TINY = ["model.layers=1", "model.width=16", "model.heads=2", "train.epochs=1", "train.batch=4"]


def train(words: list[str]) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "fwk.cli.train", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_a_student_of_two_tasks_and_the_teachers_that_it_lacks(tmp_path: Path) -> None:
    fine_tuning.write_glue(tmp_path / "glue")
    student = tmp_path / "runs" / "student"
    teachers = [f"needs.teacher_{name}.{value}" for name in SETS for value in TINY]
    words = [
        *("--config", str(ROOT / "configs/papers/bam_single_to_multi.yaml"), "--run", str(student)),
        *(f"task.data={tmp_path / 'glue'}", "task.tokenizer=wordpiece"),
        *[f"task.tasks.{name}=null" for name in OTHERS],
        *[f"needs.teacher_{name}=null" for name in OTHERS],
        *[f"needs.teacher_{name}.task.tokenizer=wordpiece" for name in SETS],
        *TINY,
        *teachers,
    ]
    first = train(words)
    assert first.returncode == 0, first.stderr
    lines = [json.loads(line) for line in (student / "metrics.jsonl").read_text().splitlines()]
    (valid,) = [line["metrics"] for line in lines if line["split"] == "valid"]
    assert {"rte/accuracy", "stsb/spearman", "average"} <= valid.keys()
    stored = [student.parent / f"teacher_{name}" / "train.targets" for name in SETS]
    before = [path.stat().st_mtime_ns for path in stored]
    again = train(words)
    assert again.returncode == 0, again.stderr
    assert [path.stat().st_mtime_ns for path in stored] == before  # nothing is made twice
