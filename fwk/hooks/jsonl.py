"""RUN/metrics.jsonl: one object per line, flushed line by line.

Every line is valid JSON: a number that is not finite is written as null. When a run resumes, the file is cut back to
the lines up to the update of its checkpoint, without "finished" or "stopped". An interrupted run therefore leaves the
same file as an uninterrupted one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fwk.components.registry import register
from fwk.contracts.hooks import hookimpl
from fwk.contracts.json_files import parse_json
from fwk.contracts.plain import PlainDict, PlainMapping
from fwk.errors import CheckpointError, LogFailed
from fwk.files import open_plain, write_atomically

if TYPE_CHECKING:  # logs are read without torch
    from fwk.engine.run import Run

ENDINGS = ("finished", "stopped")  # events that are no longer true once the run resumes


@register("hook", "jsonl")
class JSONL:
    """One JSON object per line in RUN/metrics.jsonl."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    listens_only = True  # a run may resume with it or without it

    def __init__(self, config: Config) -> None:
        self.path: Path | None = None  # None: nothing is written

    @hookimpl
    def fwk_run_begin(self, run: Run, resumed: bool) -> None:
        if run.rank != 0:
            return
        self.path = Path(run.folder) / "metrics.jsonl"
        try:
            if resumed:
                cut_back(self.path, run.update, run.validation_pending)
            else:
                write_atomically(self.path, b"")
        except OSError as error:
            raise CheckpointError(f"cannot write {self.path}: {error.strerror}") from error

    @hookimpl
    def fwk_logged(self, record: PlainDict) -> None:
        if self.path is None:
            return
        try:
            # closing the file flushes the line
            with open(self.path, "a", encoding="utf-8", opener=open_plain) as file:
                file.write(as_line(record))
        except OSError as error:
            path, self.path = self.path, None
            raise LogFailed(
                f"cannot write {path}: {error.strerror}; the run has saved and stopped. Start the same command again "
                "once the file can be written"
            ) from error


def as_line(record: PlainMapping) -> str:
    """Return a record as one line of valid JSON with its newline; numbers that are not finite become null."""
    return json.dumps(_with_null(record), ensure_ascii=False, allow_nan=False) + "\n"


def cut_back(path: Path, update: int, validation_pending: bool = False) -> None:
    """Keep the lines of `path` that a run at `update` has written.

    Those are the lines up to that update, without events of an ending and without a last line torn by a crash.
    validation_pending: the evaluation at `update` is still to be done, so its lines are removed too. The file is
    replaced in one step.
    """
    if not path.exists():
        return
    kept = [f"{line}\n" for line in _lines(path) if _is_kept(line, update, validation_pending)]
    write_atomically(path, "".join(kept).encode())


def _is_kept(line: str, update: int, validation_pending: bool) -> bool:
    record = _record(line)
    if record is None or record.get("event") in ENDINGS:
        return False
    line_update = record.get("update") or 0
    if isinstance(line_update, bool) or not isinstance(line_update, (int, float)):
        return False
    if line_update != update:
        return line_update < update
    return record.get("split") == "train" or not validation_pending


def _with_null(value: Any) -> Any:
    """Return a JSON-able value with null in place of numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): _with_null(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_null(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_metrics(path: Path) -> list[PlainDict]:
    """Return the records of a `metrics.jsonl`, without a last line torn by a crash."""
    records = map(_record, _lines(Path(path)))
    return [record for record in records if record is not None]


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a log. Only \\n ends one: a text in a record may hold other line separators of Unicode."""
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        for line in file:
            yield line.rstrip("\r\n")


def _record(line: str) -> PlainDict | None:
    """Return the object in a line; None for a torn line, or one that holds anything else."""
    try:
        record = parse_json(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
