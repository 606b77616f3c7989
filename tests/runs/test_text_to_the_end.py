"""Every registered criterion trains on text, with the hooks of every run, to the very end of the run."""

from __future__ import annotations

import json

import pytest
from support.cases import NEEDS, REGISTERED

import fwk
from fwk.config.spec import DEFAULT_HOOKS
from fwk.testing import merge_settings
from fwk.testing.config import TINY_ENCODER

LETTERS = "abcdefghij"
SETTINGS = {
    "task": {"length": 16, "vocabulary": 60},
    "model": TINY_ENCODER,
    "train": {"updates": 1, "batch": 4, "device": "cpu", "async_save": False},
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A text of twenty documents."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    documents = [
        " ".join(LETTERS[(i * j) % 10] + LETTERS[(i + j) % 10] for j in range(30))
        for i in range(20)
    ]
    path.write_text("\n\n".join(documents) + "\n")
    return path


@pytest.mark.parametrize("name", REGISTERED)
@pytest.mark.mostly_slow("semantic_augment", "replaced_token_detection")
def test_a_run_on_text_ends_well_with_the_default_hooks(name, text, tmp_path, capsys):
    settings = merge_settings(SETTINGS, {"criterion": {name: {}}, **NEEDS.get(name, {})})
    if settings["task"].get("name", "mlm") == "mlm":  # others bring their own text
        settings["task"] = {**settings["task"], "data": str(text)}
    run = fwk.train({**settings, "run": str(tmp_path / "run")})
    assert (run.status, run.exit_status, run.update) == ("finished", 0, 1)

    printed = capsys.readouterr().out
    last = json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "finished"
    assert set(DEFAULT_HOOKS) == {"terminal", "jsonl", "tensorboard", "summary"}
    assert f"run {run.folder}" in printed and (run.folder / "tensorboard").is_dir()
    assert ("What was learned" in printed) == (run.folder / "summary.json").exists()
