"""Folders whose names are not UTF-8: a command works there, or says in one sentence why not and leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from fwk.cli.evaluate import main as evaluate_command
from fwk.cli.export import main as export_command
from fwk.cli.score import main as score_command
from fwk.cli.train import main as train_command
from fwk.testing import tiny_config, train_briefly

ODD = os.fsdecode(b"odd-\xff\xfe")


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Return a folder with such a name; skip where the file system has none."""
    folder = tmp_path / ODD
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("names of files are UTF-8 here")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    train_briefly(tiny_config({"criterion": "masked_lm", "train": {"precision": "fp32"}}), run, 1)
    return run


def test_a_relative_path_that_no_config_can_hold_is_refused_before_anything_is_made(
    odd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (odd / "t.txt").write_text("some text\n", encoding="utf-8")
    monkeypatch.chdir(odd)
    for run in ([], ["--run", str(odd.parent / "run")]):
        assert train_command(["task.data=t.txt", "train.updates=1", *run]) == 2
        err = capsys.readouterr().err
        assert "is not UTF-8 text" in err and len(err.strip().splitlines()) == 1
    assert os.listdir(odd) == ["t.txt"] and os.listdir(odd.parent) == [ODD]


def test_metrics_are_written_there(
    odd: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = odd / "metrics.json"
    assert evaluate_command([str(trained), "--output", str(output)]) == 0
    assert json.loads(output.read_text(encoding="utf-8"))["split"] == "valid"
    json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "command",
    [evaluate_command, score_command, export_command],
    ids=["evaluate", "score", "export"],
)
def test_commands_on_a_run_that_was_moved_there_work_or_say_why_not(
    odd: Path, trained: Path, command: object, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, odd / "run", symlinks=True)
    (odd / "t.txt").write_text("some text\n", encoding="utf-8")
    arguments = [str(odd / "run")]
    if command is score_command:
        arguments += ["--text", str(odd / "t.txt")]
    elif command is export_command:
        arguments.append(str(odd / "out"))
    status = command(arguments)  # type: ignore[operator]
    err = capsys.readouterr().err
    assert status in (0, 2) and "Traceback" not in err
    assert status == 0 or "UTF-8" in err
    assert status == 0 or sorted(os.listdir(odd)) == ["run", "t.txt"]
