"""A lock between processes that build the same thing: one builds it, the others wait."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from fwk.data.main_guard import leave_if_script_is_imported
from fwk.errors import RunError
from fwk.files import try_temporary_lock
from fwk.files.replacing import remove_lock

logger = logging.getLogger(__name__)

_QUIET_FOR = 2.0  # seconds of waiting that are not worth a message


@contextmanager
def lock(
    path: Path, waiting: str = "", quiet: bool = False, timeout: float = 3600.0
) -> Iterator[None]:
    """Hold an exclusive lock between processes: a file that exists only while it is locked.

    waiting: logged, unless `quiet`, when another process holds the lock. The system releases the lock when its holder
    dies. Raises RunError where it is not free in `timeout` seconds.
    """
    leave_if_script_is_imported()
    if os.name == "nt":
        # without locks, two processes may do the same work; renames keep the result intact
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _wait(path, "" if quiet else waiting, timeout)
    try:
        yield
    finally:
        remove_lock(file, path)
        file.close()


def _wait(path: Path, message: str, timeout: float) -> TextIO:
    """Return the locked file as soon as no other process holds the lock."""
    began = time.monotonic()
    while True:
        file = try_temporary_lock(path)
        if file is not None:
            return file
        waited = time.monotonic() - began
        if message and waited > _QUIET_FOR:
            logger.info("%s", message)
            message = ""
        if waited > timeout:
            raise RunError(f"waited {timeout:.0f} s for another process that holds {path}")
        time.sleep(0.05)
