"""A watchdog over the ranks of a job: it knows which rank waits for others, and for how long.

Each rank notes where it is (`enter`, `waiting_for`): in work of its own, which may take any time, or waiting for other
ranks. Two threads per rank watch. One publishes this rank's position and stack in the job's key-value store, and reads
those of the others. The other keeps the clock and never calls the store directly, which may have ended.

A rank that has waited for `timeout` seconds raises an alarm: every rank that still answers publishes its stacks, the
rank that raised the alarm prints all of them with what is known of the ranks that do not answer, and all end with
status 1. Python cannot interrupt a collective operation, so the watchdog ends the process (`os._exit`). A rank that
fails reports its error to the others, which end when they next wait. Time in which a whole process was stopped does not
count as waiting.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch.distributed as dist

from fwk.engine.ranks.alarms import Alarm, AlarmMessage
from fwk.engine.ranks.job_store import JobStore
from fwk.engine.ranks.peers import Peers, ProcessName, Status
from fwk.engine.ranks.stacks import all_stacks, short_stack
from fwk.errors import FwkError, RunError

TICK = 0.5  # seconds between two publications or looks at the clock; a twentieth of a short timeout
GRACE = 4.0  # seconds for stacks to arrive, and for a rank to end by itself; a quarter of a short timeout
# up to this size every rank reads all statuses all the time; beyond it, only while it waits
SMALL_JOB = 32
EMPTY = "{}"  # the store's value before an alarm is raised


class LostRanks(RunError):
    """Other ranks ended or failed. `quiet`: another process prints the message."""

    def __init__(self, message: str, quiet: bool = False) -> None:
        super().__init__(message)
        self.quiet = quiet


@dataclass(frozen=True, eq=False)
class Position:
    """A rank's current position. Compared by identity: entering the same place again makes a new object."""

    place: str
    waits: bool = False  # for other ranks, so the time limit applies


class RankWatchdog:
    """The watchdog of one rank.

    store: a connection to the job's store that nothing else uses, prefixed; None: this rank watches only itself.
    """

    def __init__(
        self, rank: int, size: int, timeout: float, store: dist.Store | None = None
    ) -> None:
        self.rank, self.size, self.timeout = rank, size, timeout
        self.tick, self.grace = min(TICK, timeout / 20), min(GRACE, timeout / 4)
        self.store = JobStore(store, self.grace / 2)
        self.process = ProcessName.of_this_process()
        self.peers = Peers(rank, size, self.tick, self.process.host)
        self.position = Position("the start")
        self.update = 0
        self.last_checkpoint = ""  # name of the last one that this rank knows to be intact
        self.alarm: Alarm | None = None
        # called with the seconds left, before the watchdog ends the process
        self.before_exit: list[Callable[[float], object]] = []
        self._statuses = 0
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Publish the first status and start the threads.

        Call it before a collective operation of all ranks, so that each finds the others' first status.
        """
        jobs: list[Callable[[], None]] = [self._watch_clock]
        connection = self.store.connection
        if connection is not None:
            connection.set(f"rank/{self.rank}", self._status().to_json())
            connection.compare_set("alarm", "", EMPTY)
            jobs.append(self._publish_and_listen)
        for job in jobs:
            name = f"fwk{job.__name__}"
            self._threads.append(threading.Thread(target=job, daemon=True, name=name))
            self._threads[-1].start()

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        for thread in self._threads:
            if thread is not threading.current_thread():
                # a thread that hangs in the store is left behind: it is a daemon
                thread.join(2 * self.tick)

    # -- called by the main thread -----------------------------------------------------------------------------------

    def enter(self, place: str, waits: bool = False) -> None:
        """Note where this rank is."""
        self.position = Position(place, waits)

    @contextmanager
    def waiting_for(self, place: str) -> Iterator[None]:
        """Note that this rank waits for others inside. Raises LostRanks at once where one of them has failed."""
        if self.alarm is not None:
            raise self.lost_ranks()
        outside = self.position
        self.position = Position(outside.place if outside.waits else place, waits=True)
        try:
            yield
        finally:
            self.position = Position(outside.place, outside.waits)

    def report_failure(self, error: BaseException) -> bool:
        """Report the failure of this rank to the others; return False where another rank reported the same before."""
        expected = isinstance(error, FwkError)
        reason = " ".join(str(error).split()) if expected else f"{type(error).__name__}: {error}"
        reason = reason[:1000]
        first = self._raise_alarm(Alarm("failed", self.rank, self.update, reason=reason))
        return first.rank == self.rank or first.reason != reason

    def lost_ranks(self, error: BaseException | None = None) -> LostRanks:
        """Return the error to raise when a collective failed because another rank ended.

        error: the one that torch raised. Takes up to `grace` seconds to find out which rank it was.
        """
        end = time.monotonic() + self.grace
        while self.alarm is None and time.monotonic() < end:
            gone = self.peers.gone()
            if gone and self.store.lost:
                break
            if gone:
                self._raise_alarm(Alarm("gone", self.rank, self.update, ranks=gone))
            else:
                time.sleep(self.tick)
        alarm = self.alarm
        if alarm is None:
            ranks = self.peers.gone() or self.peers.silent()
            alarm = self._raise_alarm(Alarm("gone", self.rank, self.update, ranks=ranks))
        if alarm.kind == "stuck":
            time.sleep(self.timeout)  # the clock's thread prints the report and ends this process
        message = self._message(alarm, error=error)
        return LostRanks(message, quiet=alarm.is_printed_by_another(self.rank))

    # -- the thread that publishes and listens -----------------------------------------------------------------------

    def _status(self) -> Status:
        self._statuses += 1
        return Status(
            process=self.process,
            number=self._statuses,
            update=self.update,
            place=self.position.place,
            waits=self.position.waits,
            last_checkpoint=self.last_checkpoint,
        )

    def _publish_and_listen(self) -> None:
        connection = self.store.connection
        assert connection is not None
        keys = [f"rank/{rank}" for rank in range(self.size)]
        complete = False  # whether every rank has published its first status
        while not self._closed.wait(self.tick):
            try:
                connection.set(keys[self.rank], self._status().to_json())
                connection.set(f"last/{self.rank}", short_stack())
                complete = complete or connection.check(keys)
                reads_all = complete and (self.size <= SMALL_JOB or self.position.waits)
                alarm, *statuses = connection.multi_get(["alarm", *(keys if reads_all else ())])
            except Exception:  # the process that held the store has ended
                self.store.lost = True
                return
            self.peers.hear(statuses)
            if len(alarm) > len(EMPTY):
                self.alarm = Alarm.from_json(alarm)

    def _raise_alarm(self, alarm: Alarm) -> Alarm:
        """Raise an alarm and return the job's first one."""
        first = self.store.replace("alarm", EMPTY, alarm.to_json())
        self.alarm = Alarm.from_json(first) if len(first) > len(EMPTY) else alarm
        return self.alarm

    # -- the thread that keeps the clock -----------------------------------------------------------------------------

    def _watch_clock(self) -> None:
        position, waited, since_alarm, before = self.position, 0.0, 0.0, time.monotonic()
        while not self._closed.wait(self.tick):
            now = time.monotonic()
            passed = min(now - before, 4 * self.tick)  # a process that was stopped did not wait
            before = now
            waited = waited + passed if self.position is position else 0.0
            position = self.position
            if self.alarm is not None:
                since_alarm += passed
                self._obey(self.alarm, position, min(since_alarm, waited))
            elif position.waits and waited > self.timeout - self.grace:
                self._raise_alarm(Alarm("stuck", self.rank, self.update, place=position.place))
            elif position.waits and waited > self.grace / 2 and (gone := self.peers.gone()):
                self._raise_alarm(Alarm("gone", self.rank, self.update, ranks=gone))

    def _obey(self, alarm: Alarm, position: Position, waited: float) -> None:
        """End this process after an alarm; `waited`: seconds of waiting since then."""
        if alarm.kind == "stuck" and alarm.rank == self.rank:
            self._report(alarm)
        elif alarm.kind == "stuck":
            self._answer()
        elif position.waits and waited > self.grace:  # the main thread did not end by itself
            self._end(self._message(alarm), quiet=alarm.is_printed_by_another(self.rank))

    def _answer(self) -> None:
        """Publish this rank's stacks for the rank that raised the alarm, wait for its report, and end."""
        self.store.set(f"stack/{self.rank}", all_stacks())
        end = time.monotonic() + self.grace
        while time.monotonic() < end and not self.store.lost:
            if self.store.has("reported"):
                break
            time.sleep(self.tick / 5)
        self._end("", quiet=True)

    def _report(self, alarm: Alarm) -> None:
        """Print every rank's stacks and the message, and end."""
        stacks = self._collect_stacks()
        lines = []
        for rank in range(self.size):
            lines += self._stack_lines(rank, stacks.get(rank))
        stuck = [rank for rank in self.peers.others if rank not in stacks]
        message = self._message(alarm, stuck)
        print("\n".join(lines), file=sys.stderr)  # directly, since this process is about to end
        self.store.set("reported", "1")
        self._end(message)

    def _collect_stacks(self) -> dict[int, str]:
        """Return the stacks of the ranks that publish theirs in time, by rank."""
        stacks = {self.rank: all_stacks()}
        end = time.monotonic() + self.grace / 2
        while len(stacks) < self.size and time.monotonic() < end and not self.store.lost:
            for rank in [rank for rank in self.peers.others if rank not in stacks]:
                if self.store.has(f"stack/{rank}"):
                    stacks[rank] = self.store.get(f"stack/{rank}")
            time.sleep(self.tick / 5)
        return stacks

    def _stack_lines(self, rank: int, stack: str | None) -> list[str]:
        status = self.peers.status(rank)
        process = status.process if status else self.process if rank == self.rank else None
        name = f"rank {rank} ({process})" if process else f"rank {rank}"
        if stack is not None:
            return [f"---- {name} ----", stack.rstrip()]
        last = self.store.get(f"last/{rank}") if status else ""
        age = f"{self.peers.age(rank):.0f} s ago"
        return [
            f"---- {name} does not answer; its stack {age} ----",
            (last or "  unknown").rstrip(),
        ]

    def _message(
        self, alarm: Alarm, stuck: list[int] | None = None, error: BaseException | None = None
    ) -> str:
        return str(
            AlarmMessage(
                alarm=alarm,
                peers=self.peers,
                update=self.update,
                last_checkpoint=self.last_checkpoint,
                timeout=self.timeout,
                store_lost=self.store.lost,
                stuck=stuck or (),
                error=error,
            )
        )

    def _end(self, message: str, quiet: bool = False) -> None:
        """End this process: its main thread hangs in an operation that nothing interrupts."""
        for work in self.before_exit:
            try:
                work(self.grace)
            except FwkError as error:
                print(f"fwk: {error}", file=sys.stderr)
        if message and not quiet:
            print(f"fwk-train: error: {message}", file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                pass
        os._exit(1)
