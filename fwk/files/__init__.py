"""Paths that users give, atomic writes, content hashes, locks, and the cache folder.

`kinds` knows the folders that fwk writes, `replacing` is the one place that deletes and replaces, and `outputs` opens
what commands write where a user says.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO, TypedDict

from fwk.errors import UserError
from fwk.files.file_system import UNSUPPORTED, sync, sync_handle
from fwk.files.replacing import write_atomically

logger = logging.getLogger(__name__)
BLOCK = 1 << 22  # bytes hashed and written at once


class FileFacts(TypedDict):
    """What a manifest records of a file."""

    sha256: str
    bytes: int


def expand_user(path: str) -> str:
    """Return a path that a user gave, with the home folder in place of `~` or `~NAME` at its beginning.

    A relative path stays relative, to the current folder. A file that is called ~NAME is meant as it is. Raises
    UserError where no home folder is known.
    """
    expanded = os.path.expanduser(path)
    first = path.split("/", 1)[0]
    if expanded != path or not path.startswith("~") or (first != "~" and os.path.lexists(first)):
        return expanded
    remedy = "set HOME, or give the path in full" if first == "~" else "give the path in full"
    raise UserError(f"{path}: no home folder is known for {first}; {remedy}")


def user_path(path: str | Path) -> Path:
    """Return a path that a user gave as `expand_user` reads it."""
    return Path(expand_user(os.fspath(path)))


def digest(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    hashed = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            hashed.update(block)
    return hashed.hexdigest()


def write_hashed(path: Path, parts: Iterable[bytes | memoryview]) -> FileFacts:
    """Write a file, wait until it is on the disk, and return its sha256 and size, taken on the way."""
    hashed, size = hashlib.sha256(), 0
    with open(path, "wb") as file:
        for part in parts:
            for start in range(0, len(part), BLOCK):
                block = part[start : start + BLOCK]
                hashed.update(block)
                file.write(block)
            size += len(part)
        file.flush()
        sync_handle(file.fileno())
    return {"sha256": hashed.hexdigest(), "bytes": size}


def cache_folder() -> Path:
    """Return $FWK_CACHE, else $XDG_CACHE_HOME/fwk, else ~/.cache/fwk, without making the folder.

    Raises UserError where none of them is known, or where it is no possible path.
    """
    folder = _chosen_cache_folder()
    try:
        os.lstat(folder)
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
            return folder  # whoever makes it says why that fails
        raise UserError(
            f"the cache folder {str(folder)[:60]}... cannot be used ({error.strerror}); set FWK_CACHE to a folder that "
            "can be written to"
        ) from None
    return folder


def _chosen_cache_folder() -> Path:
    if chosen := os.environ.get("FWK_CACHE"):
        return user_path(chosen)
    try:
        return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "fwk"
    except UserError:  # a user without an entry in the system's list, as containers have
        raise UserError(
            "there is no place for the cache: HOME is not set, and the user has no home folder; set FWK_CACHE to a "
            "folder that can be written to"
        ) from None


def try_lock(path: Path) -> TextIO | None:
    """Return a file, locked against other processes, or None where another process holds the lock.

    The file is created where it is missing. Closing it releases the lock, as does the end of the process. A link is not
    followed: it could lead to any file. Raises OSError where there is one. On a file system without locks (Lustre, NFS
    without a lock service) the file is returned without a lock, with a warning.
    """
    import fcntl  # Windows lacks it

    file = open(path, "a+", encoding="utf-8", opener=open_plain)  # noqa: SIM115  (the caller closes it)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            file.close()
            raise
        logger.warning(
            "%s: its file system has no locks (%s); do not start two processes that write there",
            path,
            error.strerror,
        )
    return file


def has_locks(file: TextIO) -> bool:
    """Return whether a file that `try_lock` returned is locked, which some file systems cannot do."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def open_plain(path: str, flags: int) -> int:
    """Open a file that is no link: an `opener` of `open`. Raises OSError for a link."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def try_temporary_lock(path: Path) -> TextIO | None:
    """Return a locked file as `try_lock` does, for a file that its holder removes at the end."""
    file = try_lock(path)
    if file is None:
        return None
    # a lock on a file that was removed meanwhile protects nothing
    if os.path.lexists(path) and os.path.samestat(os.fstat(file.fileno()), os.lstat(path)):
        return file
    file.close()
    return None


__all__ = [
    "BLOCK",
    "UNSUPPORTED",
    "FileFacts",
    "cache_folder",
    "digest",
    "expand_user",
    "has_locks",
    "open_plain",
    "sync",
    "sync_handle",
    "try_lock",
    "try_temporary_lock",
    "user_path",
    "write_atomically",
    "write_hashed",
]
