"""The stacks of this process, as text.

`faulthandler` writes them in one piece, without frame objects and without letting another thread run in between.
Walking the frames of a running thread in Python (`sys._current_frames`, `frame.f_back`) from another thread can end
the process with a segmentation fault, seen with Python 3.11 on a busy machine.
"""

from __future__ import annotations

import faulthandler
import linecache
import os
import re
import tempfile
import threading
from typing import IO

MAIN_THREAD = threading.main_thread().ident
MOST_FRAMES = 60

_THREAD = re.compile(r"(?:Thread|Current thread) 0x([0-9a-f]+)")
_FRAME = re.compile(r'  File "(.*)", line (\d+) in (.*)')

Frame = tuple[str, int, str]  # file, line, function


def short_stack() -> str:
    """Return the main thread's frames, innermost last; cheap enough to be published all the time."""
    frames = _stacks().get(MAIN_THREAD or 0, [])[-MOST_FRAMES:]
    return "\n".join(_line(frame) for frame in frames)


def all_stacks() -> str:
    """Return the stacks of all threads of this process with their source lines, the main thread's last.

    The threads of the framework, whose names begin with 'fwk', are left out.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    internal = {ident for ident, name in names.items() if name.startswith("fwk")}
    stacks = sorted(_stacks().items(), key=lambda pair: pair[0] == MAIN_THREAD)
    return "".join(
        f"{names.get(ident, 'a thread')}:\n{''.join(map(_with_source, frames))}"
        for ident, frames in stacks
        if ident not in internal
    )


def _stacks() -> dict[int, list[Frame]]:
    """Return the frames of every thread by its identifier, innermost last; nothing where no file can be opened."""
    try:
        with _memory_file() as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            text = file.read().decode("ascii", errors="replace")
    except OSError:
        return {}
    stacks: dict[int, list[Frame]] = {}
    frames: list[Frame] = []
    for line in text.splitlines():
        if thread := _THREAD.match(line):
            frames = stacks.setdefault(int(thread[1], 16), [])
        elif frame := _FRAME.fullmatch(line):
            frames.insert(0, (frame[1], int(frame[2]), frame[3]))
    return stacks


def _memory_file() -> IO[bytes]:
    """Return a file that needs no disk, where the system has such files."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("fwk stacks"), "w+b")
    return tempfile.TemporaryFile()


def _line(frame: Frame) -> str:
    file, number, function = frame
    return f'  File "{file}", line {number}, in {function}'


def _with_source(frame: Frame) -> str:
    """Return a frame as tracebacks show it, with its source where that can be read."""
    source = linecache.getline(frame[0], frame[1]).strip()
    return f"{_line(frame)}\n" + (f"    {source}\n" if source else "")
