"""Ranks that are stopped, slow, killed, failed or different from the others: the job ends in time, with the reason."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from fwk.engine.ranks import stacks
from fwk.engine.ranks.peers import process_state
from fwk.engine.ranks.watchdog import LostRanks, RankWatchdog
from fwk.engine.ranks.world import World, checksum
from fwk.errors import RunError

TIMEOUT = 10
WORDS = [
    "--task",
    "synthetic",
    "task.sequences=32",
    "task.length=12",
    "task.vocabulary=24",
    "model.layers=1",
    "model.width=16",
    "model.heads=2",
    "train.updates=30",
    "train.batch=8",
    "train.device=cpu",
    "train.log_every=1",
    "train.validate_every=0",
    "train.save_every=4",
    f"train.timeout={TIMEOUT}",
    "hooks.terminal=null",
    "hooks.tensorboard=null",
    "hooks.summary=null",
]

# the fault of one rank at one update: FAULT is "RANK:UPDATE:WHAT"
PLUGIN = """
import os, signal, time
from fwk import hookimpl
from fwk.errors import RunError

@hookimpl
def fwk_update_begin(run):
    rank, update, what = os.environ["FAULT"].split(":")
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if run.rank != int(rank) or run.update + 1 != int(update) or attempt != "0":
        return
    if what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "sleep":
        time.sleep(1000)
    elif what == "refuse":
        raise RunError("this rank has had enough")
    elif what == "crash":
        raise ZeroDivisionError("an error nobody foresaw")
    elif what == "weights":
        next(iter(run.trainable)).data.view(-1)[0] += 1e-3
    elif what == "update":
        run.update += 1
"""


# -- stacks ------------------------------------------------------------------------------------------------------------


def test_another_thread_sees_the_main_threads_stack_and_leaves_out_the_frameworks_threads():
    seen: dict[str, str] = {}

    def look():
        while "wait_here" not in seen.get("short", ""):
            seen["short"] = stacks.short_stack()
        seen["all"] = stacks.all_stacks()

    thread = threading.Thread(target=look, name="fwk looking")

    def wait_here():
        thread.join()

    thread.start()
    wait_here()
    lines = seen["short"].splitlines()
    assert any(line.endswith("in wait_here") and __file__ in line for line in lines)
    assert lines.index(next(line for line in lines if "in wait_here" in line)) > 0  # innermost last
    assert "MainThread:" in seen["all"] and "thread.join()" in seen["all"]
    assert "fwk looking" not in seen["all"] and "in look" not in seen["all"]


def test_without_a_file_for_it_there_is_no_stack(monkeypatch):
    def full():
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(stacks, "_memory_file", full)
    assert stacks.short_stack() == stacks.all_stacks() == ""


# -- the watch by itself: two ranks in one process, on a store in memory ---------------------------------------------


class Ended(RankWatchdog):
    """A watchdog that records its message instead of ending the process."""

    ended: str | None = None

    def _end(self, sentence: str, quiet: bool = False) -> None:
        self.ended = "" if quiet else sentence
        self._closed.set()


@contextmanager
def watches(timeout: float = 2.0, size: int = 2):
    store = dist.HashStore()
    watchdogs = [Ended(rank, size, timeout, store) for rank in range(size)]
    for watch in watchdogs:
        watch.start()
    try:
        yield watchdogs
    finally:
        for watch in watchdogs:
            watch.close()


def until(true, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "this took too long"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_rank_that_waits_too_long_ends_all_and_names_the_one_that_is_busy(capfd):
    with watches() as (first, second):
        first.update = second.update = 7
        second.enter("validation")
        first.enter("the sum of counts", waits=True)
        until(lambda: first.ended is not None and second.ended is not None)
    assert second.ended == ""  # one of them prints it
    assert (
        "update 7: rank 0 waited 2 s for the other ranks in the sum of counts (train.timeout): rank 1"
        in first.ended
    )
    assert (
        "last heard of in validation of update 7, is still busy; there is no checkpoint yet"
        in first.ended
    )
    output = capfd.readouterr().err
    assert "---- rank 0" in output and "---- rank 1" in output
    assert output.count("test_a_rank_that_waits_too_long") >= 2  # both ranks run in this process


@pytest.mark.slow
def test_a_place_of_its_own_may_take_any_time():
    with watches(timeout=1.0) as (first, second):
        first.enter("validation")
        second.enter("preprocessing")
        time.sleep(2.5)
        assert first.ended is None and second.ended is None and first.alarm is None


@pytest.mark.slow
def test_waiting_in_many_places_for_a_moment_each_is_no_long_wait():
    with watches(timeout=1.0) as (first, _):
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            with first.waiting_for("a sum"):
                time.sleep(0.02)
        assert first.ended is None and first.alarm is None


@pytest.mark.slow
def test_ranks_that_wait_for_each_other_in_different_places_are_both_named():
    with watches() as (first, second):
        first.enter("the sum of counts", waits=True)
        second.enter("the gathering of rows", waits=True)
        until(lambda: first.ended or second.ended)
        other = "the gathering of rows" if first.ended else "the sum of counts"
    assert re.search(
        rf"last heard of in {other} of update 0, waits too", first.ended or second.ended
    )


def test_the_failure_of_one_rank_reaches_another_before_it_waits_again():
    with watches(timeout=60) as (first, second):
        assert second.report_failure(RunError("the disk is full"))
        until(lambda: first.alarm is not None)
        with (
            pytest.raises(LostRanks, match="rank 1 failed in update 0: the disk is full") as caught,
            first.waiting_for("a sum"),
        ):
            pass
        assert not caught.value.quiet  # rank 0 prints it too
        assert not first.report_failure(RunError("the disk is full"))  # reported already
        assert first.report_failure(RunError("something else"))


@pytest.mark.slow
def test_a_rank_that_cannot_end_by_itself_is_ended_after_another_failed():
    with watches(timeout=4) as (first, second):
        first.enter("the sum of counts", waits=True)
        second.report_failure(RunError("the disk is full"))
        until(lambda: first.ended is not None)
    assert "rank 1 failed in update 0: the disk is full" in first.ended


def test_a_process_that_is_gone_is_told_from_one_that_is_silent(capfd):
    with watches(timeout=4) as (first, second):
        until(lambda: 1 in first.peers.heard)
        child = subprocess.Popen([sys.executable, "-c", ""])
        second.process = replace(second.process, pid=child.pid, born="0")
        until(lambda: first.peers.status(1).process.pid == child.pid)
        second.close()
        child.wait()
        lost = first.lost_ranks(RuntimeError("Connection closed by peer"))
    assert f"rank 1 (process {child.pid} on " in str(
        lost
    ) and "is gone: killed, or out of memory" in str(lost)


def test_a_stopped_process_is_seen_to_be_stopped():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert process_state(child.pid)[0] == "running"
        child.send_signal(signal.SIGSTOP)
        until(lambda: process_state(child.pid)[0] == "stopped")
    finally:
        child.kill()
        child.wait()
    assert process_state(child.pid) == ("gone", "")


LEAVING = """
import os, signal, subprocess, sys, time
from datetime import timedelta
import torch.distributed as dist
from fwk.cli.common import run_command
from fwk.engine.ranks.peers import process_state
from fwk.engine.ranks.watchdog import RankWatchdog

def store(port, holds=False):
    return dist.TCPStore("127.0.0.1", port, is_master=holds, wait_for_workers=False, timeout=timedelta(seconds=60))

if sys.argv[1:]:
    held = store(0, True)
    print(held.port, flush=True)
    time.sleep(60)
    sys.exit()
holder = subprocess.Popen([sys.executable, __file__, "hold"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
watch = RankWatchdog(0, 2, 2.0, store(int(holder.stdout.readline())))

def command(words):
    watch.start()
    time.sleep(0.5)
    os.kill(holder.pid, signal.SIGSTOP)
    time.sleep(0.5)
    watch.close()
    return 75

class Last:
    def __del__(self):  # the store answers when the interpreter has begun to go down
        os.kill(holder.pid, signal.SIGCONT)
        time.sleep(1)

last = Last()
print(holder.pid, flush=True)
sys.exit(run_command("fwk-train", command, None))
"""


@pytest.mark.slow
def test_a_store_that_answers_too_late_does_not_abort_the_process(tmp_path):
    (tmp_path / "leaving.py").write_text(LEAVING)
    with open(tmp_path / "said.txt", "w") as log:
        done = subprocess.run(
            [sys.executable, tmp_path / "leaving.py"],
            stdout=subprocess.PIPE,
            stderr=log,
            timeout=60,
        )
    os.kill(int(done.stdout), signal.SIGKILL)
    assert (done.returncode, (tmp_path / "said.txt").read_text()) == (75, "")


def test_one_process_alone_has_no_watch_and_waits_for_nobody():
    world = World()
    world.enter("anywhere", waits=True)
    with world.waiting_for("a sum"), world.failing_together():
        assert world.sum(torch.ones(1)) == 1 and world.watchdog is None


def test_a_checksum_sees_every_bit_and_every_place():
    tensors = [torch.randn(5, 3), torch.randn(4).bfloat16(), torch.arange(3), torch.zeros(())]
    whole = checksum(tensors)
    assert whole == checksum([tensor.clone() for tensor in tensors]) and 0 <= whole < 1 << 63
    tensors[0][4, 2] = torch.nextafter(tensors[0][4, 2], torch.tensor(9.0))
    assert checksum(tensors) != whole
    tensors[3] = -tensors[3]
    assert checksum(tensors[3:]) != checksum([torch.zeros(())])


# -- whole jobs ------------------------------------------------------------------------------------------------------


class Job:
    """Ranks started one by one, as `srun` does; by_rank: additional arguments or variables of a rank."""

    def __init__(
        self,
        folder: Path,
        ranks: int = 3,
        fault: str = "-1:0:none",
        by_rank: dict | None = None,
        **variables: str,
    ):
        from test_multinode import free_port

        folder.mkdir()
        (folder / "fault.py").write_text(PLUGIN)
        self.run, port = folder / "run", str(free_port())
        self.started = time.monotonic()
        self.processes = []
        for rank in range(ranks):
            words, extra_env = (by_rank or {}).get(rank, ((), {}))
            env = {
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "GLOO_SOCKET_IFNAME": "lo",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "FAULT": fault,
                **variables,
                **extra_env,
            }
            self.processes.append(
                subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "fwk.cli.train",
                        "--user-dir",
                        str(folder / "fault.py"),
                        *WORDS,
                        f"run={self.run}",
                        *words,
                    ],
                    env=env,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )

    def end(self, ranks) -> list[tuple[int, str]]:
        """Return exit status and output of these ranks; the others are killed."""
        try:
            printed = [self.processes[rank].communicate(timeout=120)[0] for rank in ranks]
        finally:
            for process in self.processes:
                process.kill()
        return [
            (self.processes[rank].returncode, output)
            for rank, output in zip(ranks, printed, strict=True)
        ]


def errors(*outputs: str) -> list[str]:
    return [
        line
        for output in outputs
        for line in output.splitlines()
        if line.startswith("fwk-train: error")
    ]


@pytest.mark.slow
def test_a_stopped_rank_ends_the_job_within_the_timeout_with_every_stack(tmp_path):
    job = Job(tmp_path / "job", fault="1:6:stop")
    until(
        lambda: (
            process_state(job.processes[1].pid)[0] == "stopped"
            or job.processes[1].poll() is not None
        ),
        120,
    )
    since = time.monotonic()
    (_, first), (_, third) = ends = job.end([0, 2])
    assert [status for status, _ in ends] == [1, 1]
    assert (
        time.monotonic() - since < TIMEOUT + 10
    )  # the watchdog ends it within the timeout; interpreters take time to exit
    [error] = errors(first, third)
    assert "update 6: " in error and f"waited {TIMEOUT} s" in error and "(train.timeout)" in error
    assert re.search(
        r"rank 1 \(process \d+ on \S+\), last heard of in .* of update \d, is stopped \(SIGSTOP\)",
        error,
    )
    assert "the last intact checkpoint is update-000000004" in error
    output = first + third
    assert re.search(r"---- rank 1 .* does not answer; its stack \d+ s ago ----\n  File", output)
    for rank in (0, 2):
        assert re.search(
            rf"---- rank {rank} \(process \d+ on \S+\) ----\nMainThread:\n  File", output
        )
    assert "all_reduce" in output and "Traceback" not in output


@pytest.mark.slow
def test_a_slow_rank_ends_the_job_within_the_timeout_and_is_named_with_what_it_does(tmp_path):
    ends = Job(tmp_path / "job", ranks=2, fault="1:6:sleep").end([0, 1])
    assert [status for status, _ in ends] == [1, 1]
    [error] = errors(*(output for _, output in ends))
    assert "rank 1" in error and "last heard of in local work of update 6, is still busy" in error
    assert "time.sleep(1000)" in ends[0][1] and "Traceback" not in ends[0][1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault, victim, expected",
    [
        (
            "1:6:kill",
            1,
            r"update \d: rank 1 \(process \d+ on \S+\), last heard of in .*, is gone: killed, or out of memory; "
            r"the last intact checkpoint is update-000000004",
        ),
        ("2:6:refuse", 2, "this rank has had enough"),
    ],
)
def test_the_others_end_soon_and_say_it_once_when_one_rank_is_lost(
    tmp_path, fault, victim, expected
):
    job = Job(
        tmp_path / "job", fault=fault, by_rank={r: (("train.timeout=100",), {}) for r in range(3)}
    )
    ends = job.end([0, 1, 2])
    statuses = [status for status, _ in ends]
    assert statuses == [-9 if fault.endswith("kill") and rank == victim else 1 for rank in range(3)]
    messages = errors(*(output for _, output in ends))
    assert 1 <= len(messages) <= 2 and all(
        re.search(expected, error) for error in messages
    )  # rank 0 repeats the error that another rank reported
    assert not any("Traceback" in output for _, output in ends)


@pytest.mark.slow
def test_an_error_nobody_foresaw_keeps_its_traceback_and_is_told_to_the_others(tmp_path):
    ends = Job(tmp_path / "job", fault="1:6:crash", ranks=2).end([0, 1])
    assert [status for status, _ in ends] == [1, 1]
    assert "Traceback" in ends[1][1] and "an error nobody foresaw" in ends[1][1]
    assert "Traceback" not in ends[0][1] and "an error nobody foresaw" in errors(ends[0][1])[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault, expected",
    [
        (
            "1:6:weights",
            r"after update 5 ranks hold different weights: rank 1 differs from the rest",
        ),
        ("1:6:update", r"ranks disagree about the update.s batch: .* they are in updates 6, 7, 6"),
    ],
)
def test_ranks_that_drift_apart_are_noticed_in_the_same_update(tmp_path, fault, expected):
    ends = Job(
        tmp_path / "job",
        fault=fault,
        by_rank={
            rank: (("train.check_ranks_every=1", "train.save_every=0"), {}) for rank in range(3)
        },
    ).end([0, 1, 2])
    assert [status for status, _ in ends] == [1, 1, 1]
    assert all(re.search(expected, error) for error in errors(*(output for _, output in ends)))
    assert errors(ends[0][1]) and not any("Traceback" in output for _, output in ends)


@pytest.mark.slow
def test_weights_that_differ_never_reach_a_checkpoint(tmp_path):
    job = Job(
        tmp_path / "job",
        fault="1:6:weights",
        by_rank={r: (("train.check_ranks_every=0",), {}) for r in range(3)},
    )
    ends = job.end([0, 1, 2])
    assert "after update 8 ranks hold different weights" in errors(ends[0][1])[0]
    assert os.readlink(job.run / "checkpoints" / "latest") == "update-000000004"


@pytest.mark.slow
def test_ranks_with_other_configs_are_refused_by_key(tmp_path):
    ends = Job(
        tmp_path / "job", ranks=2, by_rank={1: (("optimizer.lr=0.5", "train.save_every=9"), {})}
    ).end([0, 1])
    assert [status for status, _ in ends] == [1, 1]
    assert (
        "rank 1 was started with other settings than rank 0: optimizer.lr is 0.5 instead of "
        in errors(ends[0][1])[0]
    )
    assert "train.save_every is 9 instead of 4" in errors(ends[0][1])[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "ranks, by_rank, expected",
    [
        (2, {1: ((), {"WORLD_SIZE": "3"})}, "was started with WORLD_SIZE"),
        (
            2,
            {1: ((), {"RANK": "2", "WORLD_SIZE": "3"}), 0: ((), {"WORLD_SIZE": "3"})},
            r"rank 1 did not arrive within 5 s",
        ),
        (
            3,
            {2: ((), {"RANK": "1"})},
            r"rank 1 is already taken by process \d+ on \S+; give every process its own RANK",
        ),
        (
            1,
            {0: ((), {"WORLD_SIZE": "2", "RANK": "1"})},
            r"could not join the job at 127.0.0.1:\d+ within 5 s",
        ),
    ],
)
def test_ranks_that_do_not_make_a_job_say_so_within_the_timeout(tmp_path, ranks, by_rank, expected):
    by_rank = {
        rank: (("train.timeout=5",), by_rank.get(rank, ((), {}))[1]) for rank in range(ranks)
    }
    ends = Job(tmp_path / "job", ranks=ranks, by_rank=by_rank).end(range(ranks))
    assert all(status == 1 for status, _ in ends)
    messages = errors(*(output for _, output in ends))
    assert any(re.search(expected, error) for error in messages) and not any(
        "Traceback" in output for _, output in ends
    )
    plain = [
        line for _, output in ends for line in output.splitlines() if "[c10d]" not in line
    ]  # of torch's own log
    assert len(plain) == len(messages), ends


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({"RANK": "0"}, "WORLD_SIZE is set but LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not"),
        (
            {"RANK": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "h", "MASTER_PORT": "1"},
            "RANK 2 does not lie in",
        ),
        (
            {"RANK": "zero", "LOCAL_RANK": "0", "MASTER_ADDR": "h", "MASTER_PORT": "1"},
            "RANK 'zero' must be an integer",
        ),
        (
            {"RANK": "0", "LOCAL_RANK": "x", "MASTER_ADDR": "h", "MASTER_PORT": "1"},
            "LOCAL_RANK 'x' must be an integer",
        ),
        (
            {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "h", "MASTER_PORT": "99999"},
            "MASTER_PORT 99999 is not a port number",
        ),
    ],
)
def test_variables_that_contradict_are_the_users_error(monkeypatch, variables, expected):
    from fwk.engine.ranks.joining import process_group
    from fwk.errors import UserError

    for name, value in {"WORLD_SIZE": "2", **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=expected), process_group("cpu", 5):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["1:6:kill", "1:6:refuse", "0:6:kill"])
def test_under_max_restarts_a_job_that_lost_a_rank_ends_with_the_weights_of_one_that_did_not(
    tmp_path, fault
):
    from test_multinode import records

    weights, logs = [], []
    for name, which in (("undisturbed", "-1:0:none"), ("disturbed", fault)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "fault.py").write_text(PLUGIN)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node=3",
                "--max-restarts=1",
                "-m",
                "fwk.cli.train",
                "--user-dir",
                str(folder / "fault.py"),
                *WORDS,
                f"run={folder / 'run'}",
                "train.updates=10",
                "train.timeout=60",
            ],
            capture_output=True,
            text=True,
            timeout=280,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "FAULT": which},
        )
        assert done.returncode == 0, done.stderr[-4000:]
        weights.append(
            (folder / "run" / "checkpoints" / "latest" / "model.safetensors").read_bytes()
        )
        logs.append(records(folder / "run"))
    assert weights[0] == weights[1] and logs[0] == logs[1]
