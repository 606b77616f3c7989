"""The stacks of this process, as text."""

from __future__ import annotations

import sys
import threading
import traceback

MAIN_THREAD = threading.main_thread().ident
MOST_FRAMES = 60


def short_stack() -> str:
    """Return the main thread's frames, innermost last; cheap enough to be published all the time."""
    frame = sys._current_frames().get(MAIN_THREAD or 0)
    lines: list[str] = []
    while frame is not None and len(lines) < MOST_FRAMES:
        code = frame.f_code
        lines.append(f'  File "{code.co_filename}", line {frame.f_lineno}, in {code.co_name}')
        frame = frame.f_back
    return "\n".join(reversed(lines))


def all_stacks() -> str:
    """Return the stacks of all threads of this process, the main thread's last.

    The threads of the framework, whose names begin with 'fwk', are left out.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    internal = {ident for ident, name in names.items() if name.startswith("fwk")}
    frames = sorted(sys._current_frames().items(), key=lambda pair: pair[0] == MAIN_THREAD)
    return "".join(
        f"{names.get(ident, 'a thread')}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in frames
        if ident not in internal
    )
