"""The lock on a run's folder, which keeps two processes from writing into one run."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from fwk.errors import CheckpointError

LOCK = ".lock"


_held: set[TextIO] = set()


def _let_go() -> None:
    for file in _held:
        file.close()
    _held.clear()


# a forked data-loading worker outlives a killed trainer by seconds, and must not hold the folder for it
os.register_at_fork(after_in_child=_let_go)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Holds the run's folder, which it makes; CheckpointError when another process does. The lock ends with the
    process. Some shared filesystems keep locks within each host: there, a folder that a process of another host took and
    did not give back is used with a warning that names it."""
    mine = f"{os.getpid()} on {socket.gethostname()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = open(folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115  closed below
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise CheckpointError(
            f"cannot use the run folder {str(folder)!r}: {getattr(error, 'strerror', None) or error}"
        ) from error
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise CheckpointError(
                f"{folder} is in use by process {holder}; wait for it, or choose another --run"
            ) from None
        file.seek(0)
        before = file.read().strip()
        if before.partition(" on ")[2] not in ("", mine.partition(" on ")[2]):
            print(
                f"fwk: {folder} was last used by process {before}, which did not give it back; if it still runs there, stop "
                "one of the two",
                file=sys.stderr,
            )
        try:
            file.truncate(0)
            file.write(mine)
            file.flush()
        except OSError as error:
            raise CheckpointError(
                f"cannot use the run folder {folder}: {error.strerror}"
            ) from error
        _held.add(file)
        try:
            yield
        finally:
            if file in _held:  # not in a process forked from this one
                _held.discard(file)
                file.truncate(0)
