"""What all commands share: how errors end them, and how components and their options are shown as text."""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import shutil
import sys
import textwrap
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

from fwk.components.registry import Entry
from fwk.contracts.options import FieldSpec, shown
from fwk.errors import ConfigError, FwkError, PluginError, RunError, UnknownName, UserError


class Parser(argparse.ArgumentParser):
    """One whose complaint is one line, whatever was given."""

    def error(self, message: str) -> NoReturn:
        super().error(" ".join(message.split()))


def add_model(parser: argparse.ArgumentParser) -> None:
    """A trained model, and how it is loaded: `model`, `--average`, `--user-dir`."""
    parser.add_argument("model", metavar="RUN", help="a run's folder, or one of its checkpoints")
    parser.add_argument(
        "--average",
        action="store_true",
        help="take the moving average of the weights (train.ema), also where "
        "train.evaluate_average is false",
    )
    parser.add_argument(
        "--user-dir", action="append", default=[], metavar="DIR", help="plugins of your own"
    )


@contextmanager
def disk_errors() -> Iterator[None]:
    """What the disk refuses, because it is full or went away, ends a command with one sentence."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunError(
            f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}"
        ) from error


class _StderrHandler(logging.StreamHandler):
    """A handler that writes to whatever `sys.stderr` is when a message is logged."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter("fwk: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


@contextmanager
def _logging_to_stderr() -> Iterator[None]:
    """Show the log of fwk, notes included, on stderr while a command runs."""
    logger, handler = logging.getLogger("fwk"), _StderrHandler()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def run_command(name: str, command: Callable[[list[str]], int], argv: Sequence[str] | None) -> int:
    """Run a command's body and turn what it raises into one message and an exit status: 2 for a user's error, 1 for a
    failed run, 130 for an interrupt. Of several ranks the first speaks. argv: None for the process's own, which ends with
    this command then."""
    status = 1
    try:
        with _logging_to_stderr():
            status = _run(name, command, sys.argv[1:] if argv is None else argv)
        return status
    finally:
        if argv is None:
            _ended["status"] = status


def _run(name: str, command: Callable[[list[str]], int], argv: Sequence[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(
                errors="replace"
            )  # a terminal without UTF-8 shows '?', and the command goes on
    show, warnings.showwarning = warnings.showwarning, _told(name, warnings.showwarning)
    try:
        status = command(list(argv))
        _flush(name)
        return status
    except FwkError as error:
        # what is wrong with the command line or a plugin, every rank says alike; anything else may be one rank's alone
        if not error.quiet and (
            first_rank() or not isinstance(error, (ConfigError, UnknownName, PluginError))
        ):
            rank = "" if first_rank() else f"rank {os.environ['RANK']}: "
            if details := getattr(error, "details", ""):
                print(details.rstrip(), file=sys.stderr)
            print(f"{name}: error: {rank}{one_line(error)}", file=sys.stderr)
            if not isinstance(error, UserError) and os.environ.get("FWK_TRACEBACK"):
                traceback.print_exc()
        return error.exit_status
    except KeyboardInterrupt:
        if first_rank():
            print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `fwk-plugins list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        warnings.showwarning = show


_ended: dict[
    str, int
] = {}  # status: of the command that this process was started for, once it has ended


def _flush(name: str) -> None:
    """What is still to be written to standard output; OSError other than that nobody reads it is told."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(
            f"{name}: warning: cannot write to standard output: {error.strerror}", file=sys.stderr
        )


@atexit.register
def _leave() -> None:
    """Ends the process here where a thread may still be in code outside of Python: one of ours in a store or a disk that
    does not answer, or one of torch's that was slow to put down what it did for another rank. As soon as such a thread
    came back for the interpreter that is going down, C++ would abort the process."""
    if "status" not in _ended:
        return
    one_of_several = os.environ.get("WORLD_SIZE", "1") != "1" and "torch" in sys.modules
    if one_of_several or any(thread.name.startswith("fwk") for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(_ended["status"])


def _told(name: str, fallback: Callable) -> Callable:
    """Warnings of `fwk` itself as one line; others as Python shows them."""

    def show(message, category, filename, lineno, file=None, line=None):
        if category is UserWarning and f"{os.sep}fwk{os.sep}" in filename:
            if first_rank():
                print(f"{name}: warning: {message}", file=sys.stderr)
        else:
            fallback(message, category, filename, lineno, file, line)

    return show


def first_rank() -> bool:
    """Whether this process is the one that speaks under torchrun (or is alone)."""
    return os.environ.get("RANK", "0") in ("", "0")


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def width() -> int:
    return max(60, min(shutil.get_terminal_size((100, 24)).columns, 120))


def field_lines(fields: Iterable[FieldSpec], prefix: str = "") -> list[str]:
    """One option per paragraph: key, type, default, then its documentation."""
    lines = []
    for spec in fields:
        default = "required" if spec.required else f"default {_default(spec)}"
        lines.append(f"  {prefix}{spec.name}  ({_type(spec)}; {default})")
        lines += textwrap.wrap(
            spec.doc or "(no documentation)",
            width() - 6,
            initial_indent=" " * 6,
            subsequent_indent=" " * 6,
        )
    return lines


def _default(spec: FieldSpec) -> str:
    if isinstance(spec.default, (list, dict)):
        from fwk.config.yaml_text import flow

        return flow(spec.default)
    return spec.default if isinstance(spec.default, str) and spec.default else shown(spec.default)


def _type(spec: FieldSpec) -> str:
    words = spec.type.replace(", ...]", "]").replace("None", "null")
    if words.startswith("Literal["):
        words = words[8:].replace("]", "", 1).replace("'", "").replace(", ", " | ")
    if spec.choices:
        words = " | ".join(map(str, spec.choices))
    low, high = spec.low, spec.high
    if low is not None and high is not None:
        words += f" from {low:g} to {high:g}"
    elif low is not None or high is not None:
        words += f" >= {low:g}" if high is None else f" <= {high:g}"
    if spec.above is not None:
        words += f" > {spec.above:g}"
    return words


def component_lines(entry: Entry, prefix: str) -> list[str]:
    """A component with its options, as `--help` and `fwk-plugins show` print it."""
    origin = "" if entry.plugin == "fwk" else f"  [{entry.plugin}]"
    lines = [f"{entry.kind} {entry.name}: {entry.summary or 'no description'}{origin}"]
    return lines + (field_lines(entry.schema, prefix) or ["  (no options)"])
