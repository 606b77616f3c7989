"""JSON that a stranger may have written: parsed in bounded time and memory, and checked before anything is used."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from fwk.contracts.plain import PlainDict
from fwk.contracts.shapes import Misfit, Plain, fit, parse_type, shown
from fwk.errors import DataError, UserError

LARGEST = 1 << 26  # bytes of a JSON file that is read as a whole
DEEPEST = 100  # levels of nesting

Pairs = Callable[[list[tuple[str, Plain]]], Plain]  # makes an object of its keys and values


def parse_json(text: str | bytes, pairs: Pairs | None = None) -> Plain:
    """Return the value of a JSON text. pairs: see `json.loads`.

    Raises ValueError with a short reason: it is no JSON, not UTF-8, nested too deep, or has a number with thousands of
    digits. Every file is parsed here, because Python's own parser raises RecursionError for nested brackets.
    """
    try:
        value = json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep") from None
    _check_depth(text, value)
    return value


def _check_depth(text: str | bytes, value: Plain) -> None:
    """Raise ValueError for a value that is nested too deep for code that descends into it."""
    if isinstance(text, bytes):
        brackets = text.count(b"[") + text.count(b"{")
    else:
        brackets = text.count("[") + text.count("{")
    if brackets <= DEEPEST:
        return
    level, depth = _inside([value]), 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")
        level = _inside(child for outer in level for child in _children(outer))


def _inside(values: Iterable[Plain]) -> list[Plain]:
    return [value for value in values if isinstance(value, (dict, list))]


def _children(value: Plain) -> Iterable[Plain]:
    return value.values() if isinstance(value, dict) else value


def read_json(path: Path, error: type[UserError] = DataError, largest: int = LARGEST) -> Plain:
    """Return the value of a JSON file. Raises `error` where it cannot be read, is too large, or is no JSON."""
    try:
        return parse_json(read_bytes(path, largest))
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror}") from problem
    except ValueError as problem:
        raise error(f"{path} is damaged: it is not JSON ({str(problem)[:100]})") from None


def read_object(
    path: Path, error: type[UserError] = DataError, largest: int = LARGEST
) -> PlainDict:
    """Return the object in a JSON file. Raises `error` as `read_json` does, and for a value of another kind."""
    value = read_json(path, error, largest)
    if not isinstance(value, dict):
        raise error(f"{path} is damaged: expected a JSON object")
    return value


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """Return the content of a file. Raises ValueError where it is larger than `largest` bytes, and OSError."""
    with open(path, "rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"it is larger than {largest >> 20} MiB")
    return content


def fitted(
    values: Plain,
    types: Mapping[str, str],
    where: object,
    error: type[UserError] = DataError,
    low: float | None = None,
    high: float | None = None,
) -> PlainDict:
    """Return the entries of an object that `types` names, each checked and converted to its type.

    types: name -> type, as options write it ("int | None"); '?' after a name: it may be missing. low, high: bounds of
    every number. where: the file, or a place in it, for messages. Numbers must be finite. Raises `error`.
    """

    def check_number(number: float) -> None:
        if (low is not None and number < low) or (high is not None and number > high):
            raise Misfit(f"expected a number from {low} to {high}, got {str(number)[:40]}")

    if not isinstance(values, dict):
        raise error(f"{where} is damaged: expected a JSON object")
    entries: PlainDict = {}
    for key, text in types.items():
        name = key.removesuffix("?")
        if name not in values:
            if name == key:
                raise error(f"{where} is damaged: it lacks the entry '{name}'")
            continue
        try:
            entries[name] = fit(values[name], parse_type(text), check_number)
        except Misfit as misfit:
            place = ".".join((name, *misfit.path))[:200]
            raise error(f"{where} is damaged: {place}: {misfit.message}") from None
    return entries


def require_file_name(name: Plain, where: object, error: type[UserError] = DataError) -> str:
    """Return the name of a file beside the one that lists it. Raises `error` for a path, or an impossible name."""
    is_name = isinstance(name, str) and Path(name).name == name and name.isprintable()
    if not is_name or len(name) > 255:
        raise error(f"{where} is damaged: {shown(name)} is not the name of a file in its folder")
    return name
