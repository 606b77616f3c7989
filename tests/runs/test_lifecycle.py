"""The life of a run: the order of hooks, signals, stopping, resuming, and errors."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from support.runs import SIX_UPDATES, lines
from support.runs import config_in as six_updates

from fwk import hookimpl
from fwk.cli.common import run_command
from fwk.components.discovery import hook_signatures
from fwk.engine import trainer
from fwk.engine.saving import checkpoint
from fwk.errors import CheckpointError, RunError
from fwk.runs import start
from fwk.runs.lock import folder_lock
from fwk.testing import merge_settings

config_in = partial(six_updates, base=merge_settings(SIX_UPDATES, {"train": {"log_every": 4}}))


def model_of(run: Path) -> bytes:
    return (run / "checkpoints" / "latest" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    start.train(config_in(folder))
    return folder


# -- the order of hooks ----------------------------------------------------------------------------------------------


class Listener:
    """Record every hook call."""

    def __init__(self):
        self.heard: list[str] = []


def _listen(name: str):
    def note(self):
        self.heard.append(name)

    return hookimpl(note)


for _name in hook_signatures():
    if _name != "fwk_combine_gradients":
        setattr(Listener, _name, _listen(_name))


def documented() -> list[str]:
    """Return the hooks in the order of the pseudo-code at the head of the trainer."""
    return re.findall(r"\bfwk_\w+", trainer.__doc__)


def test_hooks_are_called_in_the_order_of_the_pseudo_code(tmp_path, plugin):
    listener = Listener()
    plugin(listener)
    every = {"updates": 2, "log_every": 1, "validate_every": 1, "save_every": 1}
    start.train(config_in(tmp_path / "run", {"train": every}))
    order = [name for name in documented() if name != "fwk_combine_gradients"]
    begin, update, end = order[:1], order[1:-2], order[-2:]
    assert begin == ["fwk_run_begin"] and end == ["fwk_logged", "fwk_run_end"]
    assert listener.heard == begin + update * 2 + end


def test_the_pseudo_code_names_every_hook_there_is():
    elsewhere = {"fwk_checkpoint_load", "fwk_exception"}  # before the loop, and instead of its end
    assert set(documented()) == set(hook_signatures()) - elsewhere


def test_a_hook_that_only_some_updates_need_is_called_in_those(tmp_path, plugin):
    listener = Listener()
    plugin(listener)
    start.train(config_in(tmp_path / "run"))
    expected = {
        "fwk_update_end": 6,
        "fwk_validated": 2,
        "fwk_checkpoint_save": 4,
    }  # saved at 2, 4, 6, and best at 3
    assert {name: listener.heard.count(name) for name in expected} == expected


# -- signals ---------------------------------------------------------------------------------------------------------


class Signal:
    """Send a signal to this process while update `at` is under way."""

    def __init__(self, number: int, at: int = 3):
        self.number, self.at = number, at

    @hookimpl
    def fwk_update_begin(self, run):
        if run.update + 1 == self.at:
            self.at = -1
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    "number, status", [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)]
)
def test_a_signal_saves_and_going_on_loses_nothing(tmp_path, undisturbed, plugin, number, status):
    before = signal.getsignal(number)
    plugin(Signal(number))
    stopped = start.train(config_in(tmp_path / "run"))
    assert (stopped.status, stopped.exit_status, stopped.update) == ("stopped", status, 2)
    assert os.readlink(tmp_path / "run" / "checkpoints" / "latest") == "update-000000002"
    assert lines(tmp_path / "run")[-1] == {"event": "stopped", "split": "train", "update": 2}
    assert signal.getsignal(number) == before
    assert start.train(config_in(tmp_path / "run")).status == "finished"
    assert model_of(tmp_path / "run") == model_of(undisturbed)
    assert lines(tmp_path / "run") == lines(undisturbed)


def test_a_signal_before_the_first_update_saves_too(tmp_path, undisturbed, plugin):
    plugin(Signal(signal.SIGTERM, at=1))
    assert start.train(config_in(tmp_path / "run")).exit_status == 75
    assert os.readlink(tmp_path / "run" / "checkpoints" / "latest") == "update-000000000"
    assert start.train(config_in(tmp_path / "run")).status == "finished"
    assert model_of(tmp_path / "run") == model_of(undisturbed) and lines(tmp_path / "run") == lines(
        undisturbed
    )


def test_a_second_ctrl_c_ends_the_run_at_once(tmp_path, plugin):
    class Twice(Listener):
        @hookimpl
        def fwk_update_begin(self, run):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    listener = Twice()
    plugin(listener)
    assert (
        run_command("fwk-train", lambda _: start.train(config_in(tmp_path / "run")).exit_status, [])
        == 130
    )
    assert listener.heard[-2:] == ["fwk_exception", "fwk_run_end"]
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_a_signal_to_the_whole_group_saves_although_workers_hear_it_too(tmp_path):
    """Send the signal as schedulers do: to the trainer and its data-loading workers at once."""
    folder = tmp_path / "run"
    config = config_in(
        folder, {"train": {"updates": 100000, "workers": 1, "save_every": 0, "validate_every": 0}}
    )
    (tmp_path / "config.yaml").write_text(json.dumps(config.to_mapping()))
    process = subprocess.Popen(
        [sys.executable, "-m", "fwk.cli.train", "--config", str(tmp_path / "config.yaml")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        stderr=subprocess.PIPE,
    )
    try:
        until(
            lambda: (
                process.poll() is not None
                or ((folder / "metrics.jsonl").is_file() and len(lines(folder)) > 2)
            )
        )
        assert process.poll() is None, process.communicate()[1].decode()[-2000:]
        os.killpg(process.pid, signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75, said.decode()[-2000:]
    assert checkpoint.newest_intact(folder)[0].name == f"update-{lines(folder)[-1]['update']:09d}"


def until(true, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "this took too long"
        time.sleep(0.05)


# -- finished, longer, which limit -----------------------------------------------------------------------------------


def test_a_finished_run_started_again_does_nothing_and_says_so(tmp_path, caplog):
    caplog.set_level("INFO", "fwk")
    start.train(config_in(tmp_path / "run"))
    checkpoints = tmp_path / "run" / "checkpoints"
    files = {path: path.stat().st_mtime_ns for path in checkpoints.rglob("*.safetensors")}
    before = lines(tmp_path / "run")
    assert "nothing to do" not in caplog.text
    again = start.train(config_in(tmp_path / "run"))
    assert (again.status, again.exit_status, again.update) == ("finished", 0, 6)
    evaluations = [line["metrics"] for line in before if line["split"] == "valid"]
    assert again.metrics["valid"]["loss"] == evaluations[-1]["loss"]
    assert (
        "finished at update 6: nothing to do; a longer run (train.updates above 6)" in caplog.text
    )
    start.train(config_in(tmp_path / "run", {"train": {"updates": 4, "epochs": 1000}}))
    assert "(train.updates above 6) would resume" in caplog.messages[-1]  # not above 4
    assert lines(tmp_path / "run") == before
    assert files == {path: path.stat().st_mtime_ns for path in checkpoints.rglob("*.safetensors")}


def test_more_updates_go_on_where_a_finished_run_ended(tmp_path):
    constant = {"schedule": {"name": "constant", "warmup": 0}}
    shorter = {**constant, "train": {"updates": 3, "validate_every": 3, "log_every": 3}}
    longer = {**constant, "train": {"updates": 6, "validate_every": 3, "log_every": 3}}
    start.train(config_in(tmp_path / "a", shorter))
    start.train(config_in(tmp_path / "a", longer))
    start.train(config_in(tmp_path / "b", longer))
    assert model_of(tmp_path / "a") == model_of(tmp_path / "b")
    assert lines(tmp_path / "a") == lines(tmp_path / "b")


@pytest.mark.parametrize(
    "limits, updates",
    [
        ({"updates": 3}, 3),
        ({"updates": None, "epochs": 0.5}, 3),
        ({"updates": None, "epochs": 0.3}, 2),
        ({"updates": 5, "epochs": 0.3}, 2),
        ({"updates": 2, "epochs": 3.0, "tokens": 10**9, "minutes": 60.0}, 2),
    ],
)
def test_a_run_ends_at_the_first_of_its_limits(tmp_path, limits, updates):
    # one epoch is 64 sequences, an update takes 12
    config = config_in(tmp_path / "run", {"task": {"second_source": 0.0}, "train": limits})
    assert start.train(config).update == updates


def test_a_run_ends_when_it_has_seen_enough_tokens(tmp_path):
    done = start.train(
        config_in(tmp_path / "run", {"train": {"updates": None, "tokens": 400, "log_every": 1}})
    )
    seen = [line["tokens"] for line in lines(tmp_path / "run") if "tokens" in line]
    assert done.update == len(seen) and seen[-1] >= 400 > seen[-2]


@pytest.mark.slow
def test_a_run_ends_when_its_minutes_are_over_and_counts_those_of_earlier_starts(tmp_path):
    limit = {"updates": None, "minutes": 0.02, "save_every": 0}  # 1.2 seconds
    started = time.monotonic()
    done = start.train(config_in(tmp_path / "run", {"train": limit}))
    assert done.status == "finished" and done.update > 0 and time.monotonic() - started >= 1.2
    seconds = checkpoint.read_checkpoint(checkpoint.find_checkpoint(done.folder))[1]["seconds"]
    assert seconds >= 1.2
    assert start.train(config_in(tmp_path / "run", {"train": limit})).update == done.update


# -- hooks that keep something, hooks that raise ---------------------------------------------------------------------


class Keeper:
    def __init__(self):
        self.state, self.loaded = (
            {"seen": [], "mean": torch.zeros(2, dtype=torch.float64), "name": "ünïcode"},
            None,
        )

    @hookimpl
    def fwk_update_end(self, run):
        self.state["seen"].append(run.update)
        self.state["mean"] = self.state["mean"] + run.update

    @hookimpl
    def fwk_checkpoint_save(self, run):
        return self.state

    @hookimpl
    def fwk_checkpoint_load(self, run, state):
        assert run.update > 0
        self.loaded = self.state = state


def test_what_a_hook_keeps_comes_back_under_its_plugin_name(tmp_path, plugin):
    first, other = Keeper(), Keeper()
    plugin(first, "first")
    plugin(other, "other")
    other.state["name"] = "other"
    start.train(config_in(tmp_path / "run", {"train": {"updates": 2}}))
    assert checkpoint.read_checkpoint(checkpoint.find_checkpoint(tmp_path / "run"))[1]["plugins"][
        "other"
    ] == {"seen": [1, 2], "name": "other"}
    first.__init__()
    other.__init__()
    start.train(config_in(tmp_path / "run", {"train": {"updates": 4}}))
    assert first.loaded["name"] == "ünïcode" and other.loaded["name"] == "other"
    assert first.state["seen"] == [1, 2, 3, 4]
    assert torch.equal(first.state["mean"], torch.full((2,), 10.0, dtype=torch.float64))


@pytest.mark.parametrize(
    "hook",
    [
        "fwk_run_begin",
        "fwk_phase",
        "fwk_update_end",
        "fwk_logged",
        "fwk_validated",
        "fwk_checkpoint_save",
    ],
)
def test_a_hook_that_raises_ends_the_run_and_is_named(tmp_path, plugin, capfd, hook):
    def broken(self, run):
        raise ValueError("the disk of dreams\nis full")

    listener = Listener()
    plugin(type("Broken", (), {hook: hookimpl(broken)})(), "broken plugin")
    plugin(listener)
    assert (
        run_command("fwk-train", lambda _: start.train(config_in(tmp_path / "run")).exit_status, [])
        == 1
    )
    said = capfd.readouterr().err.splitlines()
    assert said[-1].startswith(
        f"fwk-train: error: {hook} of 'broken plugin' raised ValueError: the disk of dreams is full"
    )
    assert listener.heard[-2:] == ["fwk_exception", "fwk_run_end"]


def test_an_error_of_ours_in_a_hook_stays_what_it_is(tmp_path, plugin):
    class Refusing:
        @hookimpl
        def fwk_validated(self, run):
            raise RunError("enough")

    plugin(Refusing())
    with pytest.raises(RunError, match="^enough$"):
        start.train(config_in(tmp_path / "run"))


def test_after_a_failed_run_the_same_command_goes_on(tmp_path, undisturbed, plugin):
    class Once:
        armed = True

        @hookimpl
        def fwk_update_end(self, run):
            if self.armed and run.update == 5:
                Once.armed = False
                raise OSError("the cable")

    plugin(Once())
    with pytest.raises(
        RunError, match="fwk_update_end of 'plugin under test' raised OSError: the cable"
    ):
        start.train(config_in(tmp_path / "run"))
    assert start.train(config_in(tmp_path / "run")).status == "finished"
    assert model_of(tmp_path / "run") == model_of(undisturbed) and lines(tmp_path / "run") == lines(
        undisturbed
    )


def test_the_status_at_the_end_is_one_of_three(tmp_path, plugin):
    class Status:
        def __init__(self):
            self.seen: list[str] = []

        @hookimpl
        def fwk_run_end(self, run, status):
            self.seen.append(status)

        @hookimpl
        def fwk_update_begin(self, run):
            if run.update == 1 and len(self.seen) == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            if run.update == 1 and len(self.seen) == 1:
                raise ValueError

    status = Status()
    plugin(status)
    start.train(config_in(tmp_path / "run"))
    with pytest.raises(RunError):
        start.train(config_in(tmp_path / "run"))
    start.train(config_in(tmp_path / "run"))
    assert status.seen == ["stopped", "failed", "finished"]


# -- one run, one process --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_process_on_one_folder_is_refused_and_changes_nothing(
    tmp_path, undisturbed, overwrite
):
    folder = tmp_path / "run"
    start.train(config_in(folder, {"train": {"updates": 2}}))
    before = {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    said = f"is in use by process {os.getpid()} on {socket.gethostname()}; wait for it, or choose another"
    with folder_lock(folder), pytest.raises(CheckpointError, match=said):
        start.train(config_in(folder), overwrite=overwrite)
    assert before == {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    assert start.train(config_in(folder), overwrite=overwrite).status == "finished"


def test_a_forked_worker_does_not_hold_the_folder_of_a_dead_trainer(tmp_path):
    ready, go = os.pipe(), os.pipe()
    with folder_lock(tmp_path / "run"):
        child = os.fork()
        if child == 0:  # what a data-loading worker is
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
    try:
        with folder_lock(tmp_path / "run"):
            pass
    finally:
        os.write(go[1], b"x")
        os.waitpid(child, 0)
