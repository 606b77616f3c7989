"""Scripts that start processes without a main guard.

Each process of the start method `spawn` runs the script that started it again, as a module. Without a main guard the
script then comes to the same call again, in a process that waits for its parent, which waits for that process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from multiprocessing.process import BaseProcess, current_process

from fwk.errors import FwkError, RunError, UserError

_UNGUARDED = 86  # the exit status by which such a process tells its parent


def leave_if_script_is_imported() -> None:
    """End this process where it is one that another has started, and is still importing the script of that one."""
    if getattr(
        current_process(), "_inheriting", False
    ):  # as the module multiprocessing itself checks
        sys.exit(_UNGUARDED)


def explain_death(processes: Iterable[BaseProcess], count: int) -> FwkError:
    """Return the error for a pool of `count` processes that tokenize text, one of which died."""
    if any(process.exitcode == _UNGUARDED for process in processes):
        return UserError(
            f"tokenizing with processes={count} starts processes that run this script again from its beginning; put "
            'its calls below if __name__ == "__main__":, or set the number of processes to 1'
        )
    return RunError(
        "a preprocessing process died (killed, or out of memory); run the same command again to continue, "
        "with fewer --processes if memory was short"
    )
