"""The frame of every command: how it starts, how errors end it, and its exit status."""

from __future__ import annotations

import argparse
import atexit
import codecs
import errno
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import Protocol

from fwk.cli.messages import (
    first_rank,
    first_rank_of_host,
    logging_to_stderr,
    warn,
    warnings_in_one_line,
)
from fwk.cli.parsing import Parser
from fwk.components.trust import trusting
from fwk.contracts.options import Plain
from fwk.errors import (
    ConfigError,
    FwkError,
    PluginError,
    RunError,
    UnknownName,
    UntrustedCode,
    UserError,
)
from fwk.limits import SystemLimit, checked_before_libraries, explain

INTERRUPTED = 130  # as shells report a process that SIGINT ended
# every rank finds the same fault in a command line or a plugin; other faults may be one rank's alone
_ON_EVERY_RANK = (ConfigError, UnknownName, PluginError)

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # without a file's name: of a stream


class Main(Protocol):
    """The function behind a command's name: arguments (default: the process's own) -> exit status."""

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """Run the command."""


def command(
    name: str, parser: Callable[[], Parser]
) -> Callable[[Callable[[argparse.Namespace], int]], Main]:
    """Make a command of a function from parsed arguments to an exit status.

        @command("fwk-export", parser)
        def main(arguments: argparse.Namespace) -> int: ...

    What the function raises becomes one message and an exit status, as `run_command` describes.
    """

    def decorate(body: Callable[[argparse.Namespace], int]) -> Main:
        def parse_and_run(argv: Sequence[str]) -> int:
            try:
                arguments = parser().parse(argv)
            except SystemExit as end:  # argparse printed the help or the version
                return int(end.code or 0)
            with trusting(getattr(arguments, "trust", False)):
                return body(arguments)

        def main(argv: Sequence[str] | None = None) -> int:
            return run_command(name, parse_and_run, argv)

        main.__doc__ = body.__doc__
        return main

    return decorate


def run_command(name: str, body: Callable[[Sequence[str]], int], argv: Sequence[str] | None) -> int:
    """Run a command's body and return its exit status.

    An error becomes one message: 2 for wrong input, 1 for a failed run, 130 for an interrupt. Anything else that is
    raised is a bug and keeps its traceback. Of several ranks only the first prints what all of them find. `argv`: None
    for the process's own arguments; the process then ends with this command.
    """
    status = 1
    _open_missing_streams()
    try:
        with logging_to_stderr(), warnings_in_one_line(name):
            status = _run(name, body, sys.argv[1:] if argv is None else argv)
        return status
    finally:
        if argv is None:
            _end_of_process.status = status


def _open_missing_streams() -> None:
    """Open the null device for each standard stream that was closed before the command began (`>&-`).

    Python leaves such a stream None. Without this the next file that is opened, such as a checkpoint, takes the
    stream's descriptor, and libraries in C write their messages into it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115  (stays open)
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def _run(name: str, body: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # unless a test or a notebook replaced it
            stream.reconfigure(errors="replace")  # '?' on a terminal without UTF-8
    try:
        with checked_before_libraries():
            status = body(list(argv))
        _flush_output(name)
        return status
    except FwkError as error:
        _print_error(name, error)
        return error.exit_status
    except KeyboardInterrupt as interrupt:
        if first_rank():
            advice = f". {interrupt}" if str(interrupt) else ""
            print(f"{name}: interrupted{advice}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `fwk-plugins list | head`
        _discard_output()
        return 0
    except (OSError, RuntimeError, MemoryError, ImportError) as error:
        limit = explain(error)
        if limit is not None:
            _print_error(name, SystemLimit(limit))
            return SystemLimit.exit_status
        if not isinstance(error, OSError) or error.filename or error.errno not in _DISK_ERRORS:
            raise
        _discard_output()
        _print_error(name, RunError(f"cannot write to standard output: {error.strerror}"))
        return 1


def _print_error(name: str, error: FwkError) -> None:
    """Print an error's message; where standard error cannot be written, the exit status says it alone."""
    with suppress(OSError):
        _print_message(name, error)


def _print_message(name: str, error: FwkError) -> None:
    if isinstance(error, UntrustedCode):  # what was allowed on one host may not be on another
        prints = first_rank_of_host()
    else:
        prints = first_rank() or not isinstance(error, _ON_EVERY_RANK)
    if error.quiet or not prints:
        return
    details = getattr(error, "details", "")
    if details:
        print(details.rstrip(), file=sys.stderr)
    rank = "" if first_rank() else f"rank {os.environ['RANK']}: "
    print(f"{name}: error: {rank}{_one_line(error)}", file=sys.stderr)
    if os.environ.get("FWK_TRACEBACK") and not isinstance(error, UserError):
        traceback.print_exc()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn an OSError, such as a full disk, into a RunError: one sentence instead of a traceback."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        file = f" ({error.filename})" if error.filename else ""
        raise RunError(f"{error.strerror or error}{file}") from error


def json_line(value: Plain) -> str:
    """Return JSON for standard output: characters as they are, or escaped where its encoding is not UTF-8."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return json.dumps(value, ensure_ascii=codecs.lookup(encoding).name != "utf-8")


def _flush_output(name: str) -> None:
    """Flush standard output; warn where it cannot be written, except to a reader that has gone away."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_output()
        warn(name, f"cannot write to standard output: {error.strerror}")


def _discard_output() -> None:
    """Send the rest of standard output to nowhere, so that Python can flush it as it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _EndOfProcess:
    """The exit status of the command that this process was started for, once it has ended."""

    status: int | None = None


_end_of_process = _EndOfProcess()


@atexit.register
def _leave() -> None:
    """End the process at once where a thread may still be in code outside of Python.

    Such a thread is one of ours in a store or a disk that does not answer, or one of torch's that is slow to finish its
    work for another rank. If it returned while the interpreter shuts down, C++ would abort the process.
    """
    if _end_of_process.status is None:
        return
    several_ranks = os.environ.get("WORLD_SIZE", "1") != "1" and "torch" in sys.modules
    if several_ranks or any(thread.name.startswith("fwk") for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(_end_of_process.status)
