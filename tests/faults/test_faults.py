"""The fault matrix (`tests/faults/`): its judge, a few cheap faults, and, as slow tests, every fault."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.paths import ROOT

from faults import run
from faults.cases import CASES
from faults.lab import HF, TRACEBACK, Ended, Fwk, Seen, digest, last_error, tidy
from faults.run import attempt, counts, receive_signals, tables

PAGE = ROOT / "docs" / "reliability.md"
SENTENCE = "fwk-train: error: the disk is full\n"


@pytest.fixture(scope="session")
def scratch(tmp_path_factory) -> Path:
    """The folder of the undisturbed runs that cases compare with, which are made once."""
    receive_signals()
    return tmp_path_factory.mktemp("faults")


@pytest.fixture
def side(tmp_path) -> Fwk:
    """Return a side with an undisturbed run of artificial weights, and a run folder to judge."""
    trainer = Fwk(tmp_path / "case", tmp_path / "templates")
    trainer.template = lambda kind, fault: tmp_path / "undisturbed"
    trainer.prepare_data = lambda: None
    trainer.fresh()
    write_run(tmp_path / "undisturbed" / "run")
    return trainer


def write_run(run: Path, value: float = 1.0) -> None:
    last = run / "checkpoints" / "update-000000016"
    last.mkdir(parents=True)
    save_file({"w": np.full(3, value, np.float32)}, last / "model.safetensors")
    (last / "manifest.json").write_text(
        json.dumps({"files": {"model.safetensors": {"sha256": digest(last / "model.safetensors")}}})
    )
    (run / "metrics.jsonl").write_text(
        json.dumps({"update": 16, "loss": value, "seconds": np.random.rand()}) + "\n"
    )


# -- the judge -------------------------------------------------------------------------------------------------------


def test_the_same_weights_are_recovered(side):
    write_run(side.run)
    side.went_on(Ended(0, "fwk: skipped a checkpoint\n", 1), "skipped")
    assert side.verdict() == "recovered" and side.sentence() == "skipped a checkpoint"


@pytest.mark.parametrize(
    "value, output, says, problem",
    [
        (1.0000001, "", "", "other weights"),
        (float("nan"), "", "", "NaN"),
        (1.0, "", "skipped", "no sentence like"),
        (1.0, f"{TRACEBACK}:\nOSError: no\n", "", "a traceback"),
    ],
)
def test_other_weights_silence_and_tracebacks_fail(side, value, output, says, problem):
    write_run(side.run, value)
    side.went_on(Ended(0, output, 1), says)
    assert side.verdict().startswith("FAILED") and problem in side.verdict()


def test_other_metrics_fail(side):
    write_run(side.run)
    (side.run / "metrics.jsonl").write_text('{"update": 15}\n')
    side.went_on(Ended(0, "", 1))
    assert "metrics.jsonl differs" in side.verdict()


@pytest.mark.parametrize(
    "ended, problem",
    [
        (Ended(2, SENTENCE, 1), ""),
        (Ended(2, SENTENCE * 2, 1), "2 sentences"),
        (Ended(0, SENTENCE, 1), "status 0"),
        (Ended(-9, SENTENCE, 1), "status -9"),
        (Ended(None, SENTENCE, 1), "hung"),
        (Ended(2, "", 1), "0 sentences"),
        (Ended(2, f"{TRACEBACK}:\n{SENTENCE}", 1), "a traceback"),
        (Ended(2, SENTENCE, 99), "it took 99 s"),
    ],
)
def test_a_refusal_is_one_sentence_with_a_status_in_time(side, ended, problem):
    side.refused(ended, "disk is full", seconds=10)
    assert (
        side.verdict().startswith("FAILED" if problem else "refused") and problem in side.verdict()
    )


def test_a_refusal_that_leaves_weights_that_are_nan_fails(side):
    write_run(side.run, float("nan"))
    side.refused(Ended(1, SENTENCE, 1), "disk is full")
    assert "not finite" in side.verdict()


def test_a_refusal_that_changes_the_folder_fails(side):
    write_run(side.run)

    def spoils(**_):
        (side.run / "config.yaml").write_text("")
        return Ended(2, SENTENCE, 1)

    side.start = spoils
    side.refuses("disk is full", unchanged=True)
    assert "was changed" in side.verdict()


def test_a_refusal_and_a_recovery_make_both(side):
    side.refused(Ended(1, SENTENCE, 1), "disk is full")
    write_run(side.run)
    side.went_on(Ended(0, "", 1))
    assert side.verdict() == "refused, then recovered"


def test_the_outcomes_of_the_other_side_are_recorded(side, tmp_path):
    hf = HF(tmp_path / "case", tmp_path / "templates")
    hf.template = lambda kind, fault: tmp_path / "undisturbed"
    hf.refused(Ended(1, f"{TRACEBACK}:\n  a line\ntorch.OSError: no space\n", 1), "anything")
    hf.refused(Ended(None, "", 40.2), "anything")
    assert (
        hf.verdict()
        == "traceback: OSError: no space; then hung until it was ended from outside after 40 s"
    )


def test_words_of_a_traceback_and_paths():
    assert (
        last_error(f"{TRACEBACK}:\n  x\na.b.SomeError: why: because\nmore")
        == "SomeError: why: because"
    )
    assert (
        tidy("fwk-train: error: /tmp/x/run/checkpoints/update-1 and /usr/lib/a.py", Path("/tmp/x"))
        == "update-1 and a.py"
    )


def test_counts_and_tables_come_from_the_results():
    name, other = list(CASES)[:2]
    results = {
        name: {
            "fwk": {"verdict": "recovered", "kind": "recovered", "says": "so"},
            "hf": {"verdict": "hung after 9 s", "kind": "hung"},
        },
        other: {
            "fwk": {"verdict": "FAILED: why", "kind": "FAILED", "says": ""},
            "hf": {"verdict": "- (no such thing)", "kind": ""},
        },
    }
    assert counts(results, "fwk") == "1 recovered, 1 FAILED" and counts(results, "hf") == "1 hung"
    text = tables(results)
    assert f"| {CASES[name].title} | recovered | so | hung after 9 s |" in text
    assert "the 1 that apply to it: 1 hung. `fwk-train` on these: 1 recovered." in text


@pytest.mark.parametrize(
    "seen, kind",
    [
        ([("same", "")], "recovered"),
        ([("traceback", "why"), ("same", "")], "a traceback, then recovered"),
        (
            [("other", "went on to other weights, without a word")],
            "other or NaN weights without a word",
        ),
        ([("nan", "NaN, with a warning: x"), ("hung", "hung")], "hung"),
    ],
)
def test_the_other_side_is_counted_by_the_worst_that_happened(tmp_path, seen, kind):
    hf = HF(tmp_path / "case", tmp_path / "templates", seen=[Seen(*one) for one in seen])
    assert hf.kind() == kind


def test_what_was_found_is_kept_until_the_code_changes(tmp_path, monkeypatch):
    outcomes = iter(["first", "second", "third"])
    monkeypatch.setattr(run, "outcome", lambda *_: {"verdict": next(outcomes)})
    monkeypatch.setattr(run, "code", lambda *_: "1")
    case = next(iter(CASES.values()))
    verdicts = [run.result_of(case, Fwk, tmp_path)["verdict"] for _ in range(2)]
    monkeypatch.setattr(run, "code", lambda *_: "2")
    verdicts += [
        run.result_of(case, Fwk, tmp_path, **how)["verdict"]
        for how in ({"keep": True}, {}, {"again": True})
    ]
    assert verdicts == ["first", "first", "first", "second", "third"]


# -- the cases -------------------------------------------------------------------------------------------------------


def test_the_page_has_a_row_for_every_fault_and_no_other():
    rows = re.findall(
        r"^\| (?!fault \||-)(.+?) \| ",
        PAGE.read_text(encoding="utf-8").split("<!-- matrix -->")[1],
        re.MULTILINE,
    )
    assert sorted(rows) == sorted(case.title for case in CASES.values())
    assert len(CASES) >= 40


def test_no_fault_in_the_page_failed():
    assert "FAILED:" not in PAGE.read_text(encoding="utf-8")


def check(name: str, scratch: Path) -> None:
    outcome = attempt(CASES[name], Fwk, scratch)
    if isinstance(outcome, str):
        pytest.skip(outcome)
    assert not outcome.verdict().startswith("FAILED"), outcome.verdict()


@pytest.mark.parametrize("name", ["file_for_folder", "rank_too_large"])
@pytest.mark.slow
def test_a_cheap_fault_has_an_answer(name, scratch):
    check(name, scratch)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_fault_has_an_answer(name, scratch):
    check(name, scratch)
