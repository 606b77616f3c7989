"""Failures of the system and of data: memory, disks, limits, tokens, plugins, signals at awkward moments.

Each ends with one message, and nothing is lost.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.runs import SIX_UPDATES, config_in, lines

from fwk import hookimpl
from fwk.cli.common import run_command
from fwk.engine import bookkeeping
from fwk.engine import trainer as trainer_module
from fwk.engine.module import ObjectiveModule
from fwk.engine.saving import checkpoint, tensor_file
from fwk.engine.saving.saver import Saver
from fwk.errors import CheckpointError, RunError
from fwk.files.kinds import RUN
from fwk.files.replacing import mark
from fwk.hooks import jsonl
from fwk.runs import start
from fwk.runs.loaded import load
from fwk.tasks.synthetic import Synthetic
from fwk.testing import tiny_config, trainer_of


def left_behind(run: Path) -> dict[str, bytes]:
    checkpoints = run / "checkpoints"
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(checkpoints.glob("*/*.safetensors"))
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    start.train(config_in(folder))
    return folder


# -- saving in the background ----------------------------------------------------------------------------------------


def test_a_checkpoint_holds_what_was_there_when_it_was_begun(tmp_path):
    saver, held = Saver(tmp_path, background=True, keep_last=2), threading.Event()
    (tmp_path / "checkpoints").mkdir()
    write = checkpoint.write_hashed

    def slow(path, parts):
        held.wait(30)
        return write(path, parts)

    value = torch.arange(5.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "write_hashed", slow)
        saver.start(1, {name: {"x": value} for name in ("model", "optimizer", "meters")}, "{}", [])
        value += 1  # the next update
        assert not list((tmp_path / "checkpoints").glob("update-*"))
        held.set()
        saver.wait()
    assert torch.equal(
        load_file(tmp_path / "checkpoints/latest/model.safetensors")["x"], torch.arange(5.0)
    )


def test_one_copy_is_kept_and_used_again(tmp_path):
    saver = Saver(tmp_path, background=True, keep_last=2)
    first = {"model": {"x": torch.ones(4), "y": torch.ones(3)}}
    copied = saver._copy(first)["model"]
    places = {name: value.data_ptr() for name, value in copied.items()}
    again = saver._copy({"model": {"x": torch.zeros(4), "z": torch.zeros(2)}})["model"]
    assert again["x"].data_ptr() == places["x"] and again["x"].sum() == 0
    assert sorted(saver._buffers) == [
        ("model", "x"),
        ("model", "z"),
    ]  # tensors that are no longer saved are not kept


def test_the_next_save_waits_for_the_one_before(tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    saver, order = Saver(tmp_path, background=True, keep_last=2), []
    settle = checkpoint.prune_checkpoints
    monkeypatch.setattr(
        checkpoint,
        "prune_checkpoints",
        lambda *a: (order.append(f"{a[1].name} written"), settle(*a)),
    )
    copy = saver._copy
    monkeypatch.setattr(saver, "_copy", lambda tensors: (order.append("copied"), copy(tensors))[1])
    for update in (1, 2):
        saver.start(update, {"model": {"x": torch.ones(1 << 18)}}, "{}", [])
    saver.wait()
    assert order == ["copied", "update-000000001 written", "copied", "update-000000002 written"]


@pytest.mark.parametrize("dtype", sorted(tensor_file.TYPE_NAMES, key=str), ids=str)
def test_tensors_are_written_as_safetensors_itself_reads_them(tmp_path, dtype):
    whole = {
        "b": torch.arange(24).view(2, 3, 4),
        "a": torch.ones(()),
        "empty": torch.zeros(0, 5),
        "turned": torch.arange(6).view(2, 3).T,
    }
    tensors = {name: value.to(dtype) for name, value in whole.items()} | {
        "another": torch.ones(3, dtype=torch.float64)
    }
    facts = checkpoint.write_hashed(tmp_path / "ours", checkpoint.serialize(tensors))
    save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "theirs")
    assert facts == {
        "sha256": checkpoint.digest(tmp_path / "ours"),
        "bytes": (tmp_path / "ours").stat().st_size,
    }
    ours, theirs = load_file(tmp_path / "ours"), load_file(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype and ours[name].shape == theirs[name].shape
        assert bytes(ours[name].contiguous().view(-1).view(torch.uint8)) == bytes(
            theirs[name].contiguous().view(-1).view(torch.uint8)
        )


@pytest.mark.parametrize("in_background", [True, False])
def test_saving_in_the_background_changes_no_byte(tmp_path, undisturbed, in_background):
    start.train(config_in(tmp_path / "run", {"train": {"async_save": in_background}}))
    assert left_behind(tmp_path / "run") == left_behind(undisturbed)


def test_what_cannot_be_written_in_the_background_ends_the_run_before_the_next_save(
    tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_hashed", full)
    updates = []
    with pytest.MonkeyPatch.context() as patch:
        step = trainer_module.Trainer.step

        def noted(self, batches):
            if self.bookkeeping.saver._writer is not None:
                self.bookkeeping.saver._writer.join()  # so that it has failed by now
            updates.append(self.run.update)
            return step(self, batches)

        patch.setattr(trainer_module.Trainer, "step", noted)
        with pytest.raises(RunError, match="No space left on device; there is no earlier one"):
            start.train(
                config_in(
                    tmp_path / "run",
                    {"train": {"updates": 50, "save_every": 10, "validate_every": 0}},
                )
            )
    assert updates[-1] == 10  # the update after the save was the last one


def test_a_hooks_tensors_are_those_of_the_moment(tmp_path, plugin, monkeypatch):
    class Counting:
        def __init__(self):
            self.count = torch.zeros(())

        @hookimpl
        def fwk_update_end(self, run):
            self.count += 1

        @hookimpl
        def fwk_checkpoint_save(self, run):
            return {"count": self.count}

    plugin(Counting(), "counting")
    monkeypatch.setattr(checkpoint, "prune_checkpoints", lambda *a: None)  # every checkpoint stays
    start.train(config_in(tmp_path / "run", {"train": {"save_every": 1, "validate_every": 0}}))
    for path in checkpoint.list_checkpoints(tmp_path / "run"):
        assert float(
            load_file(path / "plugin-counting.safetensors")["count"]
        ) == checkpoint.update_of(path)


# -- signals at awkward moments --------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [3, 6])
@pytest.mark.slow
def test_a_signal_during_validation_ends_it_and_the_next_start_makes_it_again(
    tmp_path, undisturbed, monkeypatch, at
):
    from fwk.engine import evaluate as evaluation

    measure = evaluation._measure

    def interrupted(run, batches, *rest):
        def some():
            for number, batch in enumerate(batches):
                if number == 1 and run.update == at:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        return measure(run, some(), *rest)

    small = {"train": {"micro_batch": 4}}
    start.train(config_in(tmp_path / "whole", small))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "_measure", interrupted)
        stopped = start.train(config_in(tmp_path / "run", small))
    assert (stopped.exit_status, stopped.update) == (75, at)
    assert os.readlink(tmp_path / "run/checkpoints/latest") == f"update-{at:09d}"
    assert not [
        line
        for line in lines(tmp_path / "run")
        if line["split"] == "valid" and line["update"] == at
    ]
    assert start.train(config_in(tmp_path / "run", small)).status == "finished"
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")
    assert left_behind(tmp_path / "run") == left_behind(tmp_path / "whole")


def test_a_signal_while_a_checkpoint_is_written_waits_for_it(tmp_path, undisturbed, monkeypatch):
    write, sent = checkpoint.write_hashed, []

    def signalling(path, parts):
        if path.name == "state.json" and not sent:
            sent.append(path)
            os.kill(os.getpid(), signal.SIGTERM)
        return write(path, parts)

    monkeypatch.setattr(checkpoint, "write_hashed", signalling)
    stopped = start.train(config_in(tmp_path / "run"))
    assert stopped.exit_status == 75
    newest = checkpoint.list_checkpoints(tmp_path / "run")[-1]
    checkpoint.verify(newest)
    assert (
        checkpoint.update_of(newest) == stopped.update >= 2
        and os.readlink(newest.parent / "latest") == newest.name
    )
    assert not list(newest.parent.glob(".writing*"))
    assert start.train(config_in(tmp_path / "run")).status == "finished"
    assert lines(tmp_path / "run") == lines(undisturbed) and left_behind(
        tmp_path / "run"
    ) == left_behind(undisturbed)


# -- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
            "allocate 987654321 bytes. Error code 12 (Cannot allocate memory)"
        ),
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1 GiB."
        ),
        MemoryError(),
    ],
    ids=["cpu", "cuda", "python"],
)
def test_out_of_memory_says_which_shape_and_what_to_set(tmp_path, monkeypatch, error):
    def full(*_, **__):
        raise error

    from fwk.engine.module import ObjectiveModule

    monkeypatch.setattr(ObjectiveModule, "forward", full)
    config = config_in(
        tmp_path / "run",
        {"criterion": {"masked_lm": None, "semantic_augment": {}}, "train": {"batch": 12}},
    )
    with pytest.raises(RunError) as caught:
        start.train(config)
    message = str(caught.value)
    assert message.startswith("update 1: out of memory")
    assert (
        "in a micro-batch of 12 x " in message
        and "2 views (masked, remasked) encoded together" in message
    )
    assert "set train.micro_batch=6, which computes the same update in smaller pieces" in message
    sizes = ("987654321 bytes", "2.00 GiB")
    assert [size for size in sizes if size in message] == [
        size for size in sizes if size in str(error)
    ]


def test_out_of_memory_in_an_optimizer_or_a_hook_names_the_place(tmp_path, monkeypatch):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(bookkeeping, "evaluate", full)
    # in the background a checkpoint may not be finished yet
    saved = {"async_save": False, "save_every": 2}
    for train, expected in (
        (saved, "the last checkpoint is intact"),
        ({"save_every": 0}, "there is no checkpoint yet"),
    ):
        with pytest.raises(RunError, match=f"out of memory .* in validation; {expected}, and a"):
            start.train(config_in(tmp_path / f"run-{len(train)}", {"train": train}))


@pytest.mark.parametrize(
    ("owner", "method"),
    [(ObjectiveModule, "forward"), (Synthetic, "collate"), (jsonl, "as_line")],
    ids=["engine", "task", "hook"],
)
def test_a_worker_that_dies_is_one_sentence_wherever_the_trainer_is(
    tmp_path, monkeypatch, owner, method
):
    def hit(*_, **__):  # as torch's handler of SIGCHLD does
        raise RuntimeError("DataLoader worker (pid 123) is killed by signal: Killed. ")

    monkeypatch.setattr(owner, method, hit)
    with pytest.raises(
        RunError,
        match=r"^update \d: a data-loading worker died \(DataLoader worker \(pid 123\) is killed by",
    ):
        start.train(config_in(tmp_path / "run"))


# -- limits, tokens --------------------------------------------------------------------------------------------------


GREEDY = """
import os
from fwk import hookimpl

held = []

@hookimpl
def fwk_update_begin(run):
    try:
        while run.update == 3:
            held.append(open(os.devnull))
    except OSError:
        pass
"""


@pytest.mark.slow
def test_too_many_open_files_are_one_sentence_and_lose_nothing(tmp_path, undisturbed):
    (tmp_path / "greedy.py").write_text(GREEDY)
    (tmp_path / "config.yaml").write_text(json.dumps(config_in(tmp_path / "run").to_mapping()))
    command = (
        f"ulimit -n 200; exec {sys.executable} -m fwk.cli.train --config {tmp_path / 'config.yaml'}"
    )
    # not in the background: a writing thread would release its open files after all others were taken
    done = subprocess.run(
        ["sh", "-c", f"{command} train.async_save=false --user-dir {tmp_path / 'greedy.py'}"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "Too many open files" in done.stderr.splitlines()[-1]
    assert start.train(config_in(tmp_path / "run")).status == "finished"
    assert lines(tmp_path / "run") == lines(undisturbed)


@pytest.mark.parametrize("token", [24, -1])
def test_a_token_the_vocabulary_does_not_have_is_named_with_its_example(
    tmp_path, monkeypatch, token
):
    from fwk.tasks.synthetic import Synthetic, _Sequences

    read, vocabulary = _Sequences.many, tiny_config(SIX_UPDATES).task.config.vocabulary
    wrong = vocabulary if token > 0 else token

    def damaged(self, indices):
        examples = read(self, indices)
        for index, (words, _) in zip(indices, examples, strict=True):
            if index == 5:
                words[:] = wrong
        return examples

    monkeypatch.setattr(_Sequences, "many", damaged)
    monkeypatch.setattr(Synthetic, "splits", lambda self: ("train",))
    with pytest.raises(
        RunError,
        match=rf"example 5 of source '.' \(draw \d+\) has the token id {wrong}, but the vocabulary has the ids 0 to",
    ):
        start.train(config_in(tmp_path / "run", {"train": {"updates": 40, "validate_every": 0}}))


# -- what is logged --------------------------------------------------------------------------------------------------


def test_a_log_that_cannot_be_written_saves_the_run_and_ends_it(
    tmp_path, undisturbed, monkeypatch, capfd
):
    line, calls = jsonl.as_line, []

    def full(record):
        calls.append(record)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return line(record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl, "as_line", full)
        assert (
            run_command(
                "fwk-train", lambda _: start.train(config_in(tmp_path / "run")).exit_status, []
            )
            == 1
        )
    errors = capfd.readouterr().err.splitlines()
    assert (
        len(errors) == 1
        and "metrics.jsonl: No space left on device; the run has saved and stopped" in errors[0]
    )
    assert (
        checkpoint.newest_intact(tmp_path / "run")[0].name == "update-000000004"
    )  # reports the line that was not written
    path = tmp_path / "run" / "metrics.jsonl"
    assert start.train(config_in(tmp_path / "run")).status == "finished"
    assert [x for x in lines(undisturbed) if x not in lines(tmp_path / "run")] == [
        lines(undisturbed)[2]
    ], path.read_text()


def test_an_unwritable_log_at_the_start_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").mkdir()
    mark(tmp_path / "run", RUN)
    with pytest.raises(CheckpointError, match="cannot write .*metrics.jsonl: Is a directory"):
        start.train(config_in(tmp_path / "run"))


@pytest.mark.parametrize("broken", ["from the start", "later"])
def test_a_run_goes_on_without_tensorboard_and_says_so_once(tmp_path, caplog, capfd, broken):
    from tensorboard.summary.writer import record_writer

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if broken == "from the start":
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "tensorboard").write_text("in the way")
        mark(tmp_path / "run", RUN)
    with pytest.MonkeyPatch.context() as patch:
        if broken == "later":
            patch.setattr(record_writer.RecordWriter, "flush", full)
        config = config_in(
            tmp_path / "run",
            {"hooks": {"tensorboard": {"name": "tensorboard", "flush_seconds": 1}}},
        )
        assert start.train(config).status == "finished"
    warnings = [message for message in caplog.messages if "tensorboard" in message]
    assert (
        len(warnings) == 1
        and warnings[0].startswith("cannot write tensorboard/: ")
        and warnings[0].endswith("the run continues without it")
    )
    assert (
        "Traceback" not in capfd.readouterr().err
        and lines(tmp_path / "run")[-1]["event"] == "finished"
    )


def test_a_disk_that_fills_while_a_run_is_described_is_one_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "environment.json")

    monkeypatch.setattr(start, "describe_run", full)
    with pytest.raises(
        RunError, match=r"No space left on device \(environment.json\); free some space"
    ):
        start.train(config_in(tmp_path / "run"))


def test_too_little_space_is_foreseen_before_the_first_update(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(
        CheckpointError,
        match="a checkpoint needs at least .* MB, but only 0.0 MB are free on the disk of",
    ):
        start.train(config_in(tmp_path / "run"))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_save_without_room_writes_nothing_and_names_the_good_one(
    tmp_path, undisturbed, monkeypatch
):
    shutil.copytree(undisturbed, tmp_path / "run", symlinks=True)
    monkeypatch.setattr(checkpoint, "require_free_space", lambda *_: None)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(
        RunError,
        match="it needs .* MB, but only 0.0 MB are free on its disk; the last intact checkpoint is update-000000006",
    ):
        start.train(config_in(tmp_path / "run", {"train": {"updates": 8}}))


# -- what a checkpoint needs -----------------------------------------------------------------------------------------


@pytest.fixture
def run(undisturbed, tmp_path) -> Path:
    return Path(shutil.copytree(undisturbed, tmp_path / "run", symlinks=True))


def rewrite_state(run: Path, change) -> None:
    """Change the newest checkpoint's state, and its manifest to match."""
    newest = checkpoint.list_checkpoints(run)[-1]
    state = json.loads((newest / "state.json").read_text())
    change(state)
    facts = checkpoint.write_hashed(newest / "state.json", [json.dumps(state).encode()])
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest["files"]["state.json"] = facts
    (newest / "manifest.json").write_text(json.dumps(manifest))


def not_a_number(run: Path) -> None:
    """Put NaN into the newest checkpoint's weights, and change its manifest to match."""
    newest = checkpoint.list_checkpoints(run)[-1]
    tensors = {
        name: value.clone() for name, value in load_file(newest / "model.safetensors").items()
    }  # not the memory-mapped file itself
    tensors["networks.main.embeddings.token.weight"][3, 2] = float("nan")
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest["files"]["model.safetensors"] = checkpoint.write_hashed(
        newest / "model.safetensors", checkpoint.serialize(tensors)
    )
    (newest / "manifest.json").write_text(json.dumps(manifest))


def test_weights_that_are_not_finite_are_not_gone_on_from(run, caplog):
    not_a_number(run)
    expected = "update-000000006: networks.main.embeddings.token.weight is not finite"
    with pytest.raises(CheckpointError, match=expected):
        load(run)
    assert start.train(config_in(run, {"train": {"updates": 8}})).update == 8
    assert f"skipped a checkpoint: {run}/checkpoints/{expected}" in caplog.text


def test_where_every_checkpoint_holds_weights_that_are_not_finite_none_is_gone_on_from(run):
    for newer in checkpoint.list_checkpoints(run)[1:]:
        shutil.rmtree(newer)
    not_a_number(run)
    with pytest.raises(CheckpointError, match="no checkpoint of .* is intact: .* is not finite"):
        start.train(config_in(run, {"train": {"updates": 8}}))


def test_weights_that_are_not_finite_are_not_saved(tmp_path, plugin):
    class Damage:
        @hookimpl
        def fwk_update_end(self, run):
            if run.update == 4:
                next(iter(run.trainable)).data.view(-1)[0] = float("inf")

    plugin(Damage())
    expected = (
        "cannot write the checkpoint .*update-000000004: .* is not finite; "
        "the last intact checkpoint is update-000000003"
    )
    with pytest.raises(RunError, match=expected):
        start.train(config_in(tmp_path / "run", {"train": {"async_save": False}}))


def test_a_start_that_is_refused_changes_nothing_in_the_folder(run):
    for folder in checkpoint.list_checkpoints(run):
        (folder / "state.json").unlink()
    before = {
        path: path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    with pytest.raises(CheckpointError, match="is intact"):
        start.train(config_in(run, {"train": {"updates": 8}}))
    assert before == {
        path: path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize("key", sorted(checkpoint.REQUIRED_STATE))
@pytest.mark.mostly_slow("optimizer", "fingerprint")
def test_a_state_that_lacks_something_is_refused_by_name(run, key):
    rewrite_state(run, lambda state: state.pop(key))
    with pytest.raises(
        CheckpointError,
        match=rf"update-000000006(/state.json is damaged: it)? lacks (the entry ')?{key}['|:]",
    ):
        start.train(config_in(run, {"train": {"updates": 8}}))


def test_the_state_of_a_plugin_that_is_absent_is_refused_unless_it_only_listened(run):
    rewrite_state(run, lambda state: state["plugins"].update(somebodys={"count": 3}))
    with pytest.raises(CheckpointError, match="holds the state of somebodys, which is not loaded"):
        start.train(config_in(run, {"train": {"updates": 8}}))
    rewrite_state(run, lambda state: state["listeners"].append("somebodys"))
    assert start.train(config_in(run, {"train": {"updates": 8}})).update == 8


# -- several runs in one process, several hosts on one folder --------------------------------------------------------


def test_a_run_leaves_the_process_as_deterministic_as_it_was(tmp_path, plugin):
    seen = []

    class Look:
        @hookimpl
        def fwk_run_begin(self, run):
            seen.append(torch.are_deterministic_algorithms_enabled())

    plugin(Look())
    fill = torch.utils.deterministic.fill_uninitialized_memory
    for wanted in (True, False):
        start.train(
            config_in(
                tmp_path / f"run-{wanted}", {"train": {"deterministic": wanted, "updates": 1}}
            )
        )
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.utils.deterministic.fill_uninitialized_memory == fill
    assert seen == [True, False]


def test_a_folder_that_another_host_did_not_give_back_is_used_with_a_warning(tmp_path, caplog):
    folder = tmp_path / "run"
    start.train(config_in(folder))
    assert (folder / ".lock").read_text() == ""  # released
    (folder / ".lock").write_text("123 on elsewhere")
    start.train(config_in(folder, {"train": {"updates": 7}}))
    assert "was last used by process 123 on elsewhere, which did not release it" in caplog.text


def test_the_clock_of_the_wall_does_not_matter(tmp_path, monkeypatch):
    import time

    jumps = iter([1e9, 5e8, 2e9] * 10_000)
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    done = start.train(config_in(tmp_path / "run", {"train": {"minutes": 5.0}}))
    seconds = [
        json.loads(line)["seconds"]
        for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()
        if '"seconds"' in line
    ]
    assert done.update == 6 and seconds == sorted(seconds) and seconds[0] >= 0 and seconds[-1] < 300


def test_trainers_that_never_saved_have_nothing_to_wait_for():
    with trainer_of(tiny_config(SIX_UPDATES)) as trainer:
        trainer.bookkeeping.saver.wait()
        trainer.bookkeeping.saver.abandon()
        trainer.bookkeeping.finish_saving()
