"""Labelled examples: what the cells of a table become, and keyed choices of examples.

Labels are classes (by name), numbers, or lists of these. A value that is none raises BadRow, with the place of its row.

A choice of examples depends on a seed and on the key of each example alone, and choices are nested: 1% of the examples
lie within 10% of them, 8 of a class within 16.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fwk.contracts.keyed import exact_share, fold
from fwk.contracts.plain import PlainMapping
from fwk.contracts.shapes import Plain, shown
from fwk.data.tables import BadRow
from fwk.errors import DataError, did_you_mean

MOST_CLASSES = 1000  # that are found in data; more of them can be listed
_FEW_ROWS = 10  # of so few rows, each may have a class of its own
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_WITH_COMMA = re.compile(r"[-+]?[0-9]*,[0-9]+")
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")


@dataclass(frozen=True)
class Labelled:
    """An example of a data set: texts with names, and labels with names."""

    place: str  # for messages
    key: str  # id of the example in its data set, or its number
    texts: Mapping[str, str | tuple[str, ...]]  # a tuple has one text for each choice
    # a class as text, a number as float, a choice as int, a span as (start, end) in characters of the text that it lies
    # in, or a tuple of these; an unlabelled example has no entry
    labels: PlainMapping
    extra: PlainMapping = field(default_factory=dict)  # what evaluation needs


# ---- labels ----


def class_name(value: Plain, place: str) -> str:
    """Return the name of a class as text: 3 and 3.0 are "3", true is "true", blanks around a text are left out.

    Raises BadRow for an empty value, a list or an object.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, (int, float)) and value == value:
        return str(value)
    if _is_missing(value):
        raise BadRow(place, "the label is empty")
    if not isinstance(value, str):
        raise BadRow(place, f"expected a class as label, got {shown(value)}")
    return value.strip()


def parse_class(value: Plain, known: Sequence[str], place: str) -> str:
    """Return the name of a class. Raises BadRow for one that is not known."""
    name = class_name(value, place)
    if name not in known:
        raise BadRow(place, f"unknown label {shown(name)}{did_you_mean(name, known)}")
    return name


def parse_classes(
    value: Plain, known: Sequence[str], place: str, separator: str | None = None
) -> tuple[str, ...]:
    """Return the names of the classes of an example that may have any number of them, each once.

    value: a list, or a text with classes between separators; an empty text has none. Raises BadRow.
    """
    names = (parse_class(part, known, place) for part in _parts(value, place, separator))
    return tuple(dict.fromkeys(names))


def parse_number(value: Plain, place: str) -> float:
    """Return a finite number, which may be written as text. Raises BadRow."""
    if _is_missing(value):
        raise BadRow(place, "the number is missing")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(value, str):
        value = value.strip()
        is_number = _NUMBER.fullmatch(value) is not None
        if _WITH_COMMA.fullmatch(value):
            raise BadRow(
                place,
                f"expected a number, got {shown(value)}; decimals follow a point, as in {value.replace(',', '.')[:60]}",
            )
    if not is_number:
        raise BadRow(place, f"expected a number, got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise BadRow(place, f"expected a finite number, got {shown(value)}")
    return number


def parse_numbers(
    value: Plain, place: str, separator: str | None = None, count: int | None = None
) -> tuple[float, ...]:
    """Return a list of numbers. value: a list, or a text with numbers between separators.

    count: how many there are; None: any number. Raises BadRow.
    """
    numbers = tuple(parse_number(part, place) for part in _parts(value, place, separator))
    if count is not None and len(numbers) != count:
        raise BadRow(place, f"expected {count} numbers, got {len(numbers)}")
    return numbers


def _is_missing(value: Plain) -> bool:
    is_nan = isinstance(value, float) and math.isnan(value)  # how pandas writes a missing value
    return value is None or is_nan or (isinstance(value, str) and not value.strip())


def _parts(value: Plain, place: str, separator: str | None) -> Sequence[Plain]:
    """Return the items of a list, or of a text with separators."""
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, str) and separator is not None:
        return value.split(separator) if value.strip() else []
    if value is None or isinstance(value, dict):
        raise BadRow(place, f"expected a list of labels, got {shown(value)}")
    return [value]


def find_classes(names: Iterable[str], column: str = "label") -> tuple[str, ...]:
    """Return the classes among the labels of all rows: sorted as numbers if all are integers, as text otherwise.

    names: the label of each row, by `class_name`. column: its name in messages. Raises DataError where there are too
    many classes, or one for each row: the column then holds numbers or text; and where there are fewer than two.
    """
    classes: set[str] = set()
    count = 0
    for name in names:
        count += 1
        classes.add(name)
        if len(classes) > MOST_CLASSES:
            raise DataError(f"the column '{column}' has more than {MOST_CLASSES} {_NO_CLASSES}")
    if len(classes) == count > _FEW_ROWS:
        raise DataError(f"the column '{column}' has {count} rows with as many {_NO_CLASSES}")
    if len(classes) < 2:
        having = f"only '{next(iter(classes))}'" if classes else "no label at all"
        raise DataError(f"the column '{column}' has {having}, expected at least two classes")
    if all(_INTEGER.fullmatch(name) for name in classes):
        return tuple(sorted(classes, key=lambda name: (int(name), name)))
    return tuple(sorted(classes))


_NO_CLASSES = (
    "different labels, which may be numbers or texts and no classes; predict a number, choose another column, or list "
    "the classes"
)


# ---- keyed choices of examples ----


def keyed_share(seed: int, keys: Sequence[str], fraction: float) -> np.ndarray:
    """Return which ⌈fraction·n⌉ of n examples are chosen, bool [n]. A larger fraction contains a smaller one."""
    return _first(_words(seed, "examples", keys), int(exact_share(fraction, len(keys))))


def keyed_per_class(
    seed: int, keys: Sequence[str], classes: Sequence[str | None], n: int
) -> np.ndarray:
    """Return which examples are among the n of their class, bool [n]; all of them are where a class has fewer.

    classes: the class of each example; None: it has none, and is not chosen. A larger n contains a smaller one.
    """
    words = _words(seed, "examples", keys)
    members: dict[str, list[int]] = {}
    for index, name in enumerate(classes):
        if name is not None:
            members.setdefault(name, []).append(index)
    chosen = np.zeros(len(keys), dtype=bool)
    for indices in members.values():
        of_class = np.array(indices)
        chosen[of_class[_first(words[of_class], n)]] = True
    return chosen


def keyed_held_out(seed: int, keys: Sequence[str], share: float) -> np.ndarray:
    """Return which examples are held out for validation, bool [n]: at least a share of them, but never all.

    Examples with the same key are on the same side. A larger share contains a smaller one.
    """
    words = _words(seed, "held out", keys)
    count = min(int(exact_share(share, len(keys))), len(keys))
    if not count:
        return np.zeros(len(keys), dtype=bool)
    last = np.partition(words, count - 1)[count - 1]
    held_out: np.ndarray = words <= last
    return words < last if held_out.all() else held_out


def _words(seed: int, purpose: str, keys: Sequence[str]) -> np.ndarray:
    """Return a random word for each key, uint64 [n]."""
    words = (fold(seed, purpose, key) for key in keys)
    return np.fromiter(words, dtype=np.uint64, count=len(keys))


def _first(words: np.ndarray, count: int) -> np.ndarray:
    """Return which words are the `count` smallest, bool [n]; of equal ones, the first."""
    chosen = np.zeros(len(words), dtype=bool)
    chosen[np.argsort(words, kind="stable")[:count]] = True
    return chosen
