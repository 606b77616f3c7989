"""Commands whose standard streams are closed, or cannot be written to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

from fwk.cli import common

COMMANDS = ("train", "evaluate", "score", "preprocess", "plugins", "export", "import_checkpoint")


def run(module, arguments, redirections, tmp_path):
    """Run a command in a shell; return its exit status."""
    line = f'exec "$0" -m fwk.cli.{module} "$@" {redirections}'
    return subprocess.run(
        ["bash", "-c", line, sys.executable, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    ).returncode


@pytest.mark.slow
@pytest.mark.parametrize("module", COMMANDS)
def test_a_command_does_its_work_with_closed_streams(module, tmp_path):
    for redirections in (">&-", "2>&-", "<&- >&- 2>&-"):
        assert run(module, ["--help"], redirections, tmp_path) == 0, redirections


@pytest.mark.slow
def test_training_ends_well_without_standard_output(tmp_path):
    arguments = ["--run", "run", "task=synthetic", "task.sequences=32", "model.size=tiny"]
    limits = ["train.updates=2", "train.batch=4", "train.device=cpu"]
    assert run("train", [*arguments, *limits], ">&- 2>errors", tmp_path) == 0
    assert "Traceback" not in (tmp_path / "errors").read_text()
    assert '"finished"' in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_output_that_cannot_be_written_is_one_sentence(tmp_path):
    assert run("train", ["--help"], ">/dev/full 2>errors", tmp_path) == 1
    message = (tmp_path / "errors").read_text()
    assert message.startswith("fwk-train: error: cannot write to standard output") and (
        message.count("\n") == 1
    )
    assert run("train", ["--bogus"], "2>/dev/full", tmp_path) == 2


def test_closed_streams_are_replaced_by_the_null_device(monkeypatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)

    def body(argv):
        print("to nobody")
        print("to nobody", file=sys.stderr)
        return 0 if sys.stdin.read() == "" else 1

    try:
        assert common.run_command("fwk-test", body, []) == 0
    finally:
        for name in ("stdin", "stdout", "stderr"):
            getattr(sys, name).close()


def test_a_stream_on_a_full_disk_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(common, "_discard_output", lambda: None)

    def body(argv):
        raise OSError(28, "No space left on device")

    assert common.run_command("fwk-test", body, []) == 1
    assert capsys.readouterr().err == (
        "fwk-test: error: cannot write to standard output: No space left on device\n"
    )
