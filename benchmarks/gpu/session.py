"""Measure everything that needs a GPU in one command of a few minutes, on a machine without network.

    python -m benchmarks session --out DIR [--minutes 9] [--commit HASH] [--resume DIR/session.json] [--only PIECE ...]
    python -m benchmarks session --quick        # all of it with toy shapes on the CPU: tries the programs
    python -m benchmarks session --list         # what is measured, in which order

Packages that the machine lacks are installed from the carried wheels (`wheels`) into a folder of their own. The pieces
(`plan`) run in order of value, each measurement in a process of its own with a limit: device, correctness, speed,
methods, profile, race. While the tests run, later measurements are compiled in the background. After each measurement
DIR/session.json is written anew and DIR/log.txt grows, so nothing is lost when the command is cut off; with --resume it
does what is missing, on the same device at the same commit. The outcome is also kept in benchmarks/gpu/results, from
which `session_report` writes docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, strftime
from typing import Any

from benchmarks.common import ROOT
from benchmarks.gpu import outcomes
from benchmarks.gpu.children import Background, Child, last_json, last_lines
from benchmarks.gpu.plan import DEVICE, PIECES, TESTS, Measurement, plan
from benchmarks.gpu.wheels import install_missing

RESULTS = ROOT / "benchmarks" / "gpu" / "results"
WORK = ROOT / "build" / "gpu"  # packages, caches and outputs of single programs; ignored by git
RESERVE = 8.0  # seconds at the end for writing
MOST_WAITING = (
    75.0  # seconds for which the first timed measurement waits for programs that compile beforehand
)
LONGEST_OUTPUT = 100_000  # characters of a program's output that are logged


@dataclass
class Session:
    """The records of a session, and the files that hold them."""

    folder: Path  # for session.json and log.txt
    end: float  # on the clock `time.monotonic`
    commit: str
    quick: bool = False
    results: Path | None = None  # where the outcome is kept beside the folder
    work: Path = WORK
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    started: str = field(default_factory=lambda: strftime("%Y-%m-%dT%H:%M:%S"))
    records: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    child: Child | None = None  # under way

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self.end - monotonic()

    @property
    def device(self) -> dict[str, Any] | None:
        """What the device is; None before it was measured."""
        return next(
            (r["result"] for r in self.records if r["piece"] == DEVICE and is_done(r)), None
        )

    def resume(self, earlier: Mapping[str, Any], device: Mapping[str, Any]) -> None:
        """Take over what an earlier session measured, unless the device or the commit is another one."""
        before = next(
            (r["result"] for r in earlier["records"] if r["piece"] == DEVICE and is_done(r)), {}
        )
        for what, mine, other in (
            ("commit", self.commit, earlier["commit"]),
            ("device", device["device"], before.get("device")),
        ):
            if mine != other:
                self.say(
                    f"the earlier session has another {what} ({other}): everything is measured anew"
                )
                return
        self.started = earlier["started"]
        self.records += [r for r in earlier["records"] if is_done(r) and r["piece"] != DEVICE]

    def has(self, measurement: Measurement) -> bool:
        """Return whether a measurement is done."""
        return any(
            r["piece"] == measurement.piece and r["name"] == measurement.name
            for r in self.records
            if is_done(r)
        )

    def measure(self, measurement: Measurement) -> dict[str, Any] | None:
        """Run one measurement and record it; None where too little time is left."""
        seconds = min(measurement.limit, self.left)
        if seconds < measurement.least:
            self.left_out.append(measurement.key)
            self.write()
            return None
        words = [word.format(seconds=f"{seconds - 5:.0f}") for word in measurement.words]
        start = monotonic()
        output = self.work / "output.txt"
        environment = {**self.environment, outcomes.VARIABLE: str(self.folder / "tests.jsonl")}
        self.child = Child([sys.executable, "-m", *words], environment, output, ROOT)
        status = self.child.finish(seconds)
        text = self.child.text()
        self.child = None
        record = {
            "piece": measurement.piece,
            "name": measurement.name,
            "seconds": round(monotonic() - start, 1),
            "status": status,  # None: ended at its limit
            "facts": measurement.facts,
            "result": self.result_of(measurement, text),
        }
        if not is_done(record):
            record["failure"] = "not ready in time" if status is None else last_lines(text)
        self.records.append(record)
        self.log(measurement, record, text)
        self.write()
        return record

    def result_of(self, measurement: Measurement, text: str) -> dict[str, Any] | None:
        """Return what a program reported, also where it was ended early."""
        if measurement.piece == TESTS:
            return outcomes.summary(self.folder / "tests.jsonl")
        return last_json(text)

    def log(self, measurement: Measurement, record: Mapping[str, Any], text: str) -> None:
        """Append the output of a program to the log, and print one line."""
        shown = record.get("failure") or json.dumps(record["result"])
        line = f"{record['seconds']:7.1f} s  {measurement.key}: {shown}"
        self.say(line[:300])
        with open(self.folder / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"== {line}\n{text[-LONGEST_OUTPUT:]}\n")

    def say(self, line: str) -> None:
        print(line, flush=True)

    def write(self) -> None:
        """Write session.json, and the same under the results' name once the device is known."""
        content = json.dumps(
            {
                "started": self.started,
                "commit": self.commit,
                "quick": self.quick,
                "records": self.records,
                "left_out": self.left_out,
            },
            indent=1,
        )
        paths = [self.folder / "session.json"]
        if self.results is not None and self.device is not None:
            paths.append(
                self.results / result_name(self.started, self.device["device"], self.commit)
            )
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_suffix(".new")
            fresh.write_text(content + "\n", encoding="utf-8")
            os.replace(fresh, path)

    def close(self) -> None:
        """End the program under way and write what there is."""
        if self.child is not None:
            self.child.end()
        self.write()


def is_done(record: Mapping[str, Any]) -> bool:
    """Return whether a record need not be made again: its program ended by itself and reported something.

    pytest ends with status 1 where a test failed, which is a result.
    """
    allowed = (0, 1) if record["piece"] == TESTS else (0,)
    return record["status"] in allowed and record["result"] is not None


def result_name(started: str, device: str, commit: str) -> str:
    """Return the name of a session's file in the results."""
    words = [started.replace(":", ""), re.sub(r"\W+", "-", device).strip("-"), commit[:8]]
    return "_".join(words) + ".json"


def commit_of(root: Path) -> str:
    """Return the commit of a checkout, with '+' where it has changes; 'unknown' without git."""
    commands = (["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain"])
    try:
        commit, changes = (
            subprocess.run(
                c, cwd=root, capture_output=True, text=True, timeout=20, check=True
            ).stdout.strip()
            for c in commands
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("+" if changes else "")


def environment_of(site: Path, work: Path, quick: bool) -> dict[str, str]:
    """Return the variables of the programs: where packages lie, caches in the working folder, no network."""
    paths = [str(site), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
        "TRITON_CACHE_DIR": str(work / "triton"),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **({"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} if quick else {}),
    }


def run(session: Session, measurements: Sequence[Measurement], resume: Path | None = None) -> int:
    """Run what is not done yet, in order; return the exit status: 1 where something failed."""
    first, *others = measurements
    record = session.measure(first)
    if record is None or not is_done(record):
        session.say(f"The device cannot be measured: {record['failure'] if record else 'no time'}.")
        return 1
    if resume is not None:
        session.resume(json.loads(resume.read_text(encoding="utf-8")), record["result"])
    todo = [measurement for measurement in others if not session.has(measurement)]
    with compiling_beforehand(session, todo) as background:
        for measurement in todo:
            if measurement.piece != TESTS and not background.finish(
                min(MOST_WAITING, session.left / 4)
            ):
                session.say("not all of what compiles beforehand was ready")
            session.measure(measurement)
    return 1 if any(has_failed(record) for record in session.records) else 0


def has_failed(record: Mapping[str, Any]) -> bool:
    """Return whether a record shows a failure: of its program, or of a test."""
    return not is_done(record) or bool(record["piece"] == TESTS and record["result"]["failed"])


@contextmanager
def compiling_beforehand(session: Session, todo: Sequence[Measurement]) -> Iterator[Background]:
    """Compile later measurements in the background while the tests run; nothing where no test is to be run."""
    commands = [
        [sys.executable, "-m", *measurement.compiles]
        for measurement in todo
        if measurement.compiles
    ]
    if not any(measurement.piece == TESTS for measurement in todo):
        commands = []
    background = Background(commands, session.environment, session.work, ROOT)
    try:
        yield background
    finally:
        background.finish(0)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    made.add_argument("--minutes", type=float, default=9.0, help="for everything (default: 9)")
    made.add_argument(
        "--out",
        type=Path,
        default=Path(os.environ.get("OUT") or WORK / "out"),
        help="folder for session.json and log.txt (default: $OUT, or build/gpu/out)",
    )
    made.add_argument(
        "--resume", type=Path, metavar="FILE", help="session.json of an earlier session"
    )
    made.add_argument(
        "--only", nargs="+", choices=PIECES[1:], help="these pieces, after the device"
    )
    made.add_argument("--commit", help="of the sources, where there is no git (default: git's)")
    made.add_argument("--device", help="default: cuda, or cpu with --quick")
    made.add_argument("--quick", action="store_true", help="toy shapes on the CPU, not recorded")
    made.add_argument("--list", action="store_true", help="print what is measured, and stop")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = parser().parse_args(arguments)
    end = monotonic() + 60 * chosen.minutes - RESERVE
    device = chosen.device or ("cpu" if chosen.quick else "cuda")
    measurements = [
        m
        for m in plan(chosen.quick, device)
        if m.piece == DEVICE or m.piece in (chosen.only or PIECES)
    ]
    if chosen.list:
        print("\n".join(measurement.key for measurement in measurements))
        return 0
    work = chosen.out / "work" if chosen.quick else WORK
    work.mkdir(parents=True, exist_ok=True)
    (chosen.out / "tests.jsonl").unlink(missing_ok=True)
    print(
        f"installed: {', '.join(install_missing(work / 'site')) or 'nothing was missing'}",
        flush=True,
    )
    session = Session(
        folder=chosen.out,
        end=end,
        commit=chosen.commit or commit_of(ROOT),
        quick=chosen.quick,
        results=None if chosen.quick else RESULTS,
        work=work,
        environment=environment_of(work / "site", work, chosen.quick),
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that `close` is called
    try:
        return run(session, measurements, chosen.resume)
    finally:
        session.close()
        if chosen.quick:
            shutil.rmtree(work, ignore_errors=True)
        if session.left_out:
            print(f"left out for time: {'; '.join(session.left_out)}")
        print(f"{chosen.out / 'session.json'}: {len(session.records)} records", flush=True)
