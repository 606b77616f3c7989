"""What can be foreseen to go wrong beneath us, as one sentence: memory, disks, limits of the system, token ids that no
vocabulary has. What is not foreseen keeps its traceback."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from fwk.engine.feed.workers import is_worker_death
from fwk.errors import FwkError, RunError

if TYPE_CHECKING:
    from fwk.engine.run import Run
    from fwk.engine.trainer import Trainer

ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EROFS: "choose a place that can be written",
    errno.EACCES: "choose a place that can be written",
    errno.EPERM: "choose a place that can be written",
    errno.EIO: "look after the disk",
    errno.ESTALE: "look after the shared disk",
    errno.EMFILE: "raise the limit (ulimit -n), or lower train.workers",
    errno.ENFILE: "the whole system has too many files open",
    errno.EAGAIN: "raise the limit of processes (ulimit -u)",
}
NO_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "Cannot allocate memory",
    "bad allocation",
    "std::bad_alloc",
    "Storage size calculation overflowed",
)


@contextmanager
def explaining_errors(trainer: Trainer | None = None) -> Iterator[None]:
    """Errors inside that can be foreseen become a RunError. trainer: whose state says what was under way."""
    try:
        yield
    except (FwkError, KeyboardInterrupt):
        raise
    except Exception as error:
        told = explain(error, trainer)
        if told is None:
            raise
        raise RunError(told) from error


def explain(error: Exception, trainer: Trainer | None) -> str | None:
    """One sentence, or None for what was not foreseen."""
    run = trainer.run if trainer is not None else None
    said = " ".join(str(error).split())
    when = f"update {run.update + 1}: " if run is not None else ""
    if isinstance(error, MemoryError) or any(words in said for words in NO_MEMORY):
        return when + out_of_memory(said, trainer)
    if is_worker_death(error):  # torch's handler of SIGCHLD raises wherever the main thread is
        return (
            f"{when}a data-loading worker died ({said[:120]}); it may have run out of memory or of shared memory: try a "
            "smaller train.workers"
        )
    if isinstance(error, OSError) and error.errno in ADVICE:
        place = f" ({error.filename})" if error.filename else ""
        return f"{when}{os.strerror(error.errno)}{place}; {ADVICE[error.errno]}, and start the same command again"
    if "Too many open files" in said or "received 0 items of ancdata" in said:
        return (
            f"{when}too many open files; {ADVICE[errno.EMFILE]}, and start the same command again"
        )
    if run is not None and (
        isinstance(error, IndexError)
        or "out of bounds" in said
        or "out of range" in said
        or "device-side assert" in said
    ):
        return stray_token(run)
    return None


def out_of_memory(said: str, trainer: Trainer | None) -> str:
    """Which shape did not fit, and what to set."""
    size = re.search(r"ried to allocate ([\d.]+ ?\w+)", said)
    asked = f" (it takes {size[1]} more)" if size else ""
    if trainer is None:
        return (
            f"out of memory{asked} while the run was built: choose a smaller model or more memory"
        )
    run, micros = trainer.run, trainer.micros
    if not micros:
        return (
            f"out of memory{asked} outside the forward and backward pass, in {run.world.position}; the last checkpoint is "
            "good, and a smaller train.micro_batch leaves more room"
        )
    shape = max(
        (
            tuple(micro.batch.mask.shape) if micro.batch.mask is not None else (len(micro.batch),)
            for micro in micros
        ),
        key=np.prod,
    )
    together = max(
        run.module.plan.encoded,
        key=len,
        default=(),
    )
    views = (
        f", {len(together)} views ({', '.join(together)}) encoded together"
        if len(together) > 1
        else f", view {together[0]}"
        if together
        else ""
    )
    advice = (
        f"set train.micro_batch={shape[0] // 2}, which computes the same update in smaller pieces"
        if shape[0] > 1
        else "it is one sequence already: lower task.length, or choose a smaller model or train.precision=bf16"
    )
    return f"out of memory{asked} in a micro-batch of {' x '.join(map(str, shape))}{views}; {advice}; the last checkpoint is intact"


def stray_token(run: Run) -> str | None:
    """The first token id of this update, or of the next ones, which may have been read already, that the vocabulary does
    not have; None when there is none. Reads the examples anew: after a failed assertion nothing on a GPU can be seen."""
    try:
        size = run.task.vocabulary().size
        batch = run.config.train.batch
        draws = run.update * batch + np.arange(max(batch, min(64 * batch, 4096)), dtype=np.int64)
        numbers, indices, _ = run.order.locate(draws)
        sources = list(run.task.sources("train").items())
        for draw, number, index in zip(draws, numbers.tolist(), indices.tolist(), strict=True):
            name, source = sources[number]
            tokens = run.task.collate([source[index]], np.array([draw]), np.array([number])).inputs[
                "tokens"
            ]
            wrong = tokens[(tokens < 0) | (tokens >= size)]
            if len(wrong):
                return (
                    f"update {run.update + 1}: example {index} of source '{name}' (draw {draw}) has the token id "
                    f"{int(wrong[0])}, and the vocabulary holds 0 to {size - 1}; the data were made with another "
                    "tokenizer, or were damaged"
                )
    except (FwkError, AttributeError, KeyError, LookupError):
        pass  # a task without tokens
    return None
