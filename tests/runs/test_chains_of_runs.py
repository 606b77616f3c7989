"""A run that needs other runs: what is reused, what is refused, what is trained, and what a kill leaves."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import fwk
from fwk.cli.train import main
from fwk.config.run_config import NeededRun
from fwk.data.targets import read_origin, read_targets
from fwk.engine.saving import checkpoint
from fwk.errors import CheckpointError, ConfigError, NeededRunFailed, RunStopped
from fwk.runs import children, needs
from fwk.runs.children import Job, run_jobs
from fwk.runs.lock import folder_lock
from fwk.runs.needed import train_one
from fwk.testing.running import stopped_at

WORDS = ("door", "house", "apple", "barn", "red", "green", "old", "new")
QUIET = {"terminal": None, "tensorboard": None, "summary": None}


def write_table(path: Path, rows: int) -> str:
    """Write a table of pairs with two classes, and return its path."""
    lines = ["a\tb\tlabel"]
    for n in range(rows):
        a, b = (" ".join(WORDS[(n * k + k + i) % 8] for i in range(4)) for k in (1, 3))
        lines.append(f"{a}\t{b}\t{('yes', 'no')[n % 2]}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def pairs(data: str, updates: int, **others) -> dict:
    task = {"name": "examples", "data": data, "valid": data, "texts": ["a", "b"], "label": "label"}
    return {
        "task": {**task, "length": 16},
        "criterion": "classification",
        "train": {"updates": updates, "batch": 4, "device": "cpu", "save_every": 1, "threads": 1},
        "hooks": QUIET,
        **others,
    }


def chain(folder: Path, updates: int = 2, **others) -> dict:
    """The config of an intermediate task, a run that starts from it, and a student of that one."""
    large, small = (write_table(folder / f"{name}.tsv", 16) for name in ("large", "small"))
    first = pairs(large, updates, model={"name": "bert", "layers": 1, "width": 16, "heads": 2})
    first["task"]["vocabulary"] = 40
    second = pairs(small, updates, model={"from": "${needs.first.run}"}, targets="train")
    student = pairs(small, updates, model={"from": "${needs.second.run}"})
    return {
        **student,
        "run": str(folder / "student"),
        "needs": {"first": first, "second": second},
    } | others


def train_here(monkeypatch) -> list[str]:
    """Let needed runs be trained in this process; return the names of those that were, in order, as they are."""
    done: list[str] = []

    def in_this_process(jobs, parallel, allow_broken_plugins, state_of):
        for job in jobs:
            request = json.loads(job._request(state_of(job.needed), allow_broken_plugins))
            assert train_one(request) == 0
            done.append(job.needed.name)

    monkeypatch.setattr(needs, "run_jobs", in_this_process)
    return done


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    return train_here(monkeypatch)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a finished chain."""
    folder = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        done = train_here(patch)
        fwk.train(chain(folder))
    assert done == ["first", "second"]
    return folder


@pytest.fixture
def copied(made, tmp_path) -> Path:
    """A copy of the finished chain, without the student."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "student")
    return tmp_path


# -- what is reused, and what is refused -----------------------------------------------------------------------------


def test_what_is_missing_is_trained_once_and_starts_from_what_it_names(made):
    record = json.loads((made / "second" / "started_from.json").read_text())
    assert record["model"]["from"] == str(made / "first")
    origin = read_origin(made / "second" / "train.targets")
    assert (origin["split"], origin["update"]) == ("train", 2)


def test_what_is_finished_is_reused_with_one_line_each(copied, trained, caplog):
    with caplog.at_level(logging.INFO, "fwk"):
        assert fwk.train(chain(copied)).status == "finished"
    assert trained == []
    (line,) = [r.message for r in caplog.records if r.message.startswith("needs.")]
    assert line.startswith("needs.second: reused, finished, loss ")


def test_a_run_that_has_begun_needs_what_it_started_from_no_more(made, trained, tmp_path):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    for name in ("first", "second"):
        shutil.rmtree(tmp_path / name)
    assert fwk.train(chain(tmp_path), **{"train.updates": 3}).update == 3
    assert trained == []


@pytest.mark.slow
def test_a_finished_run_needs_what_it_started_from_no_more(copied, trained):
    shutil.rmtree(copied / "first")
    fwk.train(chain(copied))
    assert trained == []


def test_files_of_targets_are_needed_at_each_start_and_made_alone(copied, trained):
    targets = copied / "second" / "train.targets"
    before = read_targets(targets)
    targets.unlink()
    fwk.train(chain(copied))
    assert trained == ["second"]
    again = read_targets(targets)
    assert again.origin["weights"] == before.origin["weights"]
    for source, labels in before.tensors.items():
        for label, rows in labels.items():
            torch.testing.assert_close(again.tensors[source][label], rows, rtol=0, atol=0)
    assert checkpoint.list_checkpoints(copied / "second")[-1].name.endswith("2")


@pytest.mark.slow
def test_what_is_half_done_resumes(copied, trained, tmp_path):
    shutil.rmtree(copied / "second")
    with stopped_at(1), pytest.raises(AssertionError):  # the process for it says 75
        fwk.train(chain(copied))
    assert [p.name for p in checkpoint.list_checkpoints(copied / "second")] == ["update-000000001"]
    shutil.rmtree(copied / "first")  # its weights are not read again
    fwk.train(chain(copied))
    assert trained == ["second"]


@pytest.mark.mostly_slow("second-optimizer", "first-train")
@pytest.mark.parametrize(
    "change", [{"optimizer.lr": 0.5}, {"train.updates": 3}], ids=["optimizer", "train"]
)
@pytest.mark.parametrize("name", ["first", "second"])
def test_a_run_that_was_made_with_other_values_is_refused_with_the_key(made, name, change):
    ((key, value),) = change.items()
    options = {f"needs.{name}.{key}": value, "run": str(made / "other")}
    with pytest.raises(
        CheckpointError, match=f"needs.{name}: .*{key} was .*needs.{name}.run=FOLDER"
    ):
        fwk.train(chain(made), **options)


@pytest.mark.slow
def test_a_run_that_started_from_other_weights_is_refused(copied, trained):
    config = chain(copied)
    shutil.rmtree(copied / "first")
    other = {**config["needs"]["first"], "seed": 2}
    fwk.train(other, run=str(copied / "first"))
    config["needs"]["first"] = other
    with pytest.raises(
        CheckpointError, match=r"needs.second: .*started from other weights.*model.from"
    ):
        fwk.train(config)


@pytest.mark.slow
def test_several_ranks_start_only_where_everything_exists(made, monkeypatch, trained):
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = fwk.config.resolve.from_python(chain(made, run=str(made / "other")))
    needs.train_needed(config)
    config = fwk.config.resolve.from_python(
        chain(made, run=str(made / "other")), {"needs.second.run": str(made / "absent")}
    )
    with pytest.raises(ConfigError, match=r"second \(.*absent\).*without torchrun"):
        needs.train_needed(config)
    assert trained == []


def test_the_printed_config_says_what_exists(made, capsys):
    config = chain(made)
    file = made / "chain.yaml"
    file.write_text(json.dumps(config))
    assert main(["--config", str(file), "--print-config"]) == 0
    assert "# finished, loss" in capsys.readouterr().out
    absent = f"needs.second.run={made / 'absent'}"
    assert main(["--config", str(file), "--print-config", absent]) == 0
    assert "absent  # missing" in capsys.readouterr().out


def test_everything_is_checked_before_the_first_is_trained(tmp_path, trained):
    config = chain(tmp_path)
    config["needs"]["second"]["views"] = {"x": {"noiser": "identity", "of": "nothing"}}
    with pytest.raises(ConfigError, match=r"needs.second.views.x.of"):
        fwk.train(config)
    assert trained == [] and not (tmp_path / "first").exists()


# -- processes, which here do not train ------------------------------------------------------------------------------

SCRIPT = """
import json, os, signal, sys
r = json.loads(sys.stdin.readline())
act, journal = r["config"]["act"], r["config"]["journal"]
def note(mark):
    with open(journal, "a") as file:
        file.write(mark + r["name"] + "\\n")
def stopped(number, frame):
    note("x")
    os._exit(130 if number == signal.SIGINT else 75)
if act == "wait":
    signal.signal(signal.SIGINT, stopped)
    signal.signal(signal.SIGTERM, stopped)
note("+")
if act == "wait":
    sys.stdin.read()
if act == "fail":
    sys.exit("something\\nfwk-train: error: there is no data\\n")
if act == "in use" and not os.path.exists(r["run"] + ".busy"):
    open(r["run"] + ".busy", "w").close()
    sys.exit(74)
if act == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
note("-")
open(r["run"] + ".done", "w").close()
"""


class Made:
    """The state of a run that the script trains."""

    def __init__(self, needed: NeededRun) -> None:
        self.is_complete = Path(needed.run + ".done").exists()
        self.status = "finished" if self.is_complete else "missing"


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Return a function that runs jobs, given as name -> (what it does, what it waits for), and the journal."""
    monkeypatch.setattr(children, "COMMAND", ("-S", "-c", SCRIPT))
    monkeypatch.setattr(children, "POLL_SECONDS", 0.01)
    journal = tmp_path / "journal"
    journal.touch()

    def job(name: str, act: str, waits_for: tuple[str, ...]) -> Job:
        stated = {"act": act, "journal": str(journal)}
        run = str(tmp_path / name)
        needed = NeededRun(name=name, run=run, split=None, stated=stated, config=None)
        return Job(needed, [str(tmp_path / other) for other in waits_for])

    def start(parallel: int, **jobs: tuple[str, tuple[str, ...]]) -> None:
        run_jobs([job(name, *how) for name, how in jobs.items()], parallel, False, Made)

    return start, lambda: journal.read_text().replace("needs.", "").split()


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_run_starts_after_those_that_it_needs(start, parallel):
    run, journal = start
    run(parallel, a=("", ()), b=("", ()), c=("", ("a", "b")), d=("", ("c",)))
    lines = journal()
    assert sorted(lines) == sorted(f"{mark}{name}" for mark in "+-" for name in "abcd")
    assert lines[4:] == ["+c", "-c", "+d", "-d"]
    if parallel == 1:
        assert lines[:4] == ["+a", "-a", "+b", "-b"]


def test_a_failure_names_the_run_its_log_and_its_message_and_stops_the_others(start, tmp_path):
    run, journal = start
    with pytest.raises(
        NeededRunFailed, match=r"needs.b failed .*b.log\): there is no data"
    ) as failed:
        run(2, a=("wait", ()), b=("fail", ()), c=("", ("a",)))
    assert failed.value.exit_status == 1
    assert "+c" not in journal() and "-a" not in journal()


def test_a_killed_run_is_said_to_be_killed(start):
    run, _ = start
    with pytest.raises(NeededRunFailed, match="needs.a was ended by SIGKILL .* again to go on"):
        run(1, a=("killed", ()))


def test_a_run_that_another_process_took_first_is_looked_at_again(start):
    run, journal = start
    run(1, a=("in use", ()), b=("", ("a",)))
    assert journal() == ["+a", "+a", "-a", "+b", "-b"]


def test_a_log_that_cannot_be_written_is_one_sentence(start, tmp_path):
    run, _ = start
    (tmp_path / "a.log").mkdir()
    with pytest.raises(
        CheckpointError, match="needs.a: cannot write .*a.log: Is a directory; give"
    ):
        run(1, a=("", ()))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_stops_the_processes_first(start, number, status):
    run, journal = start

    def send_when_both_run():
        while len(journal()) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=send_when_both_run, daemon=True).start()
    with pytest.raises(RunStopped, match="again to go on") as stopped:
        run(2, a=("wait", ()), b=("wait", ()), c=("", ("a",)))
    assert stopped.value.exit_status == status
    assert sorted(journal()) == ["+a", "+b", "xa", "xb"]


# -- chains of real processes ----------------------------------------------------------------------------------------


def command(folder: Path, *overrides: str) -> subprocess.Popen:
    file = folder / "chain.json.yaml"
    file.write_text(json.dumps(chain(folder, updates=40)))
    arguments = ["-m", "fwk.cli.train", "--config", str(file), *overrides]
    return subprocess.Popen(
        [sys.executable, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def weights(folder: Path) -> dict[str, bytes]:
    names = ("first", "second", "student")
    newest = {name: checkpoint.list_checkpoints(folder / name)[-1] for name in names}
    return {name: (path / "model.safetensors").read_bytes() for name, path in newest.items()}


def wait_for_update(run: Path, update: int, process: subprocess.Popen) -> None:
    while not any(checkpoint.update_of(p) >= update for p in checkpoint.list_checkpoints(run)):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


def holder(run: Path) -> int:
    """The process that trains a run."""
    return int((run / ".lock").read_text().split()[0])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    process = command(folder)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert errors.count("started (") == 2 and "needs.second: finished" in errors
    return weights(folder)


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["parent", "child", "interrupt", "terminate"])
def test_a_kill_in_the_middle_of_a_chain_and_the_same_command_again(tmp_path, undisturbed, whom):
    process = command(tmp_path)
    wait_for_update(tmp_path / "second", 3, process)
    child = holder(tmp_path / "second")
    if whom == "child":
        os.kill(child, signal.SIGKILL)
    else:
        numbers = {
            "parent": signal.SIGKILL,
            "interrupt": signal.SIGINT,
            "terminate": signal.SIGTERM,
        }
        os.kill(process.pid, numbers[whom])
    _, errors = process.communicate()
    expected = {"parent": -9, "child": 1, "interrupt": 130, "terminate": 75}
    assert process.returncode == expected[whom], errors
    if whom != "parent":
        assert "Traceback" not in errors and errors.rstrip().endswith("again to go on")

    again = command(tmp_path)
    _, errors = again.communicate()
    assert again.returncode == 0, errors
    assert "needs.first" not in errors, "what the half-done run started from is looked at again"
    assert weights(tmp_path) == undisturbed
    assert not (tmp_path / "second" / ".lock").read_text()


@pytest.mark.slow
def test_two_chains_that_need_the_same_runs_train_them_once(tmp_path, undisturbed):
    with folder_lock(tmp_path / "first"):  # until both wait for the folder
        both = [command(tmp_path), command(tmp_path, f"run={tmp_path / 'other'}")]
        for process in both:
            assert "needs.first: waiting for process" in process.stderr.readline()
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    for name in ("first", "second"):
        assert sum(text.count(f"needs.{name}: finished") for text in errors) == 1, errors
        assert sum(text.count(f"needs.{name}: reused") for text in errors) == 1, errors
    assert weights(tmp_path) == undisturbed


@pytest.mark.slow
def test_runs_that_do_not_need_each_other_are_trained_at_the_same_time(tmp_path):
    config = chain(tmp_path, updates=5)
    first = config["needs"].pop("first")
    config["needs"] = {"first_{seed}": {**first, "over": [1, 2, 3], "seed": "{seed}"}}
    config["model"]["from"] = "${needs.first_1.run}"
    file = tmp_path / "chain.yaml"
    file.write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-m", "fwk.cli.train", "--config", str(file), "runs.parallel=3"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "needs." in line]
    assert all("started" in line for line in lines[:3]) and len(lines) == 6


@pytest.mark.slow
def test_a_run_that_fails_is_named_with_its_message(tmp_path):
    process = command(tmp_path, "needs.second.task.data=absent.tsv")
    _, errors = process.communicate()
    assert process.returncode == 2
    last = errors.strip().splitlines()[-1]
    assert last.startswith("fwk-train: error: needs.second failed (") and "absent.tsv" in last
    assert "Traceback" not in errors and not (tmp_path / "student").exists()
