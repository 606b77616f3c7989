"""How the processes of a job find each other: rendezvous, process groups, and the device of each rank."""

from __future__ import annotations

import itertools
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from fwk.engine.ranks.watchdog import RankWatchdog
from fwk.engine.ranks.world import World
from fwk.errors import RunError, UserError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # set by torchrun
POLL_SECONDS = 0.05  # between two attempts to reach rank 0

_job_numbers = itertools.count()  # how often this process joined a job; the same on all ranks
# kept alive: that of rank 0 is the server that the other ranks connect to
_stores: list[dist.TCPStore] = []


@dataclass(frozen=True)
class JobAddress:
    """A process's place in a job, as torchrun's variables give it, and how long it waits for the others."""

    rank: int
    size: int
    host: str
    port: int
    timeout: float  # seconds, train.timeout
    number: str  # tells this job from others that meet at the same store

    @property
    def failure(self) -> str:
        """Return the beginning of the message for a job that could not be joined."""
        return f"rank {self.rank} of {self.size} could not join the job at {self.host}:{self.port}"


@contextmanager
def process_group(device: str, timeout: float) -> Iterator[World]:
    """Join the job that torchrun's variables describe (or none), and leave it at the end.

    device: the setting `train.device`. Raises UserError where the variables contradict each other, and RunError where
    the other ranks do not arrive within `timeout` seconds.
    """
    env = {name: os.environ.get(name) for name in VARIABLES}
    if env["WORLD_SIZE"] is None or (env["WORLD_SIZE"] == "1" and env["MASTER_ADDR"] is None):
        yield World(device=choose_device(device, _integer(env, "LOCAL_RANK", default=0)))
        return

    job = _read_address(env, timeout)
    chosen = choose_device(device, _integer(env, "LOCAL_RANK"))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    # a program that trains several times may have made a group, which it keeps
    makes_group = not dist.is_initialized()
    world = World(rank=job.rank, size=job.size, device=chosen)
    try:
        _join(world, job, makes_group)
    except (dist.DistError, RuntimeError, ValueError) as error:
        raise RunError(
            f"{job.failure} within {timeout:g} s (train.timeout): {' '.join(str(error).split())[:200]}; start "
            "every rank, all with the same WORLD_SIZE and each with its own RANK"
        ) from None
    try:
        with world.failing_together():
            yield world
    finally:
        if world.watchdog is not None:
            world.watchdog.close()
        if makes_group:
            dist.destroy_process_group()


def _read_address(env: Mapping[str, str | None], timeout: float) -> JobAddress:
    """Return the job that the variables describe. Raises UserError where they contradict each other."""
    if missing := [name for name, value in env.items() if not value]:
        raise UserError(
            f"WORLD_SIZE is set but {', '.join(missing)} is not; start with torchrun, which sets them all"
        )
    rank, size, port = (
        _integer(env, "RANK"),
        _integer(env, "WORLD_SIZE"),
        _integer(env, "MASTER_PORT"),
    )
    if not 0 <= rank < size:
        raise UserError(f"RANK {rank} does not lie in [0, WORLD_SIZE {size})")
    if not 0 < port < 1 << 16:
        raise UserError(f"MASTER_PORT {port} is not a port number; expected 1 to 65535")
    # a job that torchrun restarts may meet at the store of the one before
    number = f"{next(_job_numbers)}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    return JobAddress(rank, size, str(env["MASTER_ADDR"]), port, timeout, number)


def _integer(env: Mapping[str, str | None], name: str, default: int | None = None) -> int:
    text = env[name]
    if not text and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise UserError(
            f"{name} '{text}' must be an integer; start with torchrun, which sets it"
        ) from None


def _join(world: World, job: JobAddress, makes_group: bool) -> None:
    """Meet the other ranks, start the watchdog and make the process groups."""
    # the watchdog ends a stuck job with every rank's stacks; torch's own limit applies if the watchdog hangs as well
    limit = timedelta(seconds=2 * job.timeout + 60)
    if makes_group:
        dist.init_process_group(
            "nccl" if world.device.type == "cuda" else "gloo",
            store=dist.PrefixStore(f"fwk/group/{job.number}", _meet(job)),
            rank=job.rank,
            world_size=job.size,
            timeout=limit,
            device_id=world.device if world.device.type == "cuda" else None,
        )
    if world.size > 1:
        token = world.gather_objects(os.urandom(8).hex())[0]  # the same on all ranks, unused before
        store = _connect_watchdog(job, token)
        world.watchdog = RankWatchdog(job.rank, job.size, job.timeout, store)
        world.watchdog.start()
    with world.waiting_for("joining the job"):
        world.side = dist.new_group(timeout=limit)


def _meet(job: JobAddress) -> dist.TCPStore:
    """Return the job's store once every rank has connected to it.

    Raises RunError, which names the ranks that did not arrive or that contradict each other.
    """
    held_by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if job.rank != 0 and not held_by_agent:
        _await_server(job)
    server = dist.TCPStore(
        job.host,
        job.port,
        is_master=job.rank == 0 and not held_by_agent,
        wait_for_workers=False,
        timeout=timedelta(seconds=job.timeout),
        multi_tenant=not held_by_agent,
    )
    _stores.append(server)
    store = dist.PrefixStore(f"fwk/meet/{job.number}", server)
    _announce(store, job)
    _await_ranks(store, job)
    return server


def _announce(store: dist.Store, job: JobAddress) -> None:
    """Publish this rank. Raises RunError where another process has the same rank."""
    announcement = json.dumps(
        {"size": job.size, "process": f"{os.getpid()} on {socket.gethostname()}"}
    )
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # torchrun gives every process its own RANK, and may restart a process under the same one
        store.set(str(job.rank), announcement)
        return
    first = store.compare_set(str(job.rank), "", announcement).decode()
    if first != announcement:
        raise RunError(
            f"{job.failure}: rank {job.rank} is already taken by process {json.loads(first)['process']}; give every "
            "process its own RANK"
        )


def _await_ranks(store: dist.Store, job: JobAddress) -> None:
    """Wait until every rank has announced itself, with the same WORLD_SIZE."""
    end = time.monotonic() + job.timeout
    missing = list(range(job.size))
    while missing:
        for rank in [rank for rank in missing if store.check([str(rank)])]:
            missing.remove(rank)
            size = json.loads(store.get(str(rank)))["size"]
            if size != job.size:
                raise RunError(
                    f"{job.failure}: rank {rank} was started with WORLD_SIZE {size}, rank {job.rank} with {job.size}"
                )
        if missing and time.monotonic() > end:
            ranks = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
            raise RunError(
                f"{job.failure}: rank{'s' * (len(missing) > 1)} {ranks} did not arrive within {job.timeout:g} s "
                "(train.timeout); start every rank with the same WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
            )
        time.sleep(0.01 if job.size <= 64 else 0.2)


def _await_server(job: JobAddress) -> None:
    """Wait until rank 0 listens at the job's address.

    Raises RunError where it does not do so in time; torch's own wait would also print its stack.
    """
    end = time.monotonic() + job.timeout
    while True:
        try:
            timeout = max(0.1, end - time.monotonic())
            socket.create_connection((job.host, job.port), timeout=timeout).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise RunError(
                    f"{job.failure} within {job.timeout:g} s (train.timeout): "
                    f"{(error.strerror or str(error)).lower()}; rank 0 listens at this address: start it, and give all "
                    "ranks the same MASTER_ADDR and MASTER_PORT"
                ) from None
        time.sleep(POLL_SECONDS)


def _connect_watchdog(job: JobAddress, token: str) -> dist.Store | None:
    """Return a separate connection to the job's store, so that an operation that hangs in one does not block the other.

    None where the program made its process group without such a store.
    """
    try:
        store = dist.TCPStore(
            job.host,
            job.port,
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=30),
        )
    except (dist.DistError, RuntimeError):
        return None
    return dist.PrefixStore(f"fwk/watch/{token}", store)


def choose_device(device: str, local_rank: int) -> torch.device:
    """Return the device for `auto`, `cpu`, `cuda` or `cuda:N`; with `cuda`, each rank of a node takes its own GPU.

    Raises UserError for a device that does not exist.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UserError(
            f"train.device: '{device}' is not a device; expected auto, cpu, cuda or cuda:N"
        ) from None
    if chosen.type == "cpu":
        return chosen
    if chosen.type != "cuda":
        raise UserError(
            f"train.device: '{device}' is not supported; expected auto, cpu, cuda or cuda:N"
        )
    if not torch.cuda.is_available():
        raise UserError(
            f"train.device: '{device}' was requested, but torch finds no CUDA device; use cpu or auto"
        )
    index = local_rank if chosen.index is None else chosen.index
    if index >= torch.cuda.device_count():
        raise UserError(
            f"train.device: '{device}' needs GPU {index}, but there are {torch.cuda.device_count()} GPUs"
        )
    return torch.device("cuda", index)
