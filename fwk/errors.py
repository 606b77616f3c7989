"""One exception class per kind of failure. A message is one sentence: what was given, where, what was expected, and
the nearest thing that exists. `UserError` and its children end a command with exit status 2 and no traceback."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

# frames of the code that imports and calls plugins say nothing about why a plugin failed
_MACHINERY = Path(__file__).parent / "components"


class FwkError(Exception):
    """Root of everything `fwk` raises on purpose; ends a command with exit status 1."""

    exit_status = 1
    quiet = False  # another process of the job says it


class UserError(FwkError):
    """The user's input was wrong: a name, a key, a type, a path, a value."""

    exit_status = 2


class UnknownName(UserError):
    """A name is not registered. Carries the `kind`, the `name` and the `known` names.

    `where` says where the name was given; `advice` is a sentence that follows the known names.
    """

    def __init__(
        self, kind: str, name: str, known: Iterable[str], where: str = "", advice: str = ""
    ):
        self.kind, self.name, self.known = kind, name, sorted(known)
        place = f" ({where})" if where else ""
        remedy = did_you_mean(name, self.known)
        if advice:
            remedy += f" {advice}" if remedy.endswith("?") else f". {advice}"
        super().__init__(f"Unknown {kind} '{name}'{place}{remedy}")


class ConfigError(UserError):
    """A configuration key or value is wrong. Carries the dotted `key`."""

    def __init__(self, key: str, message: str):
        self.key = key
        super().__init__(f"{key}: {message}" if key else message)


class DataError(UserError):
    """A data file, token store or tokenizer cannot be used. The message names the file (and line)."""


class CheckpointError(UserError):
    """A checkpoint or run folder cannot be used. The message names the path and the reason."""


class PluginError(UserError):
    """A plugin does not import, claims a name that is taken, or implements a hook wrongly."""


class RunError(FwkError):
    """The run failed for a reason that is not the user's input (a non-finite loss, a lost rank)."""


class CodeFailed(RunError):
    """A component's code raised something that is no error of ours. what: whose code. machinery: whether a frame is of
    what called it. `details` is the traceback without such frames."""

    def __init__(
        self, what: str, error: Exception, machinery: Callable[[traceback.FrameSummary], bool]
    ):
        frames = [
            frame for frame in traceback.extract_tb(error.__traceback__) if not machinery(frame)
        ]
        self.details = "".join(
            [
                "Traceback (most recent call last):\n",
                *traceback.format_list(frames),
                *traceback.format_exception_only(type(error), error),
            ]
        )
        place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
        reason = " ".join(str(error).split()) or "no message"
        super().__init__(
            f"{what} raised {type(error).__name__}: {reason}{place}; the last checkpoint is intact"
        )


class LogFailed(RunError):
    """What is logged cannot be written. The run saves, then fails."""


def did_you_mean(name: str, known: Iterable[str], everything_up_to: int = 40) -> str:
    """Return ". Did you mean 'x'? Available: x, y, z", the remedy that ends an error message.

    The question is left out where no known name is close, the list where it has more than `everything_up_to` names;
    without either the result is empty.
    """
    known = [str(candidate) for candidate in known]
    close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    close.sort(key=lambda match: not match.startswith(str(name)))  # 'adam': 'adamw', not 'radam'

    sentences = []
    if close:
        sentences.append(f"Did you mean '{close[0]}'?")
    if known and len(known) <= everything_up_to:
        sentences.append(f"Available: {', '.join(sorted(known))}")
    return f". {' '.join(sentences)}" if sentences else ""


class BrokenPlugin(PluginError):
    """A plugin does not import. `details` is its own traceback, without the machinery that imported it."""

    def __init__(self, plugin: str, module: str, error: BaseException):
        frames = [
            f
            for f in traceback.extract_tb(error.__traceback__)
            if "importlib" not in f.filename and Path(f.filename).parent != _MACHINERY
        ]
        self.details = "".join(
            [
                "Traceback (most recent call last):\n",
                *traceback.format_list(frames),
                *traceback.format_exception_only(type(error), error),
            ]
        )
        self.plugin = plugin
        reason = " ".join(str(error).split()) or "no message"
        place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
        if isinstance(error, SyntaxError) and error.filename:
            place, reason = f" ({error.filename}:{error.lineno})", error.msg
        missing = isinstance(error, ModuleNotFoundError) and error.name
        if (
            missing
            and frames
            and (Path(frames[-1].filename).parent / f"{error.name.split('.')[0]}.py").is_file()
        ):
            reason += f"; a file beside it is imported with 'from . import {error.name}'"
        super().__init__(
            f"plugin '{plugin}' does not import: {type(error).__name__}: {reason}{place}; mend it, leave it "
            "out, or go on without it with --allow-broken-plugins"
        )


class HookFailed(CodeFailed):
    """A hook implementation raised something that is no error of ours."""

    def __init__(self, hook: str, plugin: str, error: Exception):
        self.hook, self.plugin = hook, plugin
        super().__init__(
            f"{hook} of '{plugin}'",
            error,
            lambda frame: (
                "pluggy" in Path(frame.filename).parts
                or Path(frame.filename) == _MACHINERY / "discovery.py"
            ),
        )
