"""Folders in the cache whose content is believed, although several users may share the cache."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from fwk.errors import DataError

SUPERUSER = 0


def create_in_cache(folder: Path) -> None:
    """Create a folder in the cache where it is missing. Raises DataError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"the cache folder {folder} cannot be created ({error.strerror}); set FWK_CACHE to a folder that can be "
            "written"
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DataError(
            f"the cache folder {folder} cannot be written; set FWK_CACHE to a folder of your own"
        )


def require_own(folder: Path) -> None:
    """Raise DataError where another user may have made or changed a folder of the cache; it may be missing.

    In a cache that all users can write, anybody can make a folder under the name that is looked for. What the superuser
    made is believed. A group that can write is, too: many systems give each user a group of their own.
    """
    try:
        facts = folder.lstat()
    except OSError:
        return
    if not stat.S_ISDIR(facts.st_mode):
        reason = "is not a folder"
    elif facts.st_uid not in (os.geteuid(), SUPERUSER):
        reason = "belongs to another user"
    elif facts.st_mode & stat.S_IWOTH:
        reason = "can be changed by every user"
    else:
        return
    raise DataError(
        f"{folder} {reason}, so its content is not used; set FWK_CACHE to a folder of your own"
    )
