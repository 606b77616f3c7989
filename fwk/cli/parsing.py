"""Command lines: a parser whose errors are one sentence, and the values that flags take."""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from fwk.errors import UserError, did_you_mean


class Parser(argparse.ArgumentParser):
    """A parser that raises UserError where argparse would print its usage and exit.

    `words`: the attribute that takes the words that are neither flags nor positional arguments, such as `key=value`;
    without it they are refused. Flags may stand before, between and behind them.
    """

    def __init__(self, prog: str, *, words: str = "", **options: Any) -> None:  # as ArgumentParser
        super().__init__(
            prog,
            formatter_class=_help_formatter,
            allow_abbrev=False,
            exit_on_error=False,
            **options,
        )
        self._words = words

    @property
    def flags(self) -> list[str]:
        """The flags in their long form, as in '--run'."""
        return [name for name in self._option_string_actions if name.startswith("--")]

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Return the arguments of a command line. Raises UserError; SystemExit after `--help`."""
        try:
            arguments, rest = self.parse_known_args(argv)
        except argparse.ArgumentError as error:
            raise UserError(self._sentence(error)) from None
        for word in rest:
            if word.startswith("-") and word != "-":
                flag = word.partition("=")[0]
                raise UserError(f"Unknown flag '{flag}'{self._nearest(flag) or self._see_help}")
            if not self._words:
                raise UserError(f"Unexpected argument '{word}'{self._see_help}")
        if self._words:
            setattr(arguments, self._words, rest)
        return arguments

    def _nearest(self, flag: str) -> str:
        """Return the question for the nearest flag; dashes would make all flags look alike."""
        names = [name.removeprefix("--") for name in self.flags]
        question = did_you_mean(flag.lstrip("-"), names, everything_up_to=0)
        return question.replace("mean '", "mean '--")

    def error(self, message: str) -> NoReturn:
        """Raise what argparse finds wrong with the command line as a whole, such as a missing argument."""
        missing = re.fullmatch("the following arguments are required: (.*)", message)
        sentence = message[:1].upper() + message[1:]
        if missing:
            sentence = "Missing: " + re.sub(r"/-\w", "", missing[1])  # '--output/-o'
        raise UserError(f"{sentence}{self._see_help}")

    @property
    def _see_help(self) -> str:
        return f". See '{self.prog} --help'"

    def _sentence(self, error: argparse.ArgumentError) -> str:
        """Return what is wrong with one argument: the flag, what was expected, what was given."""
        if error.argument_name is None:  # newer versions of Python report missing arguments so
            self.error(error.message)
        flag = error.argument_name.split("/")[0]
        action = self._option_string_actions.get(flag)
        metavar = action.metavar if action is not None else None
        if error.message in ("expected one argument", "expected at least one argument"):
            return f"{flag} needs a value: {flag} {metavar}"
        if surplus := re.fullmatch("ignored explicit argument (.*)", error.message):
            return f"{flag} takes no value, got {surplus[1]}"
        if "not allowed with argument" in error.message:
            return f"{flag} is {error.message}; give one of them"
        return f"{flag}: {error.message}"


class StoreOnce(argparse.Action):
    """Store a value that is not empty. Raises UserError where the flag is given twice with different values."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Store the value."""
        _require_value(self, values)
        earlier = getattr(namespace, self.dest)
        if earlier not in (None, values):
            raise UserError(f"{option_string} is given twice, as '{earlier}' and '{values}'")
        setattr(namespace, self.dest, values)


class Append(argparse.Action):
    """Append a value that is not empty to a list."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Append the value."""
        _require_value(self, values)
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or []), values])


def width() -> int:
    """Return the width of the terminal in columns, from 60 to 120."""
    return max(60, min(shutil.get_terminal_size((100, 24)).columns, 120))


def _help_formatter(prog: str) -> argparse.HelpFormatter:
    """Return a formatter that keeps the lines of descriptions, and has room for our longest flags."""
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=width())


def _require_value(action: argparse.Action, value: str) -> None:
    if not value:
        raise argparse.ArgumentError(action, "expected one argument")


def whole_number(low: int | None = None, high: int | None = None) -> Callable[[str], int]:
    """Return the type of a flag that takes a whole number of at least `low`, and at most `high`."""
    expected = "expected a whole number"
    if low is not None:
        expected += f" of at least {low:,}" if high is None else f" from {low:,} to {high:,}"

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{expected}, got '{text}'") from None
        if (low is not None and number < low) or (high is not None and number > high):
            raise argparse.ArgumentTypeError(f"{expected}, got {number:,}")
        return number

    return convert


def number(expected: str, accept: Callable[[float], bool]) -> Callable[[str], float]:
    """Return the type of a flag that takes a number that `accept` accepts; `expected` says in words which."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not accept(value):
            raise argparse.ArgumentTypeError(f"expected {expected}, got '{text}'")
        return value

    return convert


def one_of(*names: str) -> Callable[[str], str]:
    """Return the type of a flag that takes one of these names."""

    def convert(text: str) -> str:
        if text not in names:
            hint = did_you_mean(text, names)
            raise argparse.ArgumentTypeError(f"'{text}' is not a possible value{hint}")
        return text

    return convert


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a trained model and how it is loaded: `model`, `--best`, `--average`, `--user-dir`."""
    parser.add_argument("model", metavar="RUN", help="a run's folder, or one of its checkpoints")
    parser.add_argument(
        "--best",
        action="store_true",
        help="use the run's best checkpoint by train.best_metric instead of its newest one",
    )
    parser.add_argument(
        "--average",
        action="store_true",
        help="use the moving average of the weights (train.ema), even if train.evaluate_average "
        "is false",
    )
    parser.add_argument(
        "--user-dir",
        action=Append,
        default=[],
        metavar="DIR",
        help="load your own components from a folder or a .py file; repeatable",
    )
    add_trust(parser)


def chosen_checkpoint(arguments: argparse.Namespace) -> str:
    """Return which checkpoint of a run `--best` chooses, as `fwk.load` names it."""
    return "best" if arguments.best else "newest"


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add the argument `--trust`."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="run the code that a config or a run names under user_dirs, which otherwise runs only if you named it "
        "with --user-dir or ran it before",
    )
