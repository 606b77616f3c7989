import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.paths import ROOT

from fwk.errors import DataError
from fwk.flops import Count
from fwk.hooks.baselines import text_baselines
from fwk.hooks.jsonl import JSONL, as_line, cut_back, read_metrics
from fwk.hooks.lines import duration, live_line, number, short_names, speed
from fwk.hooks.tensorboard import TensorBoard, scalars
from fwk.hooks.terminal import Terminal
from fwk.reporting import figure
from fwk.runs.environment import describe_environment
from fwk.runs.revision import git_revision

TRAIN = {
    "split": "train",
    "update": 10,
    "epoch": 0.1,
    "loss": 6.5,
    "terms": {"a/masked_lm": 6.25, "a/tie": 0.0123},
    "metrics": {"a/accuracy": 0.125},
    "lr": 1e-4,
    "grad_norm": 1.5,
    "tokens": 1000,
    "tokens_per_second": 54321.0,
    "seconds": 2.0,
}
VALID = {"split": "valid", "update": 10, "metrics": {"loss": 6.25, "a/accuracy": 0.25}}


def a_run(folder, **changes):
    settings = {
        "rank": 0,
        "folder": folder,
        "update": 0,
        "total_updates": 100,
        "progress": 0.0,
        "seconds": 0.0,
        "world_size": 1,
        "last_metrics": {},
        "validation_pending": False,
        "operations": Count({"all": 5e5}, 1e6, 32, 100),
        "named_trainable": lambda: [("weight", torch.zeros(1200, 1000))],
        "skipped": 0,
        "config": SimpleNamespace(train=SimpleNamespace(batch=32, micro_batch=None)),
        "task": SimpleNamespace(
            length=lambda: 64,
            splits=lambda: ("train", "valid"),
            sources=lambda split: {"text": range(1200 if split == "train" else 1)},
            documents=lambda split: 1 if split == "valid" else None,
            vocabulary=lambda: SimpleNamespace(size=4096),
        ),
        "module": SimpleNamespace(
            plan=SimpleNamespace(actions=()),
            active_criteria=(),
            preparing=lambda micro_batches: (),
        ),
        "phase": None,
    }
    return SimpleNamespace(**{**settings, **changes})


# -- metrics.jsonl ---------------------------------------------------------------------------------------------------


def logged(run, records, resumed=False):
    sink = JSONL(JSONL.Config())
    sink.fwk_run_begin(run=run, resumed=resumed)
    for record in records:
        sink.fwk_logged(record=record)
    return sink


def test_every_record_is_on_disk_as_one_line_as_soon_as_it_is_logged(tmp_path):
    sink = logged(a_run(tmp_path), [TRAIN])
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == TRAIN
    sink.fwk_logged(record=VALID)
    assert read_metrics(tmp_path / "metrics.jsonl") == [TRAIN, VALID]


def test_numbers_that_are_not_finite_become_null_and_the_line_stays_json():
    line = as_line({"loss": math.nan, "terms": {"a": math.inf}, "list": [-math.inf, 1]})
    assert json.loads(line, parse_constant=pytest.fail) == {
        "loss": None,
        "terms": {"a": None},
        "list": [None, 1],
    }


def test_resume_cuts_back_to_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"split": s, "update": u} for u in (10, 20, 30) for s in ("train", "valid")]
    survivors = "".join(map(as_line, lines[:4]))
    lines.insert(4, {"event": "stopped", "update": 20})
    path.write_text(
        "".join(map(as_line, lines))
        + as_line({"event": "finished", "update": 30})
        + '{"split": "tra'
    )
    logged(a_run(tmp_path, update=20), [{"split": "train", "update": 21}], resumed=True)
    assert path.read_text() == survivors + as_line({"split": "train", "update": 21})


def test_going_on_with_a_finished_run_removes_its_last_line_only(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(as_line(TRAIN) + as_line({"event": "finished", "update": 10}))
    cut_back(path, 10)
    assert read_metrics(path) == [TRAIN] and [p.name for p in tmp_path.iterdir()] == [
        "metrics.jsonl"
    ]


def test_a_run_from_the_start_leaves_nothing_of_an_earlier_one(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(as_line(TRAIN))
    logged(a_run(tmp_path), [])
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_only_rank_0_writes(tmp_path):
    logged(a_run(tmp_path, rank=1), [])
    assert not list(tmp_path.iterdir())


# -- TensorBoard -----------------------------------------------------------------------------------------------------


def test_tensorboard_shows_the_numbers_of_the_jsonl():
    assert dict(scalars(TRAIN)) == {
        "train/epoch": 0.1,
        "train/loss": 6.5,
        "train/terms/a/masked_lm": 6.25,
        "train/terms/a/tie": 0.0123,
        "train/a/accuracy": 0.125,
        "train/lr": 1e-4,
        "train/grad_norm": 1.5,
        "train/tokens": 1000,
        "train/tokens_per_second": 54321.0,
        "train/seconds": 2.0,
    }
    assert dict(scalars(VALID)) == {"valid/loss": 6.25, "valid/a/accuracy": 0.25}
    assert not list(scalars({"event": "finished", "update": 3}))


@pytest.mark.slow
def test_tensorboard_is_imported_only_when_there_is_a_number(tmp_path):
    code = (
        "import sys, types\nfrom fwk.hooks.tensorboard import TensorBoard\n"
        "hook = TensorBoard(TensorBoard.Config())\nrun = types.SimpleNamespace(folder='.', update=0)\n"
        "hook.fwk_run_begin(run=run)\nhook.fwk_logged(run=run, record={'event': 'started'})\nhook.fwk_run_end()\n"
        "assert not [name for name in sys.modules if name.startswith('tensorboard')]\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_tensorboard_hides_what_lies_beyond_the_checkpoint(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, values in ((0, {10: 6.0, 20: 5.0, 30: 4.0}), (20, {30: 4.5})):
        hook = TensorBoard(TensorBoard.Config())
        run = a_run(tmp_path, update=start)
        hook.fwk_run_begin(run=run)
        for update, loss in values.items():
            hook.fwk_logged(run=run, record={"split": "train", "update": update, "loss": loss})
        hook.fwk_run_end()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("train/loss")
    assert [(event.step, event.value) for event in events] == [(10, 6.0), (20, 5.0), (30, 4.5)]


# -- the terminal ----------------------------------------------------------------------------------------------------


class FakeTerminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def a_whole_run(monkeypatch, stream, run, **config):
    monkeypatch.setattr(sys, "stdout", stream)
    hook = Terminal(Terminal.Config(**config))
    hook.fwk_run_begin(run=run, resumed=False)
    for update in range(1, 21):
        run.update, run.progress, run.seconds = update, update / 100, update / 10
        hook.fwk_update_end(run=run)
        if update % 10 == 0:
            hook.fwk_logged(run=run, record={**TRAIN, "update": update})
            hook.fwk_logged(run=run, record={**VALID, "update": update})
    hook.fwk_logged(run=run, record={"event": "finished", "update": 20})
    hook.fwk_run_end(run=run, status="finished")
    return stream.getvalue()


@pytest.mark.parametrize("where", ["a pipe without a reader", "a full disk"])
def test_output_that_goes_nowhere_ends_no_run(monkeypatch, tmp_path, caplog, capfd, where):
    if where == "a full disk" and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    reader, writer = os.pipe()
    os.close(reader)
    stream = open(writer if where != "a full disk" else "/dev/full", "w", buffering=1)  # noqa: SIM115
    stream.getvalue = str
    a_whole_run(monkeypatch, stream, a_run(tmp_path), plain_every=0.0)
    stream.close()
    warning = (
        "cannot write to standard output: No space left on device; the run continues without it"
    )
    assert caplog.messages == ([warning] if where == "a full disk" else [])
    assert capfd.readouterr().err == ""


def test_without_a_terminal_there_are_plain_lines(monkeypatch, tmp_path):
    text = a_whole_run(monkeypatch, io.StringIO(), a_run(tmp_path), plain_every=0.0)
    assert "\x1b" not in text and "\r" not in text
    lines = text.splitlines()
    assert lines[0] == f"run {tmp_path}"
    assert lines[1] == "train: 1,200 examples  valid: 1 example in 1 document  vocabulary: 4,096"
    assert (
        lines[2] == "1.2M parameters  at most 205k tokens  3.20e7 FLOPs per update, 3.20e9 in all"
    )
    assert (
        lines[3].startswith("update 10/100  loss 6.5  ")
        and "  tie 0.0123" in lines[3]
        and "lr 1.00e-4" in lines[3]
    )
    assert "  0.000849 TFLOP/s" in lines[3]  # 54,321 tokens of 15,625 FLOPs a second
    assert lines[4] == "valid at update 10  loss 6.25  accuracy 0.25"
    assert "finished after update 20" in lines[-1] and str(tmp_path) in lines[-1]


def test_plain_lines_come_now_and_then_and_evaluations_always(monkeypatch, tmp_path):
    text = a_whole_run(monkeypatch, io.StringIO(), a_run(tmp_path), plain_every=1000.0)
    assert text.count("update 10/100") == 1 and text.count("valid at") == 2


@pytest.mark.parametrize("columns", [1, 8, 20, 40, 80, 300])
def test_no_terminal_is_too_narrow(monkeypatch, tmp_path, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    assert "loss" in a_whole_run(monkeypatch, FakeTerminal(), a_run(tmp_path)).replace("\n", "")


def test_the_live_line_never_wraps():
    for columns in range(1, 130):
        for total, remaining in ((1500, 75.0), (None, None)):
            assert live_line(120, total, 0.08, TRAIN, remaining, columns).cell_len <= max(
                1, columns - 1
            )


def test_a_run_without_a_known_end_shows_its_progress():
    assert "120 (8%)" in live_line(120, None, 0.08, TRAIN, None, 80).plain


def test_other_ranks_are_quiet(monkeypatch, tmp_path):
    assert a_whole_run(monkeypatch, io.StringIO(), a_run(tmp_path, rank=1)) == ""


def test_brackets_in_names_are_text_and_no_markup(monkeypatch, tmp_path):
    folder = tmp_path / "[bold]x[/red]"
    assert "[bold]x[/red]" in a_whole_run(monkeypatch, io.StringIO(), a_run(folder))


def test_names_are_shortened_where_one_component_speaks():
    assert short_names({"loss": 1, "a/x": 2, "a/y": 3}) == {"loss": 1, "x": 2, "y": 3}
    for values in ({"a/x": 2, "b/y": 3}, {"loss": 1, "a/loss": 2}, {"loss": 1}):
        assert short_names(values) == values


def test_the_last_training_line_is_printed_once(monkeypatch, tmp_path):
    assert (
        a_whole_run(monkeypatch, io.StringIO(), a_run(tmp_path), plain_every=0.0).count(
            "update 20/100"
        )
        == 1
    )
    assert (
        a_whole_run(monkeypatch, io.StringIO(), a_run(tmp_path), plain_every=1e9).count(
            "update 20/100"
        )
        == 1
    )


def test_a_run_that_fails_at_once_prints_no_training_line(monkeypatch, tmp_path):
    stream, run = io.StringIO(), a_run(tmp_path)
    monkeypatch.setattr(sys, "stdout", stream)
    hook = Terminal(Terminal.Config())
    hook.fwk_run_begin(run=run, resumed=False)
    hook.fwk_exception()
    hook.fwk_run_end(run=run, status="failed")
    assert "update 0/100" not in stream.getvalue() and "failed after update 0" in stream.getvalue()


def test_numbers_read_as_people_write_them():
    assert [number(x) for x in (6.54321, 0.00012, 1e-9, 12345, 0, math.nan, None, 2e7, 2e17)] == [
        "6.543",
        "1.20e-4",
        "1.00e-9",
        "12,345",
        "0",
        "nan",
        "?",
        "2.00e7",
        "2.00e17",
    ]
    assert [duration(x) for x in (0, 65, 3723.9, None, math.inf)] == [
        "0:00",
        "1:05",
        "1:02:03",
        "?",
        "?",
    ]
    assert [speed(x) for x in (870.4, 12345, 4.5e6, None)] == ["870", "12.3k", "4.5M", "?"]


# -- baselines -------------------------------------------------------------------------------------------------------


def test_unigram_and_bigram_by_hand():
    # V = 3; train 0 1 0 1 1 | valid 0 1 2
    baselines = text_baselines([np.array([0, 1, 0, 1, 1])], [np.array([0, 1, 2])], 3)
    unigram = np.array([2.5, 3.5, 0.5]) / 6.5
    # after 0: 1 1 (2 seen, 1 distinct); after 1: 0 1 (2 seen, 2 distinct); the first token has no predecessor
    bigram = [unigram[0], (2 + 1 * unigram[1]) / 3, (0 + 2 * unigram[2]) / 4]
    assert baselines["unigram"] == pytest.approx(-np.log(unigram).mean())
    assert baselines["bigram"] == pytest.approx(-np.log(bigram).mean())
    assert baselines["entropy"] == pytest.approx(math.log(3))


def test_both_are_distributions_over_the_ordinary_tokens():
    rng = np.random.default_rng(0)
    train = [rng.integers(0, 6, 50) for _ in range(3)]
    for key in ("unigram", "bigram"):
        total = sum(
            math.exp(
                -2 * text_baselines(train, [np.array([3, w])], 6, special=(0,))[key]
                + text_baselines(train, [np.array([3])], 6, special=(0,))["unigram"]
            )
            for w in range(1, 6)
        )
        assert total == pytest.approx(1)


def test_special_tokens_are_never_predicted_and_documents_do_not_touch():
    train = [np.array([2, 5, 6, 3])] * 10
    with_specials = text_baselines(train, [np.array([2, 5, 6, 3])], 8, special=(2, 3))
    assert with_specials["bigram"] < with_specials["unigram"]
    # 6 5 occurs only across a boundary, so it is as good as unseen
    across = text_baselines([np.array([5, 6])] * 10, [np.array([6, 5])], 8)
    assert across["bigram"] == pytest.approx(across["unigram"])


def test_the_entropy_of_the_text_is_below_any_unigram_loss():
    rng = np.random.default_rng(1)
    valid = rng.integers(0, 20, 500)
    baselines = text_baselines([rng.integers(0, 20, 5000)], valid, 20)
    assert baselines["entropy"] <= baselines["unigram"]
    assert baselines["unigram"] == pytest.approx(math.log(20), abs=0.02)


def test_the_limit_bounds_what_is_read():
    def endless():
        while True:
            yield np.arange(10)

    assert text_baselines(endless(), np.arange(10), 10, limit=1000)["unigram"] == pytest.approx(
        math.log(10)
    )


def test_no_text_gives_no_number():
    assert math.isnan(text_baselines([np.arange(3)], np.zeros(0, dtype=np.int64), 3)["unigram"])
    assert text_baselines([], np.arange(3), 3)["bigram"] == pytest.approx(math.log(3))


# -- environment and figure ------------------------------------------------------------------------------------------


def test_the_environment_is_json_and_names_no_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment = describe_environment(
        SimpleNamespace(seed=3, train=SimpleNamespace(precision="fp32", deterministic=True)),
        {"tied_mlm": "0.1"},
        torch.device("cpu"),
        4,
    )
    text = json.dumps(environment)
    assert (
        environment["world_size"] == 4
        and environment["device"] == "cpu"
        and environment["plugins"] == {"tied_mlm": "0.1"}
    )
    # the metadata of a package may lack the local part, as in 2.11.0 of 2.11.0+cu130
    versions = environment["packages"]["torch"], torch.__version__
    assert len({version.split("+")[0] for version in versions}) == 1
    assert environment["git"] is None
    host = os.uname().nodename
    assert len(host) < 4 or host not in text


def test_the_git_revision_says_when_files_differ(tmp_path):
    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    clean = git_revision(tmp_path)
    assert len(clean) == 40
    (tmp_path / "file").write_text("b")
    assert git_revision(tmp_path) == clean + "+"


def test_a_run_can_be_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    records = [{**record, "update": u} for u in range(10, 100, 10) for record in (TRAIN, VALID)]
    (tmp_path / "metrics.jsonl").write_text("".join(map(as_line, records)))
    (tmp_path / "summary.json").write_text('{"unigram": 6.4, "bigram": 5.1, "entropy": null}')
    assert figure.main([str(tmp_path), str(tmp_path / "out" / "run.svg")]) == 0
    drawn = (tmp_path / "out" / "run.svg").read_text()
    assert drawn.startswith("<?xml") and "<dc:date>" not in drawn


def test_nothing_to_draw_is_one_sentence(tmp_path, capsys):
    with pytest.raises(DataError, match=r"no file .*metrics\.jsonl"):
        figure.draw_run(tmp_path / "metrics.jsonl", tmp_path / "x.png")
    assert figure.main([str(tmp_path), "x.png"]) == 2 and "Traceback" not in capsys.readouterr().err


def test_curves_are_by_split_and_leave_gaps_for_null():
    later = [{**TRAIN, "update": 20, "loss": None}, {"event": "finished", "update": 20}]
    train, valid = figure.curves([TRAIN, VALID, *later])
    assert train["loss"] == ([10], [6.5]) and train["a/tie"] == ([10, 20], [0.0123, 0.0123])
    assert valid["a/accuracy"] == ([10], [0.25])
