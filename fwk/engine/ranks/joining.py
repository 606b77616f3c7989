"""How the processes of a job find each other: rendezvous, process groups, and the device of each rank."""

from __future__ import annotations

import itertools
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from fwk.engine.ranks.watchdog import RankWatchdog
from fwk.engine.ranks.world import World
from fwk.errors import RunError, UserError


@contextmanager
def process_group(device: str, timeout: float) -> Iterator[World]:
    """Joins the job that torchrun's variables describe (or none), and leaves it. UserError when they contradict,
    RunError when the others do not come within `timeout` seconds."""
    env = {
        name: os.environ.get(name)
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    }
    if env["WORLD_SIZE"] is None or (env["WORLD_SIZE"] == "1" and env["MASTER_ADDR"] is None):
        yield World(device=choose_device(device, _number(env, "LOCAL_RANK", 0)))
        return
    if missing := [name for name, value in env.items() if not value]:
        raise UserError(
            f"WORLD_SIZE is set but {', '.join(missing)} is not; start with torchrun, which sets them all"
        )
    rank, size, port = _number(env, "RANK"), _number(env, "WORLD_SIZE"), _number(env, "MASTER_PORT")
    if not 0 <= rank < size:
        raise UserError(f"RANK {rank} does not lie in [0, WORLD_SIZE {size})")
    if not 0 < port < 1 << 16:
        raise UserError(f"MASTER_PORT {port} is no port; expected 1 to 65535")
    chosen = choose_device(device, _number(env, "LOCAL_RANK"))
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    # the watch ends what is stuck, with every rank's stacks; torch's own limit is there in case the watch hangs too
    limit = timedelta(seconds=2 * timeout + 60)
    joined = (
        not dist.is_initialized()
    )  # a program that trains several times keeps the group it made
    where = f"rank {rank} of {size} could not join the job at {env['MASTER_ADDR']}:{port}"
    # a restarted job may meet at the store of the one before
    number = f"{next(_times)}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    watch = None
    try:
        if joined:
            store = dist.PrefixStore(
                f"fwk/group/{number}",
                _meet(env["MASTER_ADDR"], port, rank, size, timeout, number, where),
            )
            dist.init_process_group(
                backend,
                store=store,
                rank=rank,
                world_size=size,
                timeout=limit,
                device_id=chosen if chosen.type == "cuda" else None,
            )
        world = World(rank=rank, size=size, device=chosen)
        if size > 1:
            token = world.gather_objects(os.urandom(8).hex())[
                0
            ]  # the same for all, and never used before
            watch = world.watchdog = RankWatchdog(
                rank, size, timeout, _side_store(env["MASTER_ADDR"], port, token)
            )
            watch.start()
        with world.waiting_for("joining the job"):
            world.side = dist.new_group(timeout=limit)
    except (dist.DistError, RuntimeError, ValueError) as error:
        raise RunError(
            f"{where} within {timeout:g} s (train.timeout): {' '.join(str(error).split())[:200]}; every rank "
            "must be started, with one WORLD_SIZE and a RANK of its own"
        ) from None
    try:
        with world.failing_together():
            yield world
    finally:
        if watch is not None:
            watch.close()
        if joined:
            dist.destroy_process_group()


def _number(env: Mapping[str, str | None], name: str, default: int | None = None) -> int:
    try:
        return int(env[name]) if env[name] or default is None else default
    except ValueError:
        raise UserError(
            f"{name} '{env[name]}' must be an integer; start with torchrun, which sets it"
        ) from None


_times = itertools.count()  # how often this process joined a job; the same on all ranks


_stores: list[Any] = []  # kept: the first rank's holds what the others connect to


def _meet(
    host: str, port: int, rank: int, size: int, timeout: float, number: str, where: str
) -> Any:
    """The job's store, once every rank has come to it. RunError names the ranks that did not, and contradictions."""
    held_by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    limit = timedelta(seconds=timeout)
    if rank != 0 and not held_by_agent:
        _knock(host, port, timeout, where)
    _stores.append(
        dist.TCPStore(
            host,
            port,
            is_master=rank == 0 and not held_by_agent,
            wait_for_workers=False,
            timeout=limit,
            multi_tenant=not held_by_agent,
        )
    )
    store = dist.PrefixStore(f"fwk/meet/{number}", _stores[-1])
    mine = json.dumps({"size": size, "process": f"{os.getpid()} on {socket.gethostname()}"})
    if (
        "TORCHELASTIC_RUN_ID" in os.environ
    ):  # torchrun gives every process a RANK of its own, and may start them again
        store.set(str(rank), mine)
    elif (first := store.compare_set(str(rank), "", mine).decode()) != mine:
        raise RunError(
            f"{where}: rank {rank} is process {json.loads(first)['process']} already; give every rank a RANK of "
            "its own"
        )
    end = time.monotonic() + timeout
    missing = list(range(size))
    while missing:
        for other in [other for other in missing if store.check([str(other)])]:
            missing.remove(other)
            if (theirs := json.loads(store.get(str(other)))["size"]) != size:
                raise RunError(
                    f"{where}: rank {other} was started with WORLD_SIZE {theirs}, rank {rank} with {size}"
                )
        if missing and time.monotonic() > end:
            some = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
            raise RunError(
                f"{where}: rank{'s' * (len(missing) > 1)} {some} did not come within {timeout:g} s "
                "(train.timeout); start every rank with one WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
            )
        time.sleep(0.01 if size <= 64 else 0.2)
    return _stores[-1]


def _knock(host: str, port: int, timeout: float, where: str) -> None:
    """Waits until somebody listens there. RunError when nobody does: torch would print its stack as well."""
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=max(0.1, end - time.monotonic())).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise RunError(
                    f"{where} within {timeout:g} s (train.timeout): {(error.strerror or str(error)).lower()}; rank 0 "
                    "listens there, so it must be started, with one MASTER_ADDR and MASTER_PORT for all"
                ) from None
        time.sleep(0.05)


def _side_store(host: str, port: int, name: str) -> Any:
    """A connection of its own to the store that the job met at: an operation that hangs in one does not block the other.
    None where the program made its process group without one."""
    try:
        store = dist.TCPStore(
            host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=30)
        )
    except (dist.DistError, RuntimeError):
        return None
    return dist.PrefixStore(f"fwk/watch/{name}", store)


def choose_device(device: str, local_rank: int) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:N` -> a device; each rank of a node takes its own GPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UserError(
            f"train.device: '{device}' is no device; expected auto, cpu, cuda or cuda:N"
        ) from None
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(
                f"train.device: '{device}' was asked for, but torch sees no CUDA device here; use cpu or auto"
            )
        index = local_rank if chosen.index is None else chosen.index
        if index >= torch.cuda.device_count():
            raise UserError(
                f"train.device: '{device}' needs GPU {index}, and there are {torch.cuda.device_count()}"
            )
        return torch.device("cuda", index)
    if chosen.type != "cpu":
        raise UserError(
            f"train.device: '{device}' is not supported; expected auto, cpu, cuda or cuda:N"
        )
    return chosen
