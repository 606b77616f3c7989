"""The user-dir examples, as a third party would use them: copied to a folder outside the repository."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

EXAMPLES = ROOT / "user_dir_examples"
COMPONENTS = {
    "focal_mlm": [("criterion", "focal_mlm")],
    "simcse": [("criterion", "simcse"), ("noiser", "dropout_only")],
}


def code_lines(path: Path) -> int:
    """Lines that hold code: no docstrings, comments or blank lines."""
    tree = ast.parse(path.read_text())
    documentation = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(
            node
        ):
            first = node.body[0]
            documentation.update(range(first.lineno, first.end_lineno + 1))
    return sum(
        1
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if line.strip() and not line.strip().startswith("#") and number not in documentation
    )


@pytest.fixture
def copy(tmp_path):
    def make(name: str) -> Path:
        return Path(
            shutil.copytree(
                EXAMPLES / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        )

    return make


@pytest.mark.parametrize("name", COMPONENTS)
@pytest.mark.slow
def test_an_example_trains_through_the_command(name, copy, tmp_path):
    place = copy(name)
    command = [
        sys.executable,
        "-m",
        "fwk.cli.train",
        "--user-dir",
        place.name,
        "--criterion",
        name,
        "--task",
        "synthetic",
        "--run",
        "run",
        "train.updates=8",
        "train.batch=8",
        "train.log_every=4",
        "train.device=cpu",
        "task.sequences=64",
        "train.micro_batch=4",
        "train.workers=1",
        "hooks={jsonl: {}}",
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    records = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert records[-1]["event"] == "finished"
    assert any(f"{name}/" in key for r in records for key in r.get("terms", {}))
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert str(place) in json.dumps(environment)
    # the run's own config finds the code again, from anywhere
    again = subprocess.run(
        [
            sys.executable,
            "-m",
            "fwk.cli.train",
            "--config",
            str(tmp_path / "run" / "config.yaml"),
            "--print-config",
        ],
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0 and f"name: {name}" in again.stdout, again.stderr


@pytest.mark.parametrize("name", COMPONENTS)
@pytest.mark.mostly_slow("simcse")
def test_an_example_keeps_the_rules(name, copy):
    from fwk.testing import assert_conforms

    place = copy(name)
    for kind, component in COMPONENTS[name]:
        assert_conforms(kind, component, user_dirs=[str(place)])


def test_examples_are_small():
    sizes = {
        name: sum(code_lines(p) for p in (EXAMPLES / name).glob("*.py")) for name in COMPONENTS
    }
    assert sizes["focal_mlm"] <= 30 and sizes["simcse"] <= 45, sizes
