"""Keeps files of the working directory from being imported because a command was started there.

Python puts the working directory first on `sys.path` for `python -m`, `python -c` and interactive sessions. An unpacked
archive may hold a `json.py`, or the metadata of a distribution that claims to be a plugin, and a command that is
started there must not run either. Directories that the user put on the path (PYTHONPATH) stay.

What Python imports before `fwk` is out of reach: `PYTHONSAFEPATH=1` (Python 3.11) or `python -P` covers that too.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SAFE_PATH = "PYTHONSAFEPATH"
PACKAGE = "fwk"

_left = False  # whether `leave` removed the entry


def leave() -> None:
    """Remove the working directory from the path of `python -m fwk...`, unless `fwk` itself was found there."""
    global _left
    runs_module = sys.argv[:1] == ["-m"] and _module_on_command_line() == PACKAGE
    if not runs_module or not _starts_with_working_directory():
        return
    if not _is_working_directory(str(Path(__file__).parents[2])):
        del sys.path[0]
        _left = True


def search_path() -> list[str]:
    """Return `sys.path` without the working directory, where Python added it by itself."""
    started_as_module = getattr(sys.modules.get("__main__"), "__spec__", None) is not None
    skipped = int(started_as_module and not _left and _starts_with_working_directory())
    return [entry for entry in sys.path[skipped:] if entry]


@contextmanager
def kept_from_children() -> Iterator[None]:
    """Start Python processes without the working directory on their path inside the block (from Python 3.11 on).

    Data-loading workers start as `python -c`, and import the standard library before they are told their path.
    """
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SAFE_PATH]
        else:
            os.environ[SAFE_PATH] = before


def _module_on_command_line() -> str:
    """Return the top-level package of the module that Python was started with by `-m`; '' without one."""
    for word, following in zip(sys.orig_argv[1:], [*sys.orig_argv[2:], ""]):
        if flag := re.fullmatch(
            r"-[A-Za-z]*?m(.*)", word
        ):  # as in '-m fwk.flops', '-um fwk.flops', '-mfwk.flops'
            return (flag[1] or following).partition(".")[0]
    return ""


def _starts_with_working_directory() -> bool:
    safe = getattr(sys.flags, "safe_path", False)  # Python 3.10 has none
    return not safe and bool(sys.path) and _is_working_directory(sys.path[0])


def _is_working_directory(entry: str) -> bool:
    try:
        return os.path.samefile(entry or os.curdir, os.curdir)
    except OSError:  # the working directory or the entry does not exist
        return False
