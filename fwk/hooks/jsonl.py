"""RUN/metrics.jsonl: one object per line, flushed line by line.

Every line is valid JSON: a number that is not finite is written as null. When a run goes on from a checkpoint the file
is cut back to what that checkpoint knows (lines up to its update, no "finished" or "stopped"), so that an interrupted
run leaves the same file as one that was not.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fwk.components.registry import register
from fwk.contracts.hooks import hookimpl
from fwk.errors import CheckpointError, LogFailed

ENDINGS = ("finished", "stopped")  # events that are no longer true once the run goes on


@register("hook", "jsonl")
class JSONL:
    """One JSON object per line in RUN/metrics.jsonl."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    listens_only = True  # a run is the same run with and without it

    def __init__(self, config: Any):
        self.path: Path | None = None

    @hookimpl
    def fwk_run_begin(self, run: Any, resumed: bool) -> None:
        if run.rank != 0:
            return
        self.path = Path(run.folder) / "metrics.jsonl"
        try:
            if resumed:
                cut_back(self.path, run.update, owed=run.validation_pending)
            else:
                self.path.write_text("", encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"cannot write {self.path}: {error.strerror}") from error

    @hookimpl
    def fwk_logged(self, record: dict[str, Any]) -> None:
        if self.path is not None:
            try:
                with open(
                    self.path, "a", encoding="utf-8"
                ) as file:  # closed, so flushed, after every line
                    file.write(as_line(record))
            except OSError as error:
                path, self.path = self.path, None
                raise LogFailed(
                    f"cannot write {path}: {error.strerror}; the run has saved and ended at this, and the same "
                    "command goes on once it can be written"
                ) from error


def as_line(record: Mapping[str, Any]) -> str:
    """A record -> one line of valid JSON, with its newline; numbers that are not finite become null."""
    return json.dumps(_finite(record), ensure_ascii=False, allow_nan=False) + "\n"


def cut_back(path: Path, update: int, owed: bool = False) -> None:
    """Keep the lines of `path` that a run at `update` would have written: those up to that update, without the events
    that say the run has ended and without a last line torn by a crash; `owed`: without its evaluation, too. The file is replaced in one step, or not at
    all."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line + "\n" for line in lines if _survives(line, update, owed)]
    beside = path.with_name(path.name + ".new")
    with open(beside, "w", encoding="utf-8") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def _survives(line: str, update: int, owed: bool) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    if not isinstance(record, dict) or record.get("event") in ENDINGS:
        return False
    at = record.get("update") or 0
    return at < update or at == update and not (owed and record.get("split") != "train")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`; a torn last line is left out."""
    records = []
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records
