"""Updates that fp16 skipped are counted wherever a run reports, and a run that learned nothing says so."""

from __future__ import annotations

import json
import logging
import re

import pytest

from fwk.engine import precision
from fwk.engine.trainer import Trainer
from fwk.runs import start
from fwk.testing import tiny_config

SUMMARY = {"terminal": {"plain_every": 0}, "jsonl": {}}


@pytest.fixture
def overflows(monkeypatch):
    """A function: these updates overflow."""
    differentiate = Trainer.differentiate

    def at(*updates):
        def overflowing(self, micros, update):
            differentiate(self, micros, update)
            if update.number in updates:
                self.run.trainable[0].grad[...] = float("inf")

        monkeypatch.setattr(Trainer, "differentiate", overflowing)

    return at


def run_in(folder, **train):
    settings = {"precision": "fp16", "updates": 4, "log_every": 2, "save_every": 0, **train}
    config = {"criterion": {"masked_lm": {}}, "hooks": SUMMARY, "train": settings}
    return start.train(tiny_config({**config, "run": str(folder)}))


def records(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == "train"]


def test_skipped_updates_are_counted_in_every_record_and_line(tmp_path, overflows, capsys, caplog):
    overflows(2, 3)
    assert run_in(tmp_path / "run").status == "finished"
    assert [(r["update"], r["skipped"]) for r in records(tmp_path / "run")] == [
        (2, 1),
        (4, 2),
        (4, 2),  # the event
    ]
    printed = capsys.readouterr().out
    assert re.search(r"update 2/4  loss \S+  1 skipped \(fp16\)", printed)
    assert "finished after update 4, of which 2 overflowed under fp16 and were skipped" in printed
    assert "nothing was learned" not in caplog.text


def test_a_run_of_skips_says_that_nothing_was_learned(tmp_path, overflows, capsys, caplog):
    overflows(1, 2, 3, 4)
    with caplog.at_level(logging.WARNING):
        assert run_in(tmp_path / "run").status == "finished"
    assert "nothing was learned: all 4 updates overflowed under fp16" in caplog.text
    assert records(tmp_path / "run")[-1]["skipped"] == 4
    assert "4 skipped (fp16)" in capsys.readouterr().out


def test_other_precisions_count_no_skips(tmp_path):
    run_in(tmp_path / "run", precision="fp32", updates=1)
    assert all("skipped" not in record for record in records(tmp_path / "run"))
    assert precision.Precision("fp32", None).may_skip is False


def test_a_run_without_anything_to_count_says_that_nothing_was_learned(tmp_path, caplog):
    views = {"few": {"noiser": "rows", "sources": ["a"]}, "masked": {"of": "none"}}
    views["none"] = {"noiser": "rows", "sources": ["b"], "of": "few"}
    config = {"criterion": {"masked_lm": {}}, "views": views, "train": {"updates": 1}}
    with caplog.at_level(logging.WARNING):
        start.train(tiny_config({**config, "run": str(tmp_path / "run")}))
    assert "nothing was learned: no update had anything to count" in caplog.text
