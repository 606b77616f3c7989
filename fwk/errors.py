"""One exception class per kind of failure.

A message is one sentence or two: the fact (what was given, where, what was expected), then the remedy. `UserError` and
its subclasses end a command with exit status 2 and without a traceback.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

# the code that imports and calls plugins; its frames do not help to find out why a plugin failed
_MACHINERY = Path(__file__).parent / "components"


_LONGEST_MESSAGE = 4000  # characters; a name from a file may have a million
_LONGEST_NAME, _MOST_NAMES = (
    300,
    20_000,
)  # characters and number of names among which a near one is looked for


class FwkError(Exception):
    """Root of everything that `fwk` raises on purpose; ends a command with exit status 1."""

    exit_status = 1
    quiet = False  # True where another process of the job prints the message

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(_shown(a) if isinstance(a, str) else a for a in arguments))


class UserError(FwkError):
    """The user's input was wrong: a name, a key, a type, a path, a value."""

    exit_status = 2


class UnknownName(UserError):
    """A name is not registered. Carries the `kind`, the `name` and the `known` names.

    `where` says where the name was given; `advice` is a sentence that follows the known names.
    """

    def __init__(
        self, kind: str, name: str, known: Iterable[str], where: str = "", advice: str = ""
    ) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        place = f" ({where})" if where else ""
        remedy = did_you_mean(name, self.known)
        if advice:
            remedy += f" {advice}" if remedy.endswith("?") else f". {advice}"
        super().__init__(f"Unknown {kind} '{name}'{place}{remedy}")


class ConfigError(UserError):
    """A configuration key or value is wrong. Carries the dotted `key`."""

    def __init__(self, key: str, message: str) -> None:
        self.key = key
        super().__init__(f"{key}: {message}" if key else message)


class DataError(UserError):
    """A data file, token store or tokenizer cannot be used. The message names the file (and line)."""


class CheckpointError(UserError):
    """A checkpoint or run folder cannot be used. The message names the path and the reason."""


class FolderInUse(CheckpointError):
    """Another process holds a run's folder."""


class PluginError(UserError):
    """A plugin does not import, claims a name that is taken, or implements a hook wrongly."""


class UntrustedCode(PluginError):
    """A file names code that the user has not allowed to run."""


class BrokenPlugin(PluginError):
    """A plugin does not import. `details` is its traceback, without the frames of what imported it."""

    def __init__(self, plugin: str, module: str, error: BaseException) -> None:
        self.plugin = plugin
        frames = _frames(error, _is_import_machinery)
        self.details = _traceback_text(frames, error)
        reason, place = _reason(error), _place(frames)
        if isinstance(error, SyntaxError) and error.filename:
            reason, place = error.msg, f" ({error.filename}:{error.lineno})"
        if isinstance(error, ModuleNotFoundError) and error.name and frames:
            sibling = Path(frames[-1].filename).parent / f"{error.name.split('.')[0]}.py"
            if sibling.is_file():
                reason += f"; a file beside it is imported with 'from . import {error.name}'"
        super().__init__(
            f"plugin '{plugin}' does not import: {type(error).__name__}: {reason}{place}; fix it, "
            "uninstall it, or pass --allow-broken-plugins to ignore it"
        )


class RunError(FwkError):
    """The run failed for a reason that is not the user's input (a non-finite loss, a lost rank)."""


class CodeFailed(RunError):
    """The code of a component raised an exception of its own. `details` is the traceback of that code.

    owner: whose code it is. machinery: true for frames of the code that called it, which are left out.
    """

    def __init__(
        self, owner: str, error: Exception, machinery: Callable[[traceback.FrameSummary], bool]
    ) -> None:
        frames = _frames(error, machinery)
        self.details = _traceback_text(frames, error)
        super().__init__(f"{owner} raised {type(error).__name__}: {_reason(error)}{_place(frames)}")

    def append(self, clause: str) -> None:
        """Add what is known where the error is reported, such as whether there is a checkpoint, to the message."""
        self.args = (printable(f"{self}; {clause}"),)


class HookFailed(CodeFailed):
    """A hook implementation raised an exception of its own."""

    def __init__(self, hook: str, plugin: str, error: Exception) -> None:
        self.hook, self.plugin = hook, plugin
        super().__init__(f"{hook} of '{plugin}'", error, _is_hook_machinery)


class NeededRunFailed(RunError):
    """A run that another run needs failed in a process of its own, whose exit status this has."""

    def __init__(self, message: str, exit_status: int) -> None:
        self.exit_status = exit_status
        super().__init__(message)


class RunStopped(RunError):
    """A signal asked to stop before the run itself began; the same command goes on."""

    def __init__(self, message: str, exit_status: int) -> None:
        self.exit_status = exit_status
        super().__init__(f"{message}; start the same command again to go on")


class LogFailed(RunError):
    """A log file cannot be written. The run saves a checkpoint, then fails."""


def printable(text: str) -> str:
    """Return a text with an escape in place of each character that a terminal would obey or not show; \\n stays.

    Names in messages may come from a stranger's file: a control character in one could clear the screen or hide what
    follows. Every `FwkError` makes its message printable; whatever else prints a name calls this.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def _shown(message: str) -> str:
    """Return a message as it is printed: with escapes, and not too long."""
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[: _LONGEST_MESSAGE // 2]} ... {message[-_LONGEST_MESSAGE // 2 :]}"
    return printable(message)


def did_you_mean(name: str, known: Iterable[str], everything_up_to: int = 40) -> str:
    """Return ". Did you mean 'x'? Available: x, y, z", the remedy that ends an error message.

    The question is left out where no known name is close, the list where it has more than `everything_up_to` names;
    without either the result is empty.
    """
    known = [str(candidate) for candidate in known]
    if len(str(name)) > _LONGEST_NAME or len(known) > _MOST_NAMES:
        return ""  # the search takes time for each pair of characters
    known = [candidate for candidate in known if len(candidate) <= _LONGEST_NAME]
    close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    close.sort(key=lambda match: not match.startswith(str(name)))  # 'adam': 'adamw', not 'radam'

    sentences = []
    if close:
        sentences.append(f"Did you mean '{close[0]}'?")
    if known and len(known) <= everything_up_to:
        sentences.append(f"Available: {', '.join(sorted(known))}")
    return f". {' '.join(sentences)}" if sentences else ""


# ---- tracebacks without the frames of fwk ----


def _frames(
    error: BaseException, machinery: Callable[[traceback.FrameSummary], bool]
) -> list[traceback.FrameSummary]:
    return [frame for frame in traceback.extract_tb(error.__traceback__) if not machinery(frame)]


def _is_import_machinery(frame: traceback.FrameSummary) -> bool:
    return "importlib" in frame.filename or Path(frame.filename).parent == _MACHINERY


def _is_hook_machinery(frame: traceback.FrameSummary) -> bool:
    path = Path(frame.filename)
    return "pluggy" in path.parts or path == _MACHINERY / "hook_manager.py"


def _traceback_text(frames: list[traceback.FrameSummary], error: BaseException) -> str:
    lines = traceback.format_list(frames)
    last = traceback.format_exception_only(type(error), error)
    return "".join(["Traceback (most recent call last):\n", *lines, *last])


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or "no message"


def _place(frames: list[traceback.FrameSummary]) -> str:
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
