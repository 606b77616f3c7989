"""What a rank knows about the others of its job: the status they last published, the state of their processes."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class ProcessName:
    """A process among those of all hosts."""

    pid: int
    host: str
    born: str  # start time as the kernel counts it, since a pid may be used again

    @classmethod
    def of_this_process(cls) -> ProcessName:
        """Return the name of the process that runs this."""
        return cls(os.getpid(), socket.gethostname(), process_state(os.getpid())[1])

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True)
class Status:
    """What a rank publishes about itself."""

    process: ProcessName
    number: int  # counts the statuses of a rank, which distinguishes a new one from a repeated one
    update: int
    place: str  # the part of the run that the rank is in
    waits: bool  # for other ranks
    # name of the last checkpoint that the rank knows to be intact; '' before the first
    last_checkpoint: str

    def to_json(self) -> str:
        """Return the status as it stands in the store."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Status:
        """Return the status that `to_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "process": ProcessName(**values["process"])})


@dataclass
class Heard:
    """The last status of another rank, and when it arrived (monotonic seconds of this process)."""

    status: Status
    at: float = field(default_factory=time.monotonic)


class Peers:
    """The other ranks, as far as this one has heard of them."""

    def __init__(self, rank: int, size: int, tick: float, host: str) -> None:
        self.rank, self.size, self.tick, self.host = rank, size, tick, host
        self.heard: dict[int, Heard] = {}
        self.others = [other for other in range(size) if other != rank]

    def hear(self, statuses: Sequence[bytes]) -> None:
        """Take over the statuses of all ranks, rank 0 first."""
        for rank, text in enumerate(statuses):
            status = Status.from_json(text)
            if rank not in self.heard or self.heard[rank].status != status:
                self.heard[rank] = Heard(status)

    def status(self, rank: int) -> Status | None:
        """Return the last status of a rank, or None before the first."""
        return self.heard[rank].status if rank in self.heard else None

    def age(self, rank: int) -> float:
        """Return the seconds since a rank was last heard of."""
        return time.monotonic() - self.heard[rank].at if rank in self.heard else float("inf")

    def silent(self) -> list[int]:
        """Return the ranks that missed several publications."""
        return [rank for rank in self.others if self.age(rank) > 5 * self.tick]

    def gone(self) -> list[int]:
        """Return the ranks of this host whose process has ended.

        They must be silent as well: the process of another container may be invisible and alive.
        """
        return [
            rank
            for rank in self.others
            if rank in self.heard
            and self.age(rank) > 2 * self.tick
            and self.process_state(rank) == "gone"
        ]

    def process_state(self, rank: int) -> str:
        """Return 'gone', 'stopped' or 'running', or '' where the process cannot be seen (on another host)."""
        status = self.status(rank)
        if status is None or status.process.host != self.host:
            return ""
        state, born = process_state(status.process.pid)
        return "gone" if born != status.process.born else state

    def last_checkpoint(self) -> str:
        """Return the name of the newest checkpoint that any other rank knows to be intact, or ''."""
        return max((heard.status.last_checkpoint for heard in self.heard.values()), default="")

    def describe(self, rank: int) -> str:
        """Return 'rank N (process ... on ...), last heard of in PLACE of update U', as far as it is known."""
        status = self.status(rank)
        if status is None:
            return f"rank {rank}"
        place = f"last heard of in {status.place} of update {status.update}"
        return f"rank {rank} ({status.process}), {place}"


def process_state(pid: int) -> tuple[str, str]:
    """Return the state of a process of this host ('running', 'stopped' or 'gone') and its start time.

    Both are '' where /proc is absent.
    """
    if not Path("/proc/self/stat").exists():
        return "", ""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "gone", ""
    fields = text.rpartition(")")[2].split()  # the process's name, in parentheses, may hold spaces
    state = {"T": "stopped", "t": "stopped", "Z": "gone", "X": "gone"}.get(fields[0], "running")
    return state, fields[19]
