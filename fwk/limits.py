"""Limits of the system on threads, processes and memory: checked before libraries need them, and explained.

Libraries in C do not report such a limit: OpenBLAS interrupts the process, libgomp ends it, sentencepiece aborts it.
So a command tries to start the threads that they will start, before the first of them is imported.
"""

from __future__ import annotations

import errno
import mmap
import os
import resource
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from fwk.errors import RunError

LIBRARIES = ("torch", "numpy", "sentencepiece")
MOST_BLAS_THREADS = 64  # as numpy's OpenBLAS is built
BYTES_PER_THREAD = 40 << 20  # of address space: its stack, and the buffer of OpenBLAS
BYTES_BESIDES = 128 << 20
BESIDES = 2  # threads that a command starts itself, such as the writer of checkpoints

# parts of messages of Python, torch and the C++ library
OUT_OF_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "Cannot allocate memory",
    "cannot allocate memory",
    "bad allocation",
    "std::bad_alloc",
    "Storage size calculation overflowed",
    "failed to map segment",
)
OUT_OF_THREADS = ("can't start new thread", "Resource temporarily unavailable")


class SystemLimit(RunError):
    """A limit of the system keeps a command from working. The message names it."""


def explain(error: BaseException | None) -> str | None:
    """Return a message for an error that a limit on threads, processes or memory causes; None for another error."""
    if not isinstance(error, (MemoryError, OSError, RuntimeError, ImportError)):
        return None
    if getattr(error, "filename", None):  # a file that is locked or lies on a full device
        return None
    text = str(error)
    if any(part in text for part in OUT_OF_THREADS):
        return describe_threads()
    is_memory = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if is_memory or any(part in text for part in OUT_OF_MEMORY):
        return f"out of memory; {memory_remedy()}"
    return None


def describe_threads(remedy: str = "set OMP_NUM_THREADS=1") -> str:
    """Return that no thread or process can be started, the limits, and a remedy besides raising them."""
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    space, _ = resource.getrlimit(
        resource.RLIMIT_AS
    )  # of which each thread takes some for its stack
    limits = []
    if processes != resource.RLIM_INFINITY:
        limits.append(f"the processes and threads of this user (ulimit -u) to {processes}")
    if space != resource.RLIM_INFINITY:
        limits.append(f"the address space (ulimit -v) to {space >> 10} kB")
    where = " and ".join(limits) or "the processes and threads of this user or container"
    return f"cannot start another thread or process: the system limits {where}; raise that, or {remedy}"


def memory_remedy() -> str:
    """Return the limit on the address space with a remedy, or a remedy alone where there is no such limit."""
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    remedy = "use a smaller model or batch"
    if space == resource.RLIM_INFINITY:
        return f"{remedy}, or a machine with more memory"
    return f"the system limits the address space (ulimit -v) to {space >> 10} kB; raise that, or {remedy}"


def require_threads(count: int, remedy: str = "set OMP_NUM_THREADS=1") -> None:
    """Raise SystemLimit where `count` threads cannot be started, by starting and ending them.

    A process counts as one thread. remedy: what needs fewer of them.
    """
    end = threading.Event()
    started = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=end.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        raise SystemLimit(describe_threads(remedy)) from error
    finally:
        end.set()
        for thread in started:
            thread.join()


def library_threads() -> int:
    """Return how many threads numpy and torch start in a process."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    default = _number("OMP_NUM_THREADS", processors)
    blas = min(_number("OPENBLAS_NUM_THREADS", default), MOST_BLAS_THREADS)
    return default - 1 + blas - 1


def _require_address_space() -> None:
    """Raise SystemLimit where the libraries and their threads do not fit into a limited address space."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        return
    torch = find_spec("torch")
    folder = Path(torch.origin).parent / "lib" if torch and torch.origin else Path()
    size = sum(file.stat().st_size for file in folder.glob("*.so*"))
    try:
        size += BYTES_BESIDES + BYTES_PER_THREAD * library_threads()
        mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ).close()
    except OSError as error:
        raise SystemLimit(f"out of memory; {memory_remedy()}") from error


def _number(variable: str, default: int) -> int:
    value = os.environ.get(variable, "")
    return int(value) if value.isascii() and value.isdecimal() and int(value) else default


class _BeforeLibraries(MetaPathFinder):
    """Finds no module; requires the threads of the libraries when the first of them is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        """Return None, after the check where `name` is a library."""
        if name in LIBRARIES and self in sys.meta_path:
            sys.meta_path.remove(self)
            require_threads(library_threads() + BESIDES)
            _require_address_space()


@contextmanager
def checked_before_libraries() -> Iterator[None]:
    """Raise SystemLimit inside where a library that starts threads is imported, and cannot start them."""
    finder = _BeforeLibraries()
    if not any(library in sys.modules for library in LIBRARIES):
        sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.meta_path.remove(finder)
