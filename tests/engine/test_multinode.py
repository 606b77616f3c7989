"""The command under torchrun: two ranks of one node, and two nodes of one rank each (two agents on loopback)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

WORDS = [
    "--task",
    "synthetic",
    "--criterion",
    "semantic_augment",
    "task.sequences=32",
    "task.length=12",
    "task.vocabulary=24",
    "model.layers=1",
    "model.width=16",
    "model.heads=2",
    "model.dropout=0",
    "model.attention_dropout=0",
    "train.updates=4",
    "train.batch=8",
    "train.micro_batch=3",
    "train.device=cpu",
    "train.log_every=1",
    "train.validate_every=2",
    "train.timeout=60",
    "hooks.terminal=null",
    "hooks.tensorboard=null",
    "hooks.summary=null",
]


def agent(folder: Path, *arguments: str, words: tuple[str, ...] = ()) -> subprocess.Popen:
    """One torchrun agent that trains in `folder`; its own parser would take --run for itself, so it is run=."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *arguments,
        "-m",
        "fwk.cli.train",
        *WORDS,
        f"run={folder}",
        *words,
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(*agents: subprocess.Popen) -> list[tuple[int, str]]:
    """Return exit status and output of each."""
    try:
        outputs = [agent.communicate(timeout=240)[0] for agent in agents]
    finally:
        for one in agents:
            one.kill()
    return [(one.returncode, output) for one, output in zip(agents, outputs)]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def one_node(tmp_path_factory) -> Path:
    """A run of two ranks on one node."""
    folder = tmp_path_factory.mktemp("node") / "run"
    [(status, output)] = finish(agent(folder, "--standalone", "--nproc-per-node=2"))
    assert status == 0, output[-4000:]
    return folder


def records(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second")}
        for line in lines
    ]


@pytest.mark.slow
def test_two_ranks_train_by_the_command_and_write_one_run(one_node):
    lines = records(one_node)
    assert [line["update"] for line in lines if line["split"] == "train"] == [1, 2, 3, 4, 4]
    assert lines[-1]["event"] == "finished" and sum(line["split"] == "valid" for line in lines) == 2
    assert json.loads((one_node / "environment.json").read_text())["world_size"] == 2


@pytest.mark.slow
def test_two_ranks_log_what_one_process_logs(one_node, tmp_path):
    from fwk.cli.train import main

    assert main([*WORDS, f"run={tmp_path / 'run'}"]) == 0
    for result, expected in zip(records(tmp_path / "run"), records(one_node), strict=True):
        near = [
            {key: line.pop(key) for key in ("loss", "grad_norm") if key in line}
            for line in (result, expected)
        ]
        near += [line.pop(key, {}) for key in ("terms", "metrics") for line in (result, expected)]
        for one, other in zip(near[::2], near[1::2]):
            assert one == pytest.approx(other, rel=1e-5)  # fp32, added in another order
        assert result == expected


@pytest.mark.slow
def test_two_nodes_give_the_weights_of_one_node_to_the_last_bit(one_node, tmp_path):
    port = free_port()
    common = (
        "--nnodes=2",
        "--nproc-per-node=1",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint=127.0.0.1:{port}",
        "--rdzv-id=nodes",
        "--local-addr=127.0.0.1",
    )
    for status, output in finish(*(agent(tmp_path / "run", *common) for _ in range(2))):
        assert status == 0, output[-4000:]
    result, expected = (
        load_file(run / "checkpoints/latest/model.safetensors")
        for run in (tmp_path / "run", one_node)
    )
    assert result.keys() == expected.keys() and all(
        (result[name] == expected[name]).all() for name in result
    )
    assert records(tmp_path / "run") == records(one_node)


@pytest.mark.slow
def test_an_error_of_the_user_is_told_once_by_all_ranks_together(tmp_path):
    [(status, output)] = finish(
        agent(tmp_path / "run", "--standalone", "--nproc-per-node=2", words=("train.bacth=3",))
    )
    assert status != 0 and output.count("fwk-train: error: train.bacth") == 1


@pytest.mark.slow
def test_a_signal_to_the_agent_saves_on_all_ranks(tmp_path):
    run = tmp_path / "run"
    started = agent(
        run,
        "--standalone",
        "--nproc-per-node=2",
        words=("train.updates=1000000", "train.validate_every=0", "train.save_every=0"),
    )
    try:
        end = time.monotonic() + 120
        while (
            not (run / "metrics.jsonl").is_file()
            or len((run / "metrics.jsonl").read_text().splitlines()) < 3
        ):
            assert time.monotonic() < end and started.poll() is None, "the run did not begin"
            time.sleep(0.1)
        started.send_signal(signal.SIGTERM)
    finally:
        [(status, output)] = finish(started)
    assert status != 0
    last = records(run)[-1]
    assert last["event"] == "stopped", output[-4000:]
    assert os.readlink(run / "checkpoints" / "latest") == f"update-{last['update']:09d}"
