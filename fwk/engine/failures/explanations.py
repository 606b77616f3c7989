"""Messages for foreseeable failures of the system: memory, disks, limits, and token ids outside the vocabulary.

An error that was not foreseen keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from fwk import limits
from fwk.engine.failures.stray_tokens import find_stray_noise, find_stray_token
from fwk.engine.feed.workers import is_worker_death
from fwk.engine.run import Run
from fwk.engine.trainer import Trainer
from fwk.errors import CodeFailed, FwkError, RunError

REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EROFS: "choose a place that can be written to",
    errno.EACCES: "choose a place that can be written to",
    errno.EPERM: "choose a place that can be written to",
    errno.EIO: "check the disk",
    errno.ESTALE: "check the network file system",
    errno.EMFILE: "raise the limit (ulimit -n), or lower train.workers",
    errno.ENFILE: "the whole system has too many files open",
}
OUT_OF_FILES = ("Too many open files", "received 0 items of ancdata")
INDEX_ERRORS = ("out of bounds", "out of range", "device-side assert")


@contextmanager
def explaining_errors(trainer: Trainer | None = None) -> Iterator[None]:
    """Turn foreseeable errors inside into a RunError.

    trainer: its state says what was under way; None while the run is built.
    """
    try:
        yield
    except CodeFailed as error:
        # torch reports a dead worker by raising wherever the main thread is: the code that ran is not to blame
        cause = error.__cause__
        foreseen = is_worker_death(cause) or limits.explain(cause) is not None
        message = explain(cause, trainer) if isinstance(cause, Exception) and foreseen else None
        if message is None:
            if trainer is not None:
                error.append(trainer.run.world.what_is_saved())
            raise
        raise RunError(message) from error
    except (FwkError, KeyboardInterrupt):
        raise
    except Exception as error:
        message = explain(error, trainer)
        if message is None:
            raise
        raise RunError(message) from error


def explain(error: Exception, trainer: Trainer | None) -> str | None:
    """Return a message for a foreseeable error, or None."""
    text = " ".join(str(error).split())
    when = f"update {trainer.run.update + 1}: " if trainer is not None else ""
    if isinstance(error, MemoryError) or any(part in text for part in limits.OUT_OF_MEMORY):
        return when + _explain_out_of_memory(text, trainer)
    limit = limits.explain(error)
    if limit is not None:
        return when + limit
    if is_worker_death(error):
        return (
            f"{when}a data-loading worker died ({text[:120]}); it may have run out of memory or of shared memory: "
            "try a smaller train.workers"
        )
    if isinstance(error, OSError) and error.errno in REMEDIES:
        place = f" ({error.filename})" if error.filename else ""
        remedy = REMEDIES[error.errno]
        return (
            f"{when}{os.strerror(error.errno)}{place}; {remedy}, and start the same command again"
        )
    if any(part in text for part in OUT_OF_FILES):
        return (
            f"{when}too many open files; {REMEDIES[errno.EMFILE]}, and start the same command again"
        )
    is_index_error = isinstance(error, IndexError) or any(part in text for part in INDEX_ERRORS)
    if trainer is not None and is_index_error:
        return find_stray_token(trainer.run) or find_stray_noise(trainer.run)
    return None


def _explain_out_of_memory(text: str, trainer: Trainer | None) -> str:
    """Return which shape did not fit into memory, and which setting to change. `text`: the error's message."""
    size = re.search(r"ried to allocate ([\d.]+ ?\w+)", text)
    amount = f" ({size[1]} more were requested)" if size else ""
    if trainer is None:
        return f"out of memory{amount} while the run was built; {limits.memory_remedy()}"
    run, micros = trainer.run, trainer.micros
    if not micros:
        return (
            f"out of memory{amount} outside the forward and backward pass, in {run.world.position}; "
            f"{run.world.what_is_saved()}, and a smaller train.micro_batch leaves more memory free"
        )
    shapes = [
        tuple(micro.batch.mask.shape) if micro.batch.mask is not None else (len(micro.batch),)
        for micro in micros
    ]
    largest = max(shapes, key=np.prod)
    remedy = (
        f"set train.micro_batch={largest[0] // 2}, which computes the same update in smaller pieces"
        if largest[0] > 1
        else "it is one sequence already: lower task.length, or use a smaller model or train.precision=bf16"
    )
    return (
        f"out of memory{amount} in a micro-batch of {' x '.join(map(str, largest))}{_largest_group(run)}; {remedy}; "
        f"{run.world.what_is_saved()}"
    )


def _largest_group(run: Run) -> str:
    """Return ', ...' with the views of the largest encoder call, or '' where no view is encoded."""
    views = max(run.module.plan.encoded, key=len, default=())
    if not views:
        return ""
    if len(views) == 1:
        return f", view {views[0]}"
    return f", {len(views)} views ({', '.join(views)}) encoded together"
