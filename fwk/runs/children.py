"""Processes that train needed runs: started when what they need is finished, stopped together, and watched.

Each process is a `fwk-train` of its own, with a log beside the run's folder. One line on its standard input tells it
what to train. The input stays open: its end says that the process that started this one is gone, so that a chain which
was killed leaves nothing running.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from fwk.components.trust import has_word
from fwk.config.run_config import NeededRun
from fwk.contracts.plain import PlainDict
from fwk.engine.signals import EXIT_STOPPED, StopRequest
from fwk.errors import CheckpointError, NeededRunFailed, RunStopped
from fwk.files import open_plain
from fwk.runs.lock import holder_of

COMMAND = ("-m", "fwk.cli.needed")
POLL_SECONDS = 0.1
EXIT_IN_USE = 74  # of a process whose folder another one has
PATIENCE = 10.0  # seconds after a second Ctrl-C until what still runs is killed
LONGEST_LINE = 600  # characters of a log's line in a message
# of a job that torchrun started: a needed run is no rank of it
OF_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR")

logger = logging.getLogger(__name__)


class State(Protocol):
    """What the folder of a needed run holds."""

    @property
    def is_complete(self) -> bool:
        """Return whether nothing is left to do."""

    @property
    def status(self) -> str:
        """Return missing, unfinished or finished."""


@dataclass
class Job:
    """A needed run that is not complete, and its process while it has one."""

    needed: NeededRun
    waits_for: Sequence[str]  # the folders of other jobs
    process: subprocess.Popen[bytes] | None = None
    log_start: int = 0  # size of the log before the process
    holder: str | None = None  # another process that trains the run, as was reported

    @property
    def log(self) -> Path:
        """The file of what the process prints."""
        return Path(f"{self.needed.run}.log")

    def start(self, state: State, allow_broken_plugins: bool) -> None:
        """Start the process."""
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with open(self.log, "ab", opener=open_plain) as log:
                self.log_start = log.tell()
                self.process = self._open_process(log)
        except OSError as error:
            raise CheckpointError(
                f"{self.needed.key}: cannot write {self.log}: {error.strerror}; give the run another folder "
                f"({self.needed.key}.run=FOLDER)"
            ) from error
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already, which its exit status says
            self.process.stdin.write(self._request(state, allow_broken_plugins))
            self.process.stdin.flush()
        logger.info("%s: started (%s; log: %s)", self.needed.key, self.needed.run, self.log)

    @staticmethod
    def _open_process(log: BinaryIO) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if k not in OF_RANKS}
        return subprocess.Popen(
            [sys.executable, *COMMAND],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
        )

    def _request(self, state: State, allow_broken_plugins: bool) -> bytes:
        """Return the line that tells the process what to do."""
        request: PlainDict = {
            "name": self.needed.key,
            "config": dict(self.needed.stated),
            "run": self.needed.run,
            "split": self.needed.split,
            "trains": state.status != "finished",
            "trust": has_word(),
            "allow_broken_plugins": allow_broken_plugins,
        }
        return json.dumps(request).encode() + b"\n"

    def send(self, number: int) -> None:
        """Send a signal to the process."""
        if self.process is not None:
            self.process.send_signal(number)

    def close(self) -> None:
        """Forget the process, which has ended."""
        if self.process is not None and self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
        self.process = None

    def last_message(self) -> str:
        """Return the error that the process printed, or its last line."""
        try:
            with open(self.log, "rb") as log:
                log.seek(self.log_start)
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return "nothing"
        lines = [" ".join(line.split()) for line in lines if line.strip()]
        errors = [line for line in lines if line.startswith("fwk-train: error: ")]
        line = (errors or lines or ["nothing"])[-1]
        return line.removeprefix("fwk-train: error: ")[:LONGEST_LINE]


@dataclass
class Jobs:
    """All jobs of a chain, and how far they are."""

    parallel: int
    allow_broken_plugins: bool
    state_of: Callable[[NeededRun], State]  # raises UserError
    waiting: list[Job]
    running: list[Job] = field(default_factory=list)
    failure: NeededRunFailed | None = None
    signal_sent: int | None = None

    def step(self, stop: StopRequest) -> None:
        """Look at every process once, and start what can be started."""
        for job in list(self.running):
            assert job.process is not None
            status = job.process.poll()
            if status is not None:
                self.running.remove(job)
                job.close()
                self._end(job, status, bool(stop))
        if stop or self.failure:
            self._stop(stop.signal or signal.SIGTERM)
        else:
            self._start_more()

    def _start_more(self) -> None:
        unfinished = {job.needed.run for job in (*self.waiting, *self.running)}
        for job in list(self.waiting):
            if len(self.running) >= self.parallel:
                return
            if unfinished.intersection(job.waits_for) or self._is_held(job):
                continue
            state = self.state_of(job.needed)
            self.waiting.remove(job)
            if state.is_complete:  # another chain that needs it has trained it
                logger.info("%s: reused, %s (%s)", job.needed.key, state, job.needed.run)
            else:
                job.start(state, self.allow_broken_plugins)
                self.running.append(job)

    def _is_held(self, job: Job) -> bool:
        """Return whether another process has the run's folder, and say so once."""
        holder = holder_of(Path(job.needed.run))
        if holder is not None and holder != job.holder:
            logger.info(
                "%s: waiting for process %s, which trains %s",
                job.needed.key,
                holder,
                job.needed.run,
            )
        job.holder = holder
        return holder is not None

    def _end(self, job: Job, status: int, stopping: bool) -> None:
        """Take note of a process that has ended."""
        needed = job.needed
        if status == 0:
            logger.info("%s: %s (%s)", needed.key, self.state_of(needed), needed.run)
        elif stopping or self.failure:
            logger.info("%s: stopped (%s)", needed.key, needed.run)
        elif status == EXIT_IN_USE:  # it is looked at again
            self.waiting.insert(0, job)
        else:
            self.failure = _failure(job, status)

    def _stop(self, number: int) -> None:
        """Ask what runs to save and stop, once."""
        if self.signal_sent is None:
            self.signal_sent = number
            for job in self.running:
                job.send(number)

    def interrupt(self) -> None:
        """Stop what runs at once, and kill what does not obey."""
        for job in self.running:
            job.send(signal.SIGINT)
        end = time.monotonic() + PATIENCE
        for job in self.running:
            assert job.process is not None
            with suppress(subprocess.TimeoutExpired):
                job.process.wait(max(0.0, end - time.monotonic()))
                continue
            job.process.kill()
            job.process.wait()


def _failure(job: Job, status: int) -> NeededRunFailed:
    needed, message = job.needed, job.last_message()
    if status == EXIT_STOPPED:
        return NeededRunFailed(
            f"{needed.key} was stopped by a signal after saving ({needed.run}; log: {job.log}); start the same command "
            "again to go on",
            status,
        )
    if status < 0:
        name = signal.Signals(-status).name
        return NeededRunFailed(
            f"{needed.key} was ended by {name} ({needed.run}; log: {job.log}); start the same command again to go on",
            1,
        )
    return NeededRunFailed(f"{needed.key} failed ({needed.run}; log: {job.log}): {message}", status)


def run_jobs(
    jobs: Sequence[Job],
    parallel: int,
    allow_broken_plugins: bool,
    state_of: Callable[[NeededRun], State],
) -> None:
    """Run jobs until all are done, so many at a time, each after those that it waits for.

    Raises NeededRunFailed where a run fails, once the others have stopped, and RunStopped where a signal asked to stop.
    """
    if not jobs:
        return
    every = Jobs(parallel, allow_broken_plugins, state_of, list(jobs))
    with StopRequest().listening() as stop, _interrupting(every):
        while every.running or (every.waiting and not stop and every.failure is None):
            every.step(stop)
            time.sleep(POLL_SECONDS)
    if every.failure is not None:
        raise every.failure
    if stop:
        raise RunStopped(
            "stopped before everything that the run needs was trained", stop.exit_status
        )


@contextmanager
def _interrupting(jobs: Jobs) -> Iterator[None]:
    """Leave no process behind when something raises inside, as the second Ctrl-C does."""
    try:
        yield
    except BaseException:
        jobs.interrupt()
        raise
