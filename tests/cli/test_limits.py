"""Limits of the system on threads, processes and address space end a command with one sentence that names them."""

from __future__ import annotations

import errno
import importlib
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.paths import ROOT

from fwk import limits
from fwk.cli.common import run_command
from fwk.components import entry
from fwk.engine.failures.explanations import explaining_errors
from fwk.errors import HookFailed, RunError
from fwk.limits import SystemLimit, checked_before_libraries, explain, require_threads

THREADS = "cannot start another thread or process: the system limits the processes and threads of this user"


@pytest.fixture
def limit(monkeypatch):
    """A function that pretends a limit of the system."""
    given = {}
    monkeypatch.setattr(
        resource, "getrlimit", lambda kind: (given.get(kind, resource.RLIM_INFINITY),) * 2
    )
    return given.__setitem__


def no_more_threads(monkeypatch, allowed: int) -> list[threading.Thread]:
    """Let the start of a thread fail as Python does, once `allowed` were started."""
    started, start = [], threading.Thread.start

    def start_or_fail(thread: threading.Thread) -> None:
        if len(started) == allowed:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_fail)
    return started


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("can't start new thread"),
        BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)),
        RuntimeError("Resource temporarily unavailable"),
    ],
)
def test_a_limit_on_processes_is_named(limit, error):
    assert explain(error) == f"{THREADS} or container; raise that, or set OMP_NUM_THREADS=1"
    limit(resource.RLIMIT_NPROC, 10)
    assert explain(error) == f"{THREADS} (ulimit -u) to 10; raise that, or set OMP_NUM_THREADS=1"
    limit(resource.RLIMIT_AS, 1 << 30)
    assert "(ulimit -u) to 10 and the address space (ulimit -v) to 1048576 kB" in explain(error)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_a_limit_on_memory_is_named(limit, error):
    assert explain(error) == (
        "out of memory; use a smaller model or batch, or a machine with more memory"
    )
    limit(resource.RLIMIT_AS, 1 << 30)
    assert "the system limits the address space (ulimit -v) to 1048576 kB; raise" in explain(error)


@pytest.mark.parametrize(
    "error",
    [
        None,
        KeyError("can't start new thread"),
        RuntimeError("another"),
        ImportError("no module"),
        BlockingIOError(errno.EAGAIN, "write could not complete without blocking", 0),
        BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), "locked.txt"),
    ],
)
def test_other_errors_are_no_limit(error):
    assert explain(error) is None


def test_threads_are_tried_and_ended(monkeypatch):
    require_threads(3)
    started = no_more_threads(monkeypatch, 2)
    with pytest.raises(SystemLimit, match="raise that, or lower train.workers"):
        require_threads(3, "lower train.workers")
    assert len(started) == 2 and not any(thread.is_alive() for thread in started)


def test_threads_are_tried_before_a_library_is_imported(monkeypatch):
    monkeypatch.setattr(limits, "LIBRARIES", ("a_library_in_c",))
    path = list(sys.meta_path)
    with checked_before_libraries():
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("a_library_in_c")
    no_more_threads(monkeypatch, 0)
    with checked_before_libraries():
        with pytest.raises(SystemLimit):
            importlib.import_module("a_library_in_c")
    assert sys.meta_path == path


@pytest.mark.parametrize("variables, threads", [({}, 6), ({"OMP": 1}, 0), ({"OPENBLAS": 1}, 3)])
def test_variables_say_how_many_threads_libraries_start(monkeypatch, variables, threads):
    for name in ("OMP", "OPENBLAS"):
        monkeypatch.delenv(f"{name}_NUM_THREADS", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(f"{name}_NUM_THREADS", str(value))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert limits.library_threads() == threads


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread")])
def test_every_command_ends_with_one_sentence(capsys, error):
    def body(_argv: object) -> int:
        raise error

    assert run_command("fwk-test", body, []) == 1
    said = capsys.readouterr().err
    assert said == f"fwk-test: error: {explain(error)}\n"


def test_no_plugin_is_blamed_for_a_limit(monkeypatch):
    def fail(_module: str) -> None:
        raise ImportError("libtorch_cpu.so: failed to map segment from shared object")

    monkeypatch.setattr(entry.importlib, "import_module", fail)
    with pytest.raises(SystemLimit, match="out of memory"):
        entry.import_module("fwk.tasks.mlm", "fwk")


def test_no_hook_is_blamed_for_a_limit():
    error = RuntimeError("can't start new thread")
    with pytest.raises(RunError, match="cannot start another thread"), explaining_errors():
        raise HookFailed("fwk_run_begin", "tensorboard", error) from error


# -- real limits -------------------------------------------------------------------------------------------------------

# a user without other processes; it may read what root may read, such as the interpreter
USER = ("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups")
READS = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
SMALL = ["model.layers=1", "model.width=8", "model.heads=2", "model.inner=8", "train.updates=1"]


def limited(folder: Path, limit: str, module: str, *arguments: str) -> tuple[int, list[str]]:
    """Run a command under a limit of the shell and return its exit status and the lines of standard error."""
    folder.chmod(0o777)
    words = [sys.executable, "-m", f"fwk.cli.{module}", *arguments]
    command = ["bash", "-c", f'ulimit {limit}; exec "$@"', "bash", *words]
    if limit.startswith("-u"):
        command = [*USER, *READS, *command]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder), "TMPDIR": str(folder)}
    variables.update(OMP_NUM_THREADS="4", XDG_CACHE_HOME=str(folder / "cache"))
    done = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stderr.splitlines()


@pytest.fixture
def open_folder(tmp_path):
    """A folder that another user reaches."""
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    (tmp_path / "text.txt").write_text(
        "\n\n".join(f"The bridge {i} stands over the river {i * 7}." for i in range(3_000))
    )
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"),
    reason="only root can become a user without processes",
)
@pytest.mark.parametrize("allowed", [2, 5])
def test_too_few_processes_are_one_sentence(open_folder, allowed):
    for module, arguments in (
        ("train", [*SMALL, "--run", "run", "train.workers=8"]),
        ("preprocess", ["text.txt", "--output", "store", "--processes", "8", "--vocabulary", "90"]),
    ):
        status, said = limited(open_folder, f"-u {allowed}", module, *arguments)
        errors = [line for line in said if "error:" in line]
        assert status == 1 and len(errors) == 1 and THREADS in errors[0]
        assert f"(ulimit -u) to {allowed}" in errors[0]
        assert not any("Traceback" in line or "OpenBLAS" in line for line in said)
    assert not (open_folder / "store").exists()


@pytest.mark.slow
@pytest.mark.parametrize("space", [200_000, 400_000, 600_000])
def test_too_little_address_space_is_one_sentence(open_folder, space):
    status, said = limited(open_folder, f"-v {space}", "train", *SMALL, "--run", "run")
    assert status == 1 and len(said) == 1 and f"(ulimit -v) to {space} kB" in said[0]
    assert not (open_folder / "run").exists()


@pytest.mark.slow
def test_help_needs_neither_threads_nor_memory(open_folder):
    limited(open_folder, "-n 1000", "train", "--help")  # makes the index of components
    assert limited(open_folder, "-v 100000", "train", "--help")[0] == 0
