"""The lock on a run's folder, which keeps two processes from writing into one run."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from fwk.errors import CheckpointError
from fwk.files import has_locks, try_lock

LOCK = ".lock"  # name of the file in the run's folder; while it is locked it names the holder

logger = logging.getLogger(__name__)
_held: set[TextIO] = set()


def _release_in_child() -> None:
    for file in _held:
        file.close()
    _held.clear()


# a forked data-loading worker outlives a killed trainer by seconds, and must not hold the folder for it
os.register_at_fork(after_in_child=_release_in_child)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Make the run's folder and hold its lock; the lock ends with the process.

    Some network file systems keep locks within each host, or have none. Without locks, the file's content says whether
    a process of this host holds the folder. On both, a folder that a process of another host took and did not release
    is used all the same, with a warning that names the process. Raises CheckpointError where another process holds the
    folder.
    """
    holder = f"{os.getpid()} on {socket.gethostname()}"
    with _lock_file(folder) as file:
        _write_holder(file, folder, holder)
        _held.add(file)
        try:
            yield
        finally:
            if file in _held:  # False in a process that was forked from this one
                _held.discard(file)
                file.truncate(0)


def _lock_file(folder: Path) -> TextIO:
    """Return the folder's lock file, open and locked."""
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = try_lock(path)
        if file is not None:
            return file
        holder = path.read_text(encoding="utf-8").strip() or "unknown"
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise CheckpointError(
            f"cannot use the run folder {str(folder)!r}: {getattr(error, 'strerror', None) or error}"
        ) from error
    raise CheckpointError(_in_use(folder, holder))


def _in_use(folder: Path, holder: str) -> str:
    return f"{folder} is in use by process {holder}; wait for it, or choose another --run"


def _write_holder(file: TextIO, folder: Path, holder: str) -> None:
    """Write this process into the lock file; warn where a process of another host did not release it."""
    file.seek(0)
    last_holder = file.read().strip()
    if not has_locks(file) and _is_running(last_holder):
        raise CheckpointError(_in_use(folder, last_holder))
    if _host(last_holder) not in ("", _host(holder)):
        logger.warning(
            "%s was last used by process %s, which did not release it; if that process still runs, stop one of the two",
            folder,
            last_holder,
        )
    try:
        file.truncate(0)
        file.write(holder)
        file.flush()
    except OSError as error:
        raise CheckpointError(f"cannot use the run folder {folder}: {error.strerror}") from error


def _is_running(holder: str) -> bool:
    """Return whether the holder is a process of this host, other than this one, that has not ended."""
    number = holder.partition(" on ")[0]
    if (
        _host(holder) != socket.gethostname()
        or not number.isdecimal()
        or int(number) == os.getpid()
    ):
        return False
    try:
        os.kill(int(number), 0)
    except PermissionError:  # another user's
        return True
    except (OSError, OverflowError):
        return False
    return True


def _host(holder: str) -> str:
    return holder.partition(" on ")[2]
