"""Faults inside a training process. The environment variable FAULT selects one, as JSON:

    {"act": name, "place": "begin" | "update" | "save" | "validate", "at": n, "rank": r, and the arguments of the act}

`at` is the update about to begin, or the number of the save, or of the forward pass in evaluation, counted from 1. Both
trainers call `reach` at the same places, and an act does the same to both. A process that torchrun has restarted is
left alone. The folder that FAULT_REACHED names is made before the act, so that a fault that never happened is noticed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SPEC = json.loads(os.environ.get("FAULT") or "null")
FIRST_START = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"


def meant(place: str) -> bool:
    """Return True where this process has a fault at such a place."""
    rank = int(os.environ.get("RANK", "0"))
    return bool(SPEC) and FIRST_START and SPEC["place"] == place and SPEC.get("rank", rank) == rank


def reach(place: str, number: int | None = None, **subject: Any) -> None:
    """Perform the act of FAULT, where it belongs to this place; trainers call this at every place."""
    if meant(place) and SPEC.get("at") in (None, number):
        taken = {
            key: value for key, value in SPEC.items() if key not in ("act", "place", "at", "rank")
        }
        if "FAULT_REACHED" in os.environ:
            os.makedirs(os.environ["FAULT_REACHED"], exist_ok=True)  # needs no file descriptor
        globals()[f"act_{SPEC['act']}"](SimpleNamespace(**subject), **taken)


# -- to the process --------------------------------------------------------------------------------------------------


def act_signal(
    _: Any, name: str, times: int = 1, group: bool = False, first: float = 0.0, then: float = 0.0
) -> None:
    """Send a signal to this process, or to its whole group, as a terminal does for Ctrl-C; wait before and after."""
    time.sleep(first)
    for _ in range(times):
        (os.killpg if group else os.kill)(0 if group else os.getpid(), getattr(signal, name))
        time.sleep(0.05)
    time.sleep(then)


def act_kill_when_written(_: Any, pattern: str, files: int, seconds: float = 0.0) -> None:
    """Send SIGKILL `seconds` after so many files match the pattern; a child process watches."""
    parent = os.getpid()
    if os.fork():
        return
    end = time.monotonic() + 20
    while len(list(Path().glob(pattern))) < files and time.monotonic() < end:
        pass
    time.sleep(seconds)
    os.kill(parent, signal.SIGKILL)
    os._exit(0)


def act_exit(_: Any, status: int = 0) -> None:
    os._exit(status)


def act_raise(_: Any) -> None:
    raise ZeroDivisionError("raised by the fault matrix")


def act_sleep(_: Any, seconds: float) -> None:
    time.sleep(seconds)


def act_pause(_: Any, limit: float = 60.0) -> None:
    """Write a file `paused`, and wait for a file `go`."""
    Path("paused").touch()
    end = time.monotonic() + limit
    while not Path("go").exists() and time.monotonic() < end:
        time.sleep(0.05)


def act_worker(_: Any, name: str) -> None:
    """Send a signal to the first data-loading worker."""
    os.kill(multiprocessing.active_children()[0].pid, getattr(signal, name))


def act_clock(_: Any, seconds: float) -> None:
    """Let the wall clock jump; the monotonic one does not, as with a correction by NTP or by hand."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + int(seconds * 1e9)


# -- to the disk -----------------------------------------------------------------------------------------------------


def act_fill(_: Any, path: str, leave: int = 0) -> None:
    """Fill the disk except for `leave` bytes."""
    with open(path, "wb", buffering=0) as file:
        block = 1 << 16
        while block:
            try:
                file.write(b"x" * block)
            except OSError:
                block //= 2
        if leave:
            file.truncate(max(0, file.tell() - leave))


def act_mount_over(_: Any, path: str, what: str) -> None:
    """Let a file be another one; a link would not be followed."""
    subprocess.run(["mount", "--bind", what, path], check=True)


def act_fill_behind_link(_: Any, path: str, small: str) -> None:
    """Replace a folder by a link to a small disk, and fill that disk."""
    shutil.move(path, f"{path}-before")
    os.symlink(os.path.abspath(small), path)
    act_fill(_, f"{small}/ballast")


def act_remove(_: Any, path: str) -> None:
    if not os.path.isdir(path):
        os.unlink(path)
        return
    os.rename(path, f"{path}-gone")  # at once: a checkpoint may be in the middle of being written
    shutil.rmtree(f"{path}-gone", ignore_errors=True)


def act_cut(_: Any, pattern: str, size: int = 0) -> None:
    for path in Path().glob(pattern):
        os.truncate(path, size)


def act_overwrite(_: Any, pattern: str) -> None:
    """Overwrite bytes in place: every second byte becomes a copy of the one two before."""
    for path in Path().glob(pattern):
        content = bytearray(path.read_bytes())
        start = min(256, len(content) // 2)  # keep the header of a .npy file
        content[start::2] = content[start::2][2:] + content[start::2][:2]
        with open(path, "r+b") as file:
            file.write(content)


# -- to the model ----------------------------------------------------------------------------------------------------


def _weight(subject: Any) -> Any:
    """Return the weight of the last linear layer inside the encoder."""
    named = [
        (name, p)
        for name, p in subject.model.named_parameters()
        if p.dim() == 2 and "layer" in name
    ]
    return named[-1][1]


def act_nan_weight(subject: Any) -> None:
    _weight(subject).data[0, 0] = float("nan")


def act_nudge_weight(subject: Any) -> None:
    _weight(subject).data[0, 0] += 0.01


def act_bad_gradient(subject: Any, value: str = "inf") -> None:
    """Change one entry of one gradient, in the next backward pass only."""

    def spoil(gradient: Any) -> Any:
        handle.remove()
        gradient = gradient.clone()
        gradient[0, 0] = float(value)
        return gradient

    handle = _weight(subject).register_hook(spoil)


def act_bad_activation(subject: Any, value: str = "nan") -> None:
    """Change the output of the encoder's last layer norm for one sequence, in the next forward pass only."""

    def spoil(module: Any, arguments: Any, output: Any) -> Any:
        handle.remove()
        output = output.clone()
        output[0] = float(value)
        return output

    norms = [
        m
        for name, m in subject.model.named_modules()
        if type(m).__name__ == "LayerNorm" and "layer" in name
    ]
    handle = norms[-1].register_forward_hook(spoil)


def act_nan_data(subject: Any) -> None:
    subject.run.task.images[:] = float("nan")


def act_skip_update(subject: Any) -> None:
    """Let this rank count one update too many."""
    if hasattr(subject, "run"):
        subject.run.update += 1
    else:
        subject.state.global_step += 1


def act_other_order(subject: Any) -> None:
    """Let this rank read its examples in another order."""
    if not hasattr(subject, "run"):
        return  # in the other trainer it is another seed of the sampler, see `hf_train.py`
    order = subject.run.order
    subject.run.order = type(order)(999, {"a": len(order)})
