"""The lock on a run's folder, which keeps two processes from writing into one run."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from fwk.errors import CheckpointError, FolderInUse
from fwk.files import has_locks, try_temporary_lock
from fwk.files.kinds import LOCK
from fwk.files.replacing import truncate

HOLDER = re.compile(r"\d+ on ")  # the beginning of what a lock file says while it is locked
ATTEMPTS = 3  # to lock a file that other processes remove

logger = logging.getLogger(__name__)
_held: set[TextIO] = set()


def _release_in_child() -> None:
    for file in _held:
        file.close()
    _held.clear()


# a forked data-loading worker outlives a killed trainer by seconds, and must not hold the folder for it
os.register_at_fork(after_in_child=_release_in_child)


@contextmanager
def folder_lock(folder: Path) -> Iterator[bool]:
    """Make the run's folder and hold its lock; the lock ends with the process. Yield whether the folder was made.

    Some network file systems keep locks within each host, or have none. Without locks, the file's content says whether
    a process of this host holds the folder. On both, a folder that a process of another host took and did not release
    is used all the same, with a warning that names the process. Raises CheckpointError where another process holds the
    folder.
    """
    holder = f"{os.getpid()} on {socket.gethostname()}"
    file, is_made = _lock_file(folder)
    with file:
        _write_holder(file, folder, holder)
        _held.add(file)
        try:
            yield is_made
        finally:
            if file in _held:  # False in a process that was forked from this one
                _held.discard(file)
                truncate(file)


def holder_of(folder: Path) -> str | None:
    """Return the process that holds a run's folder, as "PID on HOST"; None where no process does. Makes nothing."""
    path = folder / LOCK
    try:
        if not path.is_file():
            return None
        file = try_temporary_lock(path)
        holder = path.read_text(encoding="utf-8").strip()
    except OSError:  # it was removed meanwhile, or cannot be used, which the run itself will say
        return None
    if file is None:
        return holder or "unknown"
    with file:
        return holder if not has_locks(file) and _is_running(holder) else None


def _lock_file(folder: Path) -> tuple[TextIO, bool]:
    """Return the folder's lock file, open and locked, and whether the folder was made."""
    holder, is_made = "unknown", False
    try:
        os.path.abspath(folder).encode()  # config.yaml holds it
        for _ in range(ATTEMPTS):
            is_made = _make(folder) or is_made
            file = try_temporary_lock(folder / LOCK)
            if file is not None:
                return file, is_made
            # another process holds it, or has just removed the folder of a command that was wrong
            with suppress(FileNotFoundError):
                holder = (folder / LOCK).read_text(encoding="utf-8").strip() or "unknown"
                break
    except UnicodeEncodeError:
        raise CheckpointError(
            f"cannot use the run folder {str(folder)!r}: its path is not UTF-8 text; choose another --run"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise CheckpointError(
            f"cannot use the run folder {str(folder)!r}: {getattr(error, 'strerror', None) or error}"
        ) from error
    raise FolderInUse(_in_use(folder, holder))


def _in_use(folder: Path, holder: str) -> str:
    return f"{folder} is in use by process {holder}; wait for it, or choose another --run"


def _make(folder: Path) -> bool:
    """Make a folder; return False where it exists."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        if not folder.is_dir():
            raise
        return False
    return True


def _write_holder(file: TextIO, folder: Path, holder: str) -> None:
    """Write this process into the lock file; warn where a process of another host did not release it."""
    file.seek(0)
    last_holder = file.read(1000).strip()
    if last_holder and not HOLDER.match(last_holder):
        raise CheckpointError(
            f"{folder / LOCK} was written by another program; choose another --run"
        )
    if not has_locks(file) and _is_running(last_holder):
        raise FolderInUse(_in_use(folder, last_holder))
    if _host(last_holder) not in ("", _host(holder)):
        logger.warning(
            "%s was last used by process %s, which did not release it; if that process still runs, stop one of the two",
            folder,
            last_holder,
        )
    try:
        truncate(file)
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
