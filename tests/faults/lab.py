"""The laboratory that provokes a fault and judges the outcome. One `Side` per trainer: the same case runs on both.

A case starts commands as real processes in a separate folder and states the expected outcome of each start. `Fwk`
checks the outcomes and computes the verdict; `HF` records what happened.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from support.commands import cache_with_index

HERE = Path(__file__).resolve().parent
INSIDE = HERE / "inside"
TRACEBACK = "Traceback (most recent call last)"
TIMINGS = ("seconds", "tokens_per_second")
KILL = {
    "act": "signal",
    "name": "SIGKILL",
    "place": "update",
    "at": 10,
    "first": 1.0,
}  # the save at 8 gets a second
UPDATES, EVERY = 16, 4  # of every run: its length, and the updates between two checkpoints


class Skip(Exception):
    """The fault cannot be provoked on this machine; the message gives the reason."""


@dataclass(frozen=True)
class Fault:
    """One row of the matrix. hf: False where the other trainer has no counterpart, for the reason `why`."""

    name: str
    group: str
    title: str
    run: Callable[[Side], None]
    ranks: int = 1
    data: str = "made"
    words: tuple[str, ...] = ()
    hf: bool = True
    why: str = ""


@dataclass(frozen=True)
class Ended:
    """The end of a command.

    status: None if it was ended by force; negative: the signal. output: of all its processes.
    """

    status: int | None
    output: str
    seconds: float

    @property
    def flat(self) -> str:
        return " ".join(self.output.split())


@dataclass
class Seen:
    """The outcome of one start. kind: same | other | nan | stopped | sentence | silent | traceback | signal | hung."""

    kind: str
    text: str


@dataclass
class Side:
    """One trainer in one case. folder: of this case; paths in messages are relative to it."""

    folder: Path
    templates: Path
    ranks: int = 1
    data: str = "made"
    words: tuple[str, ...] = ()
    start_words: tuple[str, ...] = ()  # for the next starts only, not for the undisturbed run
    starts: int = 0
    seen: list[Seen] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    faults: dict[Path, dict] = field(
        default_factory=dict
    )  # folder made when it is reached -> fault
    undo: ExitStack = field(default_factory=ExitStack)

    name = ""
    reads: ClassVar[
        Mapping[str, str]
    ] = {}  # kind of data of a case -> the data that this side reads ("": for all others)
    shards = ""  # pattern of the files of training data
    saving = ""  # pattern of the files of the checkpoint at update 8, unfinished or complete
    step_key = ""  # key of the number of updates in a checkpoint's state
    files: ClassVar[Mapping[str, str]] = {}  # part of a checkpoint -> its file

    @property
    def run(self) -> Path:
        return self.folder / "run"

    # -- starting ----------------------------------------------------------------------------------------------------

    def program(self) -> list[str]:
        raise NotImplementedError

    def options(self, words: Sequence[str], fault: dict | None) -> list[str]:
        raise NotImplementedError

    def translate(self, words: Sequence[str]) -> list[str]:
        """Translate fwk's arguments into those of this side."""
        return list(words)

    def launch(
        self,
        *words: str,
        fault: dict | None = None,
        before: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        restarts: int = 0,
        rank_words: Mapping[int, Sequence[str]] | None = None,
        rank_folder: Mapping[int, str] | None = None,
        **how,
    ) -> Started:
        """Start a command.

        fault: for `inside/acts.py`. before: a command that starts this one. rank_words and rank_folder: additional
        arguments and the working folder of a rank. how: for `Popen`.
        """
        self.starts += 1
        program = self.program()
        if self.ranks > 1:
            launcher = [
                "-m",
                "torch.distributed.run",
                "--standalone",
                f"--nproc-per-node={self.ranks}",
                "--monitor-interval=0.1",
                f"--max-restarts={restarts}",
                str(HERE / "rank.py"),
            ]
            command = [sys.executable, *launcher, *(word for word in program if word != "-m")]
        else:
            command = [sys.executable, *program]
        command = [*before, *command, *self.options([*self.start_words, *words], fault)]
        mark = uuid.uuid4().hex
        reached = self.folder / f"reached-{self.starts}"
        if fault:
            self.faults[reached] = fault
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
            "FWK_CACHE": cache_with_index(self.folder / "cache"),
            "HF_HUB_OFFLINE": "1",
            "FAULTS_MARK": mark,
            "RANK_WORDS": json.dumps(
                {rank: self.translate(more) for rank, more in (rank_words or {}).items()}
            ),
            "RANK_FOLDER": json.dumps(rank_folder or {}),
            **({"FAULT": json.dumps(fault), "FAULT_REACHED": str(reached)} if fault else {}),
            **(env or {}),
        }
        for old in self.folder.glob("rank-*.txt"):
            old.unlink()
        log = self.folder / f"start-{self.starts}.txt"
        how.setdefault("stdout", open(log, "w"))  # noqa: SIM115  closed with the process
        how.setdefault("stderr", subprocess.STDOUT)
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            **how,
        )
        started = Started(process, log, mark, self.folder, self.ranks)
        self.undo.callback(started.clear)
        return started

    def start(self, *words: str, limit: float = 60, **how) -> Ended:
        return self.launch(*words, **how).end(limit)

    # -- runs to begin with ------------------------------------------------------------------------------------------

    def template(self, kind: str, fault: dict | None) -> Path:
        key = hashlib.sha256(
            repr((self.name, self.data, self.ranks, self.words)).encode()
        ).hexdigest()[:12]
        template_folder = self.templates / f"{self.name}-{kind}-{key}"
        if not template_folder.is_dir():
            making = replace(
                self,
                folder=template_folder.with_name(f".{template_folder.name}"),
                start_words=(),
                starts=0,
                seen=[],
                shown=[],
                problems=[],
                faults={},
                undo=ExitStack(),
            )
            shutil.rmtree(making.folder, ignore_errors=True)
            if kind == "resumed":
                shutil.copytree(self.template("interrupted", KILL), making.folder, symlinks=True)
            else:
                making.folder.mkdir(parents=True)
                making.prepare_data()
            with making.undo:
                ended = making.start(fault=fault, limit=120)
            updates = [self.update_of(path) for path in making.checkpoints()]
            if (kind == "undisturbed" and ended.status != 0) or (
                kind == "interrupted" and updates != [4, 8]
            ):
                raise RuntimeError(
                    f"{self.name} does not get as far as that without a fault: {ended.output[-3000:]}"
                )
            making.folder.rename(template_folder)
        return template_folder

    def fresh(self) -> None:
        """Prepare the case's folder with its data, without a run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.prepare_data()

    def interrupted(self) -> None:
        """Prepare the case's folder with a run that was killed before its tenth update: checkpoints at 4 and 8."""
        template_folder = self.template("interrupted", KILL)
        shutil.copytree(template_folder, self.folder, symlinks=True, dirs_exist_ok=True)

    def prepare_data(self) -> None:
        data_path = make_data(
            self.templates, self.reads.get(self.data, self.reads[""]) if self.reads else self.data
        )
        if data_path is not None:
            to = self.folder / data_path.name
            shutil.copytree(data_path, to) if data_path.is_dir() else shutil.copy(data_path, to)

    def mount(self, size: str, place: Path | None = None) -> Path:
        """Mount a separate file system in the run's folder (or elsewhere), so that it can be full or read-only."""
        place = place or self.run
        place.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise Skip(f"a file system cannot be mounted here ({tidy(done.stderr, self.folder)})")
        self.undo.callback(subprocess.run, ["umount", "-l", str(place)], check=False)
        return place

    # -- what is there -----------------------------------------------------------------------------------------------

    def checkpoints(self) -> list[Path]:
        raise NotImplementedError

    def update_of(self, checkpoint: Path) -> int:
        return int(re.search(r"(\d+)$", checkpoint.name)[1])

    def newest(self, part: str) -> Path:
        """Return a file of the newest checkpoint: weights, optimizer or state."""
        return self.checkpoints()[-1] / self.files[part]

    def weights(self, folder: Path | None = None) -> dict | None:
        """Return the weights after the last update, or None."""
        raise NotImplementedError

    def look(self, ended: Ended) -> Seen:
        """Return the outcome of a start."""
        if ended.status is None:
            return Seen("hung", f"hung until it was ended from outside after {ended.seconds:.0f} s")
        weights = self.weights()
        if ended.status == 0 and weights is not None:
            if not all(np.isfinite(w).all() for w in weights.values()):
                return Seen("nan", "went on, the weights became NaN")
            expected = self.weights(self.template("undisturbed", None) / "run")
            same = weights.keys() == expected.keys() and all(
                np.array_equal(weights[n], expected[n]) for n in expected
            )
            return (
                Seen("same", "went on to the same weights")
                if same
                else Seen("other", "went on to other weights")
            )
        if ended.status == 0:
            updates = [self.update_of(path) for path in self.checkpoints()]
            return Seen(
                "stopped",
                f"stopped with status 0, saved at update {max(updates)}"
                if updates
                else "ended with status 0, nothing saved",
            )
        if TRACEBACK in ended.output:
            return Seen("traceback", f"traceback: {last_error(ended.output)}")
        if ended.status < 0:
            return Seen("signal", f"ended by {signal.Signals(-ended.status).name}")
        return Seen("sentence", f"status {ended.status}: {last_line(ended.output)}")


@dataclass
class Started:
    process: subprocess.Popen
    log: Path
    mark: str
    folder: Path
    ranks: int

    def wait_until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition() and self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)

    def end(self, limit: float = 60) -> Ended:
        began = time.time()
        try:
            status = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        seconds = time.time() - began
        self.clear()
        output = self.log.read_text(errors="replace") if self.log.is_file() else ""
        if self.ranks > 1:  # torchrun prints a traceback as well: only the ranks' output counts
            ranks = sorted(self.folder.glob("rank-*.txt"))
            output = "".join(path.read_text(errors="replace") for path in ranks)
            if (
                status is not None
            ):  # until the last message of a rank: torchrun then waits half a minute for a stopped one
                seconds = (
                    max((path.stat().st_mtime for path in ranks), default=began + seconds) - began
                )
            self.log.with_suffix(".ranks.txt").write_text(output)
        return Ended(status, output, seconds)

    def clear(self) -> None:
        """End every process that this start left running; a mark in the environment identifies them."""
        for entry in Path("/proc").iterdir():
            try:
                if (
                    entry.name.isdigit()
                    and f"FAULTS_MARK={self.mark}".encode() in (entry / "environ").read_bytes()
                ):
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:
                continue
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


# -- fwk -------------------------------------------------------------------------------------------------------------


class Fwk(Side):
    name = "fwk"
    shards = "store/train-*.tokens"
    saving = "run/checkpoints/*update-000000008/*"
    step_key = "update"
    files = {
        "weights": "model.safetensors",
        "optimizer": "optimizer.safetensors",
        "state": "state.json",
    }

    def program(self) -> list[str]:
        return ["-m", "fwk.cli.train"]

    def options(self, words: Sequence[str], fault: dict | None) -> list[str]:
        text = ["task.length=12", "model.layers=2", "model.width=16", "model.heads=2"]
        synthetic = [*text, "task.sequences=64", "task.vocabulary=24"]
        user = [f"--user-dir={INSIDE}"] if fault or self.data == "reached" else []
        source = {
            "made": synthetic,
            "long": synthetic,
            "reached": synthetic,
            "store": [*text, "task.data=store"],
            "text": [*text, "task.data=text.txt", "task.vocabulary=64", "task.valid_share=0.1"],
            "digits": [
                f"--user-dir={HERE.parent / 'support' / 'objectives' / 'images.py'}",
                "--model=test_pixels",
                "--criterion=test_classify",
            ],
        }[self.data]
        task = {"store": "mlm", "text": "mlm", "digits": "test_digits", "reached": "reached"}.get(
            self.data, "synthetic"
        )
        return [
            f"--task={task}",
            *user,
            *source,
            "optimizer.lr=1e-3",
            f"train.updates={UPDATES}",
            "train.batch=8",
            f"train.save_every={EVERY}",
            "train.keep_last=3",
            "train.validate_every=8",
            "train.log_every=2",
            "train.device=cpu",
            "train.timeout=10",
            "hooks.terminal=null",
            "hooks.summary=null",
            "hooks.tensorboard=null",
            "run=run",
            *self.words,
            *words,
        ]

    def checkpoints(self) -> list[Path]:
        return sorted(path for path in (self.run / "checkpoints").glob("update-*") if path.is_dir())

    def records(self, run: Path) -> list[dict]:
        """Return metrics.jsonl without timings."""
        if not (run / "metrics.jsonl").is_file():
            return []
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if key not in TIMINGS} for line in lines]

    def weights(self, folder: Path | None = None) -> dict | None:
        path = (folder or self.run) / "checkpoints" / f"update-{UPDATES:09d}" / "model.safetensors"
        return load_file(path) if path.is_file() else None

    def whole(self) -> dict[str, str]:
        """Return the checkpoints whose files have the hashes of the manifest, each with a hash of all its files."""
        digests = {}
        for path in self.checkpoints():
            try:
                files = json.loads((path / "manifest.json").read_text())["files"]
                if all(digest(path / name) == entry["sha256"] for name, entry in files.items()):
                    digests[path.name] = digest(path / "manifest.json")
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
        return digests

    # -- what must come of a start

    def goes_on(self, says: str = "", warns: str = "", metrics: bool = True, **how) -> None:
        """Expect success: the weights, and the lines of metrics.jsonl, of an undisturbed run."""
        self.judge(self.start(**how), says or warns, metrics, bool(warns))

    def went_on(self, ended: Ended, says: str = "", warns: str = "", metrics: bool = True) -> None:
        self.judge(ended, says or warns, metrics, bool(warns))

    def judge(self, ended: Ended, says: str, metrics: bool, warned: bool) -> None:
        seen = self.look(ended)
        self.seen.append(Seen("warned", seen.text) if warned and seen.kind == "same" else seen)
        self.expect(seen.kind == "same", f"it should have gone on to the same weights: {seen.text}")
        self.expect(TRACEBACK not in ended.output, f"a traceback: {last_error(ended.output)}")
        self.hear(ended, says)
        if metrics and seen.kind == "same":
            expected = self.records(self.template("undisturbed", None) / "run")
            self.expect(
                self.records(self.run) == expected,
                "metrics.jsonl differs from that of an undisturbed run",
            )

    def refuses(
        self,
        says: str,
        status: int | None = None,
        unchanged: bool = False,
        own_traceback: bool = False,
        seconds: float | None = None,
        **how,
    ) -> None:
        """Expect a status other than 0 and one message.

        unchanged: nothing in the run's folder may change. own_traceback: a traceback of the user's code may be shown
        above the message. seconds: the time limit.
        """
        before, good = self.snapshot() if unchanged else None, self.whole()
        self.refused(self.start(**how), says, status, own_traceback, seconds)
        if unchanged:
            self.expect(self.snapshot() == before, "something in the run's folder was changed")
        now = self.whole()
        lost = [name for name in sorted(good)[-1:] if now.get(name) != good[name]]
        self.expect(not lost, f"the good checkpoint {', '.join(lost)} is gone")

    def refused(
        self,
        ended: Ended,
        says: str,
        status: int | None = None,
        own_traceback: bool = False,
        seconds: float | None = None,
    ) -> None:
        seen = self.look(ended)
        self.seen.append(seen)
        wanted = {status} if status else {1, 2}
        self.expect(
            ended.status in wanted,
            f"status {ended.status}, expected {' or '.join(map(str, sorted(wanted)))} ({seen.text})",
        )
        if not own_traceback:
            self.expect(TRACEBACK not in ended.output, f"a traceback: {last_error(ended.output)}")
        errors = [
            line for line in ended.output.splitlines() if line.startswith("fwk-train: error:")
        ]
        self.expect(
            len(errors) == 1 if self.ranks == 1 else len(errors) >= 1,
            f"{len(errors)} sentences, expected one",
        )
        self.hear(ended, says)
        if seconds is not None:
            self.expect(
                ended.seconds <= seconds,
                f"it took {ended.seconds:.0f} s, expected {seconds:.0f} at most",
            )
        self.expect(
            not self.poisoned(), "a checkpoint with numbers that are not finite was written"
        )

    def answers(self, says: str, **how) -> None:
        """See `answered`."""
        self.answered(self.start(**how), says)

    def answered(self, ended: Ended, says: str, counts_as: str = "warned") -> None:
        """Accept two outcomes: the same weights, or a refusal.

        counts_as: where the run continues, its message counts as a warning ("warned") or as the way it recovered
        ("recovered"), or no message is needed ("silent").
        """
        if self.look(ended).kind == "same":
            self.judge(ended, "" if counts_as == "silent" else says, False, counts_as == "warned")
        else:
            self.refused(ended, says)

    def stops(self, status: int, says: str = "", **how) -> None:
        """Expect that the command saves, and ends with this status before the run is done."""
        self.stopped(self.start(**how), status, says)

    def stopped(self, ended: Ended, status: int, says: str = "") -> None:
        seen = self.look(ended)
        self.seen.append(Seen("stopped", f"saved and stopped with status {ended.status}"))
        self.expect(
            ended.status == status, f"status {ended.status}, expected {status} ({seen.text})"
        )
        self.expect(TRACEBACK not in ended.output, f"a traceback: {last_error(ended.output)}")
        self.expect(bool(self.whole()), "it left no whole checkpoint")
        self.hear(ended, says)

    def ends_well(self, **how) -> None:
        """Expect status 0 from another run than the undisturbed one."""
        ended = self.start(**how)
        self.expect(ended.status == 0, f"status {ended.status}: {last_line(ended.output)}")

    def dies(self, **how) -> None:
        """Note that the fault itself ends the process; nothing is expected of it."""
        ended = self.start(**how)
        self.expect(
            ended.status not in (0, None), f"the fault did not end it: status {ended.status}"
        )

    # -- judging

    def expect(self, true: bool, problem: str) -> None:
        if not true:
            self.problems.append(problem)

    def hear(self, ended: Ended, says: str) -> None:
        """Expect the message; its line is shown in the table."""
        if not says:
            return
        lines = [line for line in ended.output.splitlines() if re.search(says, line)]
        self.expect(bool(lines), f"no sentence like '{says}' in: {last_line(ended.output)}")
        self.shown += lines[:1]

    def snapshot(self) -> dict[str, str]:
        return (
            {
                str(path.relative_to(self.run)): digest(path)
                for path in sorted(self.run.rglob("*"))
                if path.is_file() and path.name != ".lock"
            }
            if self.run.is_dir()
            else {}
        )

    def poisoned(self) -> bool:
        paths = [self.run / "checkpoints" / name / "model.safetensors" for name in self.whole()]
        return any(not np.isfinite(w).all() for path in paths for w in load_file(path).values())

    def check_reached(self) -> None:
        """Note as a problem every fault inside a process that never happened: its case would prove nothing."""
        for reached, fault in self.faults.items():
            self.expect(reached.is_dir(), f"the fault was never reached: {json.dumps(fault)}")

    def verdict(self) -> str:
        if self.problems:
            return "FAILED: " + "; ".join(self.problems)
        kinds = [seen.kind for seen in self.seen]
        refused = any(kind in ("sentence", "traceback") for kind in kinds)
        if "warned" in kinds and not refused:
            return "tolerated with a warning"
        if kinds[-1] == "same":
            return "refused, then recovered" if refused else "recovered"
        return "refused"

    def kind(self) -> str:
        """Return the verdict without its reasons."""
        return self.verdict().split(":")[0]

    def sentence(self) -> str:
        """Return its message without paths."""
        return " / ".join(dict.fromkeys(tidy(line, self.folder) for line in self.shown))


# -- Hugging Face ----------------------------------------------------------------------------------------------------


class HF(Side):
    name = "hf"
    reads = {"": "tokens", "long": "long-tokens"}
    shards = "tokens.npy"
    saving = "run/checkpoint-8/*"
    step_key = "global_step"
    files = {
        "weights": "model.safetensors",
        "optimizer": "optimizer.pt",
        "state": "trainer_state.json",
    }
    translated = {
        "optimizer.lr": "learning_rate",
        "seed": "seed",
        "train.workers": "dataloader_num_workers",
        "--optimizer": "optim",
        "train.clip": "max_grad_norm",
        "train.batch": "per_device_train_batch_size",
        "model.width": "hidden_size",
        "train.updates": "max_steps",
    }

    def program(self) -> list[str]:
        return [str(HERE / "hf_train.py")]

    def options(self, words: Sequence[str], fault: dict | None) -> list[str]:
        return [
            "--output_dir",
            "run",
            "--data",
            "tokens.npy",
            *self.translate([*self.words, *words]),
        ]

    def translate(self, words: Sequence[str]) -> list[str]:
        """Translate the arguments of fwk that have a counterpart."""
        arguments = []
        for word in words:
            key, _, value = word.partition("=")
            if key == "hooks.tensorboard.name":
                arguments += ["--report_to", "tensorboard"]
            elif key in self.translated:
                arguments += [f"--{self.translated[key]}", value]
        return arguments

    def checkpoints(self) -> list[Path]:
        return sorted(
            (path for path in self.run.glob("checkpoint-*") if path.is_dir()), key=self.update_of
        )

    def weights(self, folder: Path | None = None) -> dict | None:
        path = (folder or self.run) / f"checkpoint-{UPDATES}" / "model.safetensors"
        try:
            return load_file(path) if path.is_file() else None
        except SafetensorError:
            return None

    def went_on(self, ended: Ended, says: str = "", warns: str = "", metrics: bool = True) -> None:
        seen = self.look(ended)
        if seen.kind in ("same", "other", "nan") and (line := self.new_line(ended)):
            seen = Seen(seen.kind, f"{seen.text}, with a warning: {line}")
        elif seen.kind in ("other", "nan"):
            seen = Seen(seen.kind, f"{seen.text}, without a word")
        self.seen.append(seen)

    def goes_on(self, says: str = "", warns: str = "", metrics: bool = True, **how) -> None:
        self.went_on(self.start(**how))

    def refuses(
        self,
        says: str,
        status: int | None = None,
        unchanged: bool = False,
        own_traceback: bool = False,
        seconds: float | None = None,
        **how,
    ) -> None:
        self.went_on(self.start(**how))

    def answers(self, says: str, **how) -> None:
        self.went_on(self.start(**how))

    def answered(self, ended: Ended, says: str, counts_as: str = "warned") -> None:
        self.went_on(ended)

    def stops(self, status: int, says: str = "", **how) -> None:
        self.went_on(self.start(**how))

    def refused(self, ended: Ended, *_, **__) -> None:
        self.went_on(ended)

    def stopped(self, ended: Ended, *_, **__) -> None:
        self.went_on(ended)

    def dies(self, **how) -> None:
        self.start(**how)

    def new_line(self, ended: Ended) -> str:
        """Return the first line that is new: not printed by an undisturbed run or by one that resumes after a SIGKILL.

        Numbers and progress are ignored.
        """

        def lines(text: str) -> list[str]:
            lines_of_run = [
                line
                for line in text.replace("\r", "\n").splitlines()
                if line.strip() and not line.startswith(("{", "Writing model"))
            ]
            return [line for line in lines_of_run if "mtime may not" not in line]

        logs = [
            path
            for kind in ("undisturbed", "resumed")
            for path in self.template(kind, None).glob("*.txt")
        ]
        usual = {
            re.sub(r"[\d.]+", "0", line)
            for path in logs
            for line in lines(path.read_text(errors="replace"))
        }
        new = [line for line in lines(ended.output) if re.sub(r"[\d.]+", "0", line) not in usual]
        return tidy(new[0], self.folder, 90) if new else ""

    def sentence(self) -> str:
        return ""

    def kind(self) -> str:
        """Return the worst outcome, and whether a later start ended with the same weights."""
        kinds = {seen.kind for seen in self.seen}
        silent = any(
            seen.kind in ("other", "nan") and "without a word" in seen.text for seen in self.seen
        )
        worst = next(
            (
                words
                for true, words in (
                    (bool(self.problems), "not to be provoked"),
                    ("hung" in kinds, "hung"),
                    (silent, "other or NaN weights without a word"),
                    ("nan" in kinds or "other" in kinds, "other or NaN weights with a warning"),
                    ("traceback" in kinds, "a traceback"),
                    ("signal" in kinds, "ended by a signal"),
                    ("sentence" in kinds, "a sentence"),
                    ("silent" in kinds, "ended without a word"),
                )
                if true
            ),
            "",
        )
        recovered = bool(self.seen) and self.seen[-1].kind == "same"
        return (
            f"{worst}, then recovered"
            if worst and recovered
            else worst or ("recovered" if recovered else "stopped")
        )

    def verdict(self) -> str:
        """Return the outcomes, start by start."""
        words = [*self.problems, *(tidy(seen.text, self.folder, 110) for seen in self.seen)]
        return "; then ".join(words)


# -- small tools -----------------------------------------------------------------------------------------------------


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def last_error(output: str) -> str:
    """Return `KindOfError: its message` of the last traceback."""
    exceptions = re.findall(
        r"^(?:\[rank\d\]: ?)?((?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt|Killed)\w*)(?:: (.*))?$",
        output,
        re.MULTILINE,
    )
    if not exceptions:
        return last_line(output)
    kind, message = exceptions[-1]
    return f"{kind.rsplit('.', 1)[-1]}{': ' if message else ''}{message[:90]}"


def last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing"


def tidy(line: str, folder: Path, longest: int = 170) -> str:
    """Return a line of output for a table: shortened, without paths, the program's name and newlines."""
    line = re.sub(
        r"^(\[transformers\] |fwk-train: (error|warning): |fwk: |\S*Warning: )",
        "",
        " ".join(line.split()),
    )
    line = (
        line.replace(f"{folder}/", "")
        .replace(str(folder), ".")
        .replace(str(HERE.parents[1]) + "/", "")
        .replace("run/checkpoints/", "")
    )
    line = re.sub(r"(?<![\w.])/[\w./-]+/", "", line)
    line = line.replace("|", "\\|")
    return line if len(line) <= longest else line[: longest - 3].rsplit(" ", 1)[0] + " ..."


def make_data(templates: Path, data: str) -> Path | None:
    """Make the data of a kind, once; Hugging Face reads `tokens.npy` where fwk makes or stores its data."""
    templates.mkdir(parents=True, exist_ok=True)
    if data in ("tokens", "long-tokens"):
        path = templates / data / "tokens.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, tokens(0, 40 if data == "tokens" else 80))
        return path
    text = templates / "text.txt"
    if data in ("store", "text") and not text.is_file():
        text.write_text(prose(0))
    if data == "text":
        return text
    if data == "store":
        store = templates / "store"
        if not store.is_dir():
            make_store(text, store)
        return store
    return None


def tokens(seed: int, count: int = 40) -> np.ndarray:
    """Return sequences of the synthetic task's shape, int64 [count, 12]; a fifth of them is for validation.

    Of 40 sequences, a pass over the others takes four updates, so each checkpoint falls on the end of a pass; of 80 it
    takes eight."""
    rows = np.random.default_rng(seed).integers(5, 24, (count, 12))
    rows[:, 0], rows[:, -1] = 2, 3
    return rows


def prose(seed: int) -> str:
    """Return forty documents of random words."""
    numbers = np.random.default_rng(seed)
    words = ["".join(numbers.choice(list("abcdefghijklmnop"), 4)) for _ in range(40)]
    return "\n\n".join(" ".join(numbers.choice(words, 60)) + "." for _ in range(40)) + "\n"


def make_store(text: Path, store: Path) -> None:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "fwk.cli.preprocess",
            str(text),
            "--output",
            str(store),
            "--vocabulary",
            "64",
            "--valid-share",
            "0.1",
            "--processes",
            "1",
            "--quiet",
        ],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
