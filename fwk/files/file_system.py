"""Operations that some file systems lack: locks, symbolic links, and waiting for a folder to be on the disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

# what a system answers where it lacks an operation
UNSUPPORTED = frozenset(
    (
        errno.EPERM,
        errno.EINVAL,
        errno.ENOSYS,
        errno.ENOTSUP,
        errno.EOPNOTSUPP,
        errno.ENOLCK,
    )
)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        sync_handle(handle)
    finally:
        os.close(handle)


def sync_handle(handle: int) -> None:
    """Wait until an open file or folder is on the disk, where its file system can tell."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
