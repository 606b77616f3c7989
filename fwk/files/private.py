"""Folders and files that no other user can have planted or changed, even where several users share their parent."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

from fwk.errors import UserError
from fwk.files import cache_folder, write_atomically

logger = logging.getLogger(__name__)


def private_folder(name: str) -> Path | None:
    """Return the place of this user's folder of that name in the cache; None where the user has no cache."""
    try:
        return cache_folder() / f"{name}-{os.geteuid()}"
    except UserError:  # no home folder
        return None


def read_private(path: Path) -> str | None:
    """Return the text of a file in a private folder; None where it is missing, or others could have written it."""
    try:
        if not _is_private(path.parent.lstat()):
            return None
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with open(handle, encoding="utf-8", errors="replace") as file:
        return file.read() if _is_private(os.fstat(handle)) else None


def write_private(path: Path, text: str) -> None:
    """Write a file in a private folder, which is made where it is missing. Raises OSError where that is not possible.

    Nothing is written into a folder that others can change.
    """
    if make_private(path.parent):
        write_atomically(path, text.encode())
        path.chmod(0o600)


def make_private(folder: Path) -> bool:
    """Make a folder for this user alone; return False, with a warning, where it exists and others can change it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    is_private = _is_private(folder.lstat())
    if not is_private:
        logger.warning("%s can be changed by others, so it is not used", folder)
    return is_private


def _is_private(facts: os.stat_result) -> bool:
    """Return whether a file or folder belongs to this user and can be changed by nobody else."""
    is_plain = stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode)
    return is_plain and facts.st_uid == os.geteuid() and not facts.st_mode & 0o022
