"""A watch over the ranks of a job: who waits for whom, and for how long.

Each rank says where it is (`at`, `waiting`): in a place of its own, which may take as long as it likes, or waiting for
other ranks. Two threads per rank look on. One tells the others through the job's key-value store where this rank is,
with its stack, and hears the same of them. The other keeps the clock and never touches the store, which may be gone.

A rank that has waited for `timeout` seconds raises an alarm: every rank that still answers publishes its stacks, the
one that raised it prints all of them with what is known of those that do not answer, and all end with status 1. Python
cannot interrupt a collective operation, so they end from here (`os._exit`). A rank that fails tells the others why; they
end when they next wait. Time in which a whole process was stopped does not count as waiting.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fwk.errors import FwkError, RunError

TICK = 0.5  # seconds between two looks; a tenth of a short timeout
GRACE = 4.0  # seconds for stacks to come in, and for a rank to end by itself; a quarter of a short timeout
FEW = 32  # up to so many ranks hear each other all the time; more only while they wait, to spare the store


class LostRanks(RunError):
    """Other ranks are gone or failed. quiet: another process says so."""

    def __init__(self, message: str, quiet: bool = False):
        super().__init__(message)
        self.quiet = quiet


@dataclass(frozen=True, eq=False)
class Position:
    """Where a rank is. waits: for other ranks, so that time counts. Another object is another visit."""

    what: str
    waits: bool = False


@dataclass
class Heard:
    """The last word of another rank, and when it came (monotonic seconds of this process)."""

    said: dict[str, Any] = field(default_factory=dict)
    at: float = field(default_factory=time.monotonic)


class RankWatchdog:
    """store: a connection of its own to the job's store, prefixed (None: this rank watches over itself alone)."""

    def __init__(self, rank: int, size: int, timeout: float, store: Any = None):
        self.rank, self.size, self.timeout, self.store = rank, size, timeout, store
        self.tick, self.grace = min(TICK, timeout / 20), min(GRACE, timeout / 4)
        self.place = Position("the start")
        self.update = 0
        self.last_checkpoint = ""  # name of the last checkpoint that this rank knows to be whole
        self.alarm: dict[str, Any] | None = None
        self.last_words: list[
            Callable[[float], Any]
        ] = []  # called with seconds before the process ends from here
        self.heard: dict[int, Heard] = {}
        self.deaf = False  # the store does not answer any more
        self.main = threading.main_thread().ident
        self.me = {
            "rank": rank,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "born": process_state(os.getpid())[1],
        }
        self._words = 0
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Call before a collective operation that all ranks take part in, so that each finds the others' first word."""
        if self.store is not None:
            self.store.set(f"rank/{self.rank}", json.dumps(self._word()))
            self.store.compare_set("alarm", "", "{}")
        for job in (self._talk, self._look) if self.store is not None else (self._look,):
            self._threads.append(
                threading.Thread(target=job, daemon=True, name=f"fwk{job.__name__}")
            )
            self._threads[-1].start()

    def close(self) -> None:
        self._over.set()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(
                    2 * self.tick
                )  # one that hangs in the store is left behind: it is a daemon

    # -- what the main thread says -----------------------------------------------------------------------------------

    def enter(self, what: str, waits: bool = False) -> None:
        self.place = Position(what, waits)

    @contextmanager
    def waiting_for(self, what: str) -> Iterator[None]:
        """Inside, this rank waits for others. RunError at once when one of them has failed."""
        if self.alarm is not None:
            raise self.lost_ranks()
        outside = self.place
        self.place = Position(outside.what if outside.waits else what, waits=True)
        try:
            yield
        finally:
            self.place = Position(outside.what, outside.waits)

    def report_failure(self, error: BaseException) -> bool:
        """Tells the other ranks that this one fails; False when another rank said the same before."""
        said = (
            " ".join(str(error).split())
            if isinstance(error, FwkError)
            else f"{type(error).__name__}: {error}"
        )
        first = self._sound({"kind": "failed", "said": said[:1000]})
        return first["rank"] == self.rank or first.get("said") != said[:1000]

    def lost_ranks(self, error: BaseException | None = None) -> LostRanks:
        """The one sentence for what the loss of another rank did here. Takes up to `grace` seconds to find out which
        rank it was. error: what torch raised."""
        end = time.monotonic() + self.grace
        while self.alarm is None and time.monotonic() < end:
            if self.deaf and self._gone():
                break
            if gone := self._gone():
                self._sound({"kind": "gone", "ranks": gone})
            else:
                time.sleep(self.tick)
        alarm = self.alarm or self._sound({"kind": "gone", "ranks": self._gone() or self._silent()})
        if alarm["kind"] == "stuck":  # its report is being made, and ends this process
            time.sleep(self.timeout)
        return LostRanks(self._sentence(alarm, error), quiet=self._quiet(alarm))

    # -- the thread that talks ---------------------------------------------------------------------------------------

    def _word(self) -> dict[str, Any]:
        self._words += 1
        return {
            **self.me,
            "number": self._words,
            "update": self.update,
            "what": self.place.what,
            "waits": self.place.waits,
            "good": self.last_checkpoint,
        }

    def _talk(self) -> None:
        names = [f"rank/{rank}" for rank in range(self.size)]
        complete = False
        while not self._over.wait(self.tick):
            try:
                self.store.set(names[self.rank], json.dumps(self._word()))
                self.store.set(f"last/{self.rank}", self.short_stack())
                complete = complete or self.store.check(names)  # a rank may not have begun to speak
                everyone = complete and (self.size <= FEW or self.place.waits)
                alarm, *words = self.store.multi_get(["alarm", *(names if everyone else ())])
            except Exception:  # the store is gone with the process that held it
                self.deaf = True
                return
            for rank, word in enumerate(words):
                said = json.loads(word)
                if rank not in self.heard or self.heard[rank].said != said:
                    self.heard[rank] = Heard(said)
            if len(alarm) > 2:
                self.alarm = json.loads(alarm)

    def _sound(self, alarm: dict[str, Any]) -> dict[str, Any]:
        """Raises an alarm; returns the one that was first."""
        alarm = {"rank": self.rank, **alarm}
        first = self._briefly(lambda: self.store.compare_set("alarm", "{}", json.dumps(alarm)))
        self.alarm = json.loads(first) if first is not None and len(first) > 2 else alarm
        return self.alarm

    def _briefly(self, ask: Callable[[], Any]) -> Any:
        """What a question to the store gives, or None when there is no answer in time."""
        if self.store is None or self.deaf:
            return None
        answer: list[Any] = []

        def run() -> None:
            try:
                answer.append(ask())
            except Exception:
                self.deaf = True

        asking = threading.Thread(target=run, daemon=True, name="fwk asking")
        asking.start()
        asking.join(self.grace / 2)
        self.deaf = self.deaf or not answer
        return answer[0] if answer else None

    # -- the thread that looks on ------------------------------------------------------------------------------------

    def _look(self) -> None:
        place, waited, alarmed, before = self.place, 0.0, 0.0, time.monotonic()
        while not self._over.wait(self.tick):
            now = time.monotonic()
            passed, before = (
                min(now - before, 4 * self.tick),
                now,
            )  # a process that was stopped did not wait
            waited = waited + passed if self.place is place else 0.0
            place = self.place
            if self.alarm is not None:
                alarmed += passed
                if self.alarm["kind"] == "stuck":
                    self._report() if self.alarm["rank"] == self.rank else self._answer()
                elif (
                    place.waits and min(alarmed, waited) > self.grace
                ):  # it did not come to an end by itself
                    self._end(self._sentence(self.alarm), self._quiet(self.alarm))
            elif place.waits and waited > self.timeout - self.grace:
                self._sound({"kind": "stuck", "what": place.what, "update": self.update})
            elif place.waits and waited > self.grace / 2 and (gone := self._gone()):
                self._sound({"kind": "gone", "ranks": gone})

    def _answer(self) -> None:
        """Another rank raised the alarm of a stuck job: our stacks to it, and the end."""
        self._briefly(lambda: self.store.set(f"stack/{self.rank}", self.stacks()))
        end = time.monotonic() + self.grace
        while (
            time.monotonic() < end
            and not self.deaf
            and not self._briefly(lambda: self.store.check(["reported"]))
        ):
            time.sleep(self.tick / 5)
        self._end("", quiet=True)

    def _report(self) -> None:
        """Every rank's stacks, the sentence, and the end."""
        ranks = [rank for rank in range(self.size) if rank != self.rank]
        stacks = {self.rank: self.stacks()}
        end = time.monotonic() + self.grace / 2
        while len(stacks) < self.size and time.monotonic() < end and not self.deaf:
            for rank in [rank for rank in ranks if rank not in stacks]:
                if self._briefly(lambda rank=rank: self.store.check([f"stack/{rank}"])):
                    stacks[rank] = (
                        self._briefly(lambda rank=rank: self.store.get(f"stack/{rank}")) or b""
                    ).decode()
            time.sleep(self.tick / 5)
        lines = []
        for rank in range(self.size):
            said = (
                self.heard[rank].said
                if rank in self.heard
                else self.me
                if rank == self.rank
                else {}
            )
            if rank in stacks:
                lines += [f"---- rank {rank}{_of(said)} ----", stacks[rank].rstrip()]
            else:
                last = said and self._briefly(
                    lambda rank=rank: self.store.multi_get([f"last/{rank}"])[0].decode()
                )
                lines += [
                    f"---- rank {rank}{_of(said)} does not answer; where it was {self._age(rank):.0f} s ago ----",
                    (last or "  unknown").rstrip(),
                ]
        sentence = self._sentence(self.alarm, stuck=[rank for rank in ranks if rank not in stacks])
        print("\n".join(lines), file=sys.stderr)
        self._briefly(lambda: self.store.set("reported", "1"))
        self._end(sentence)

    def _end(self, sentence: str, quiet: bool = False) -> None:
        """Ends this process from here: its main thread hangs in an operation that nothing interrupts."""
        for word in self.last_words:
            try:
                word(self.grace)
            except FwkError as error:
                print(f"fwk: {error}", file=sys.stderr)
        if sentence and not quiet:
            print(f"fwk-train: error: {sentence}", file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                pass
        os._exit(1)

    # -- what is known of the others ---------------------------------------------------------------------------------

    def _age(self, rank: int) -> float:
        return time.monotonic() - self.heard[rank].at if rank in self.heard else float("inf")

    def _silent(self) -> list[int]:
        """Ranks that have not been heard of for some looks."""
        return [
            rank
            for rank in range(self.size)
            if rank != self.rank and self._age(rank) > 5 * self.tick
        ]

    def _gone(self) -> list[int]:
        """Ranks of this host whose process is not there any more (and that are silent: a process may be out of sight)."""
        return [
            rank
            for rank in self.heard
            if rank != self.rank and self._age(rank) > 2 * self.tick and self._state(rank) == "gone"
        ]

    def _state(self, rank: int) -> str:
        """'gone', 'stopped', 'there', or '' where one cannot see (another host)."""
        said = self.heard[rank].said if rank in self.heard else {}
        if said.get("host") != self.me["host"]:
            return ""
        state, born = process_state(said["pid"])
        return "gone" if born != said["born"] else state

    def _quiet(self, alarm: dict[str, Any]) -> bool:
        """Whether another process says it: of several the one that found it out, and the first one of what another
        said of itself, for whoever reads only its output."""
        return alarm["rank"] != self.rank and not (alarm["kind"] == "failed" and self.rank == 0)

    def _sentence(
        self,
        alarm: dict[str, Any],
        error: BaseException | None = None,
        stuck: list[int] | None = None,
    ) -> str:
        good = max(
            [self.last_checkpoint, *(heard.said.get("good", "") for heard in self.heard.values())]
        )
        rest = (
            f"the last good checkpoint is {good}; the same command goes on from there"
            if good
            else "there is no checkpoint yet"
            if self.rank == 0
            else "the same command goes on from the last good checkpoint"
        )
        if alarm["kind"] == "failed":
            return f"rank {alarm['rank']} failed in update {self.update}: {alarm['said']}"
        if alarm["kind"] == "gone":
            ranks = alarm["ranks"]
            if not ranks:
                what = f" ({' '.join(str(error).split())[:150]})" if error else ""
                return (
                    f"the connection to another rank was lost in update {self.update}{what}; {rest}"
                )
            what = " and ".join(f"rank {rank}{self._where(rank)}" for rank in ranks[:4])
            return f"update {self.update}: {what}, is gone: killed, or out of memory; {rest}"
        why = "; ".join(self._suspects(alarm, stuck or [])[:8])
        return (
            f"update {alarm['update']}: rank {self.rank} waited {self.timeout:g} s for the other ranks in {alarm['what']} "
            f"(train.timeout): {why}; {rest}"
        )

    def _suspects(self, alarm: dict[str, Any], stuck: list[int]) -> list[str]:
        """What keeps the ranks that wait waiting, as far as it is known."""
        states = {rank: self._state(rank) for rank in range(self.size) if rank != self.rank}
        told = [
            f"rank {rank}{self._where(rank)}, {WORDS[state]}"
            for rank, state in states.items()
            if state in WORDS
        ]
        if self.deaf:
            return told or ["the store that the job met at does not answer either"]
        told += [
            f"rank {rank}{self._where(rank)}, does not answer"
            for rank in stuck
            if states[rank] not in WORDS
        ]
        others = {
            rank: heard.said
            for rank, heard in self.heard.items()
            if rank != self.rank and rank not in stuck
        }
        told += [
            f"rank {rank}{self._where(rank)}, is busy there"
            for rank, said in others.items()
            if not said["waits"]
        ]
        return (
            told
            or [
                f"rank {rank}{self._where(rank)}, waits too"
                for rank, said in others.items()
                if said["what"] != alarm["what"]
            ]
            or ["every rank waits at the same place, so the network between them does not deliver"]
        )

    def _where(self, rank: int) -> str:
        said = self.heard[rank].said if rank in self.heard else {}
        place = f", last heard of in {said['what']} of update {said['update']}" if said else ""
        return f"{_of(said)}{place}"

    # -- stacks ------------------------------------------------------------------------------------------------------

    def short_stack(self) -> str:
        """The main thread's frames, innermost last; cheap enough to be published at every look."""
        frame, lines = sys._current_frames().get(self.main), []
        while frame is not None and len(lines) < 60:
            lines.append(
                f'  File "{frame.f_code.co_filename}", line {frame.f_lineno}, in {frame.f_code.co_name}'
            )
            frame = frame.f_back
        return "\n".join(reversed(lines))

    def stacks(self) -> str:
        """The stacks of all threads of this process but the ones that watch, the main thread's last."""
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        watching = {ident for ident, name in names.items() if name.startswith("fwk")}
        frames = sorted(sys._current_frames().items(), key=lambda pair: pair[0] == self.main)
        return "".join(
            f"{names.get(ident, 'a thread')}:\n{''.join(traceback.format_stack(frame))}"
            for ident, frame in frames
            if ident not in watching
        )


WORDS = {"stopped": "is stopped (SIGSTOP)", "gone": "is gone"}


def _of(said: dict[str, Any]) -> str:
    return f" (process {said['pid']} on {said['host']})" if said else ""


def process_state(pid: int) -> tuple[str, str]:
    """('there', 'stopped' or 'gone', its time of birth) of a process of this host; ('', '') where /proc is absent."""
    if not Path("/proc/self/stat").exists():
        return "", ""
    try:
        fields = (
            Path(f"/proc/{pid}/stat")
            .read_text(encoding="utf-8", errors="replace")
            .rpartition(")")[2]
            .split()
        )
    except OSError:
        return "gone", ""
    state = {"T": "stopped", "t": "stopped", "Z": "gone", "X": "gone"}.get(fields[0], "there")
    return state, fields[19]
