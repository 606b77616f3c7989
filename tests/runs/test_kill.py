"""SIGKILL at any moment, also inside a save, and a restart: the run ends as if it had not been disturbed.

Starts are cheap: this file, run as a program, imports everything once and forks a child for each start.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CONFIG = {
    "criterion": {"semantic_augment": {}, "masked_lm": {"weight": {"from": 0.0, "to": 1.0}}},
    "model": {"dropout": 0.1, "attention_dropout": 0.1},
    "hooks": {"jsonl": {}},
    "task": {"sequences": 40},
    "train": {
        "precision": "fp32",
        "batch": 6,
        "micro_batch": 4,
        "save_every": 1,
        "log_every": 4,
        "validate_every": 3,
        "keep_last": 2,
        "keep_best": 2,
        "ema": 0.9,
    },
}
TIMINGS = ("seconds", "tokens_per_second")


# -- the program that starts runs ------------------------------------------------------------------------------------


def serve() -> None:
    """Read requests, one JSON object per line: {folder, train, die}; fork a run for each, kill it as requested, and
    answer with its exit status."""
    import torch
    import torch._dynamo  # optimizers import it when they are built, which takes longer than a whole run of this test

    from fwk.components.discovery import load_plugins
    from fwk.runs import start  # noqa: F401  everything a run needs, before the first fork
    from fwk.testing import tiny_config

    torch.set_num_threads(1)
    config = tiny_config(CONFIG)
    load_plugins()
    [component.cls for component in (config.task, config.model, config.optimizer, config.schedule)]
    for line in sys.stdin:
        request = json.loads(line)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _child(request, writer)
        os.close(writer)
        if request.get("saves") is not None:
            _wait_for_saves(reader, request["saves"])
            time.sleep(request["seconds"])
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                pass
        _, status = os.waitpid(child, 0)
        os.close(reader)
        print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)


def _wait_for_saves(reader: int, saves: int) -> None:
    """Wait until the child has started so many saves, or has ended."""
    while saves > 0:
        select.select([reader], [], [])
        if not (seen := os.read(reader, 1)):
            return
        saves -= len(seen)


def _child(request: dict, writer: int) -> None:
    from fwk.cli.common import run_command
    from fwk.engine.saving import checkpoint
    from fwk.runs import start
    from fwk.testing import tiny_config

    with open(Path(request["folder"]).with_suffix(".log"), "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    write = checkpoint.write_checkpoint

    def announced(*arguments):
        os.write(writer, b"s")
        return write(*arguments)

    checkpoint.write_checkpoint = announced
    if request.get("step") is not None:
        _die_at(request["step"], request["in_save"])
    config = tiny_config(
        {**CONFIG, "train": {**CONFIG["train"], **request["train"]}, "run": request["folder"]}
    )
    os._exit(run_command("test", lambda _: start.train(config).exit_status, []))


def _die_at(step: int, in_save: int) -> None:
    """Kill this process at the `step`-th disk operation of its `in_save`-th save: just before it, or (where it writes a
    file) halfway through it."""
    from fwk.engine.saving import checkpoint

    state = {"saves": 0, "steps": 0}
    write, settle = checkpoint.write_checkpoint, checkpoint.prune_checkpoints

    def counted(*arguments):
        state["saves"] += 1
        state["steps"] = 0
        return write(*arguments)

    def last(*arguments):
        settle(*arguments)
        if state["saves"] == in_save and state["steps"] <= step:
            os._exit(99)  # the save has fewer steps

    def watched(function, torn=None):
        def call(*arguments, **keywords):
            if state["saves"] == in_save:
                state["steps"] += 1
                if state["steps"] == step:
                    if torn is not None:
                        torn(function, *arguments, **keywords)
                    os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **keywords)

        return call

    def half_a_file(function, path, parts):
        function(path, parts)
        os.truncate(path, os.path.getsize(path) // 2)

    def half_a_folder(function, path, **keywords):
        for inside in sorted(Path(path).glob("*"))[:2]:
            inside.unlink()

    # all of it happens in the thread that writes, pruning included
    checkpoint.write_checkpoint, checkpoint.prune_checkpoints = counted, last
    checkpoint.write_hashed = watched(checkpoint.write_hashed, half_a_file)
    checkpoint.shutil.rmtree = watched(checkpoint.shutil.rmtree, half_a_folder)
    for name in ("replace", "fsync"):
        setattr(os, name, watched(getattr(os, name)))
    Path.mkdir, Path.unlink, Path.symlink_to = (
        watched(Path.mkdir),
        watched(Path.unlink),
        watched(Path.symlink_to),
    )


# -- the tests -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def start():
    """Return a function (folder, train, **how to die) -> exit status; negative: the signal that ended it."""
    server = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    def ask(folder: Path, train: dict, **how) -> int:
        server.stdin.write(json.dumps({"folder": str(folder), "train": train, **how}) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, "the program that starts runs has died"
        return json.loads(answer)

    yield ask
    server.stdin.close()
    server.wait(timeout=30)


def records(run: Path) -> list[dict]:
    """Return the lines of metrics.jsonl without timings."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if key not in TIMINGS}
        for line in lines
    ]


def left_behind(run: Path) -> dict:
    """Return the content of a finished run's folder without timings: metrics, checkpoints, links, tensors."""
    checkpoints = run / "checkpoints"
    folders = sorted(path for path in checkpoints.iterdir() if not path.is_symlink())
    return {
        "metrics": records(run),
        "checkpoints": [path.name for path in folders],
        "links": {name: os.readlink(checkpoints / name) for name in ("latest", "best")},
        "tensors": {
            f"{path.parent.name}/{path.name}": path.read_bytes()
            for folder in folders
            for path in folder.glob("*.safetensors")
        },
    }


def assert_the_same(run: Path, undisturbed: Path) -> None:
    result, expected = left_behind(run), left_behind(undisturbed)
    assert result["metrics"] == expected["metrics"]
    evaluations = [line["update"] for line in result["metrics"] if line["split"] == "valid"]
    assert len(evaluations) == len(set(evaluations)) >= 2
    assert result["checkpoints"] == expected["checkpoints"]
    assert result["links"] == expected["links"]
    assert result["tensors"].keys() == expected["tensors"].keys()
    assert [
        name for name in result["tensors"] if result["tensors"][name] != expected["tensors"][name]
    ] == []


def kill_again_and_again(start, tmp_path: Path, kills: int, updates: int, **train) -> int:
    """Return how many of the kills left a half-written checkpoint."""
    train = {"updates": updates, **train}
    assert start(tmp_path / "undisturbed", train) == 0
    instants = random.Random(7)
    done = inside = 0
    while done < kills:
        # from the start of the n-th save (0: of the process), so that slow machines are killed at the same places
        saves = instants.choice((0, 1, 1, 2, 2, 3))
        seconds = instants.uniform(0, 0.25 if saves == 0 else 0.03)
        status = start(tmp_path / "killed", train, saves=saves, seconds=seconds)
        assert status in (-signal.SIGKILL, 0), (tmp_path / "killed.log").read_text()
        assert status != 0, f"the run ended after {done} kills; it needs more updates"
        done += 1
        inside += bool(list((tmp_path / "killed").glob("checkpoints/.writing-*")))
    assert start(tmp_path / "killed", train) == 0, (tmp_path / "killed.log").read_text()
    assert_the_same(tmp_path / "killed", tmp_path / "undisturbed")
    return inside


@pytest.mark.slow
def test_six_kills_at_random_instants_lose_nothing(start, tmp_path):
    kill_again_and_again(start, tmp_path, kills=6, updates=16)


@pytest.mark.slow
def test_twenty_five_kills_at_random_instants_lose_nothing(start, tmp_path):
    assert kill_again_and_again(start, tmp_path, kills=25, updates=70) > 0


@pytest.mark.slow
def test_kills_with_a_data_loading_worker_lose_nothing_and_leave_the_folder_free(start, tmp_path):
    kill_again_and_again(start, tmp_path, kills=2, updates=7, workers=1)


@pytest.mark.parametrize("stride", [16, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_each_step_of_a_save_loses_nothing(start, tmp_path, stride):
    train = {"updates": 48 // stride + 4}  # one for each start, and some to spare
    assert start(tmp_path / "undisturbed", train) == 0
    step = 1
    # every start saves once undisturbed and dies in its second save, some steps later than the start before
    while (
        status := start(tmp_path / "killed", train, step=step, in_save=2)
    ) == -signal.SIGKILL and step < 47:
        step += stride
    assert status == 99, (tmp_path / "killed.log").read_text()
    assert step > 20, (
        "a save has more steps than these: files written, flushed, renamed, links, old ones deleted"
    )
    assert start(tmp_path / "killed", train) == 0
    assert_the_same(tmp_path / "killed", tmp_path / "undisturbed")


if __name__ == "__main__":
    serve()
