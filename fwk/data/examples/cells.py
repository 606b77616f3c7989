"""From the cells of a table to the labels of records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fwk.contracts.json_files import parse_json
from fwk.data.labelled import (
    class_name,
    parse_class,
    parse_classes,
    parse_number,
    parse_numbers,
)
from fwk.data.tables import BadRow

FEW = 50  # different whole numbers that are taken for classes, where no kind is stated


def is_empty(value: object) -> bool:
    """Return whether a cell holds no label."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def kind_of(values: Iterable[object]) -> str:
    """Return the kind of label that cells look like: class, number, classes, numbers or span.

    Text and booleans are classes. Whole numbers are classes where there are few different ones, other numbers are
    numbers. Lists are several classes, or several numbers; a mapping with the characters of an answer is a span.
    """
    present = [value for value in values if not is_empty(value)]
    if any(isinstance(value, Mapping) for value in present):
        return "span"
    lists = [value for value in present if isinstance(value, (list, tuple))]
    if lists:
        elements = [element for value in lists for element in value]
        return "numbers" if elements and all(map(_is_plain_number, elements)) else "classes"
    if not present or not all(map(_is_number, present)):
        return "class"
    numbers = [str(value) for value in present]
    whole = all("." not in number and float(number).is_integer() for number in numbers)
    return "class" if whole and len(set(numbers)) <= FEW else "number"


def _is_plain_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return False
    try:
        return math.isfinite(float(value))
    except (ValueError, OverflowError):
        return False


def parsed(value: Any, kind: str, place: str, separator: str, known: Sequence[str]) -> Any:
    """Return the label of a cell, as a record has it. Raises BadRow where the cell holds another kind of value.

    known: the classes; empty: any.
    """
    if kind == "class":
        return class_name(value, place) if not known else parse_class(value, known, place)
    if kind == "classes":
        names = value.split(separator) if isinstance(value, str) else value
        if not known and isinstance(names, (list, tuple)):
            known = tuple(class_name(name, place) for name in names)
        return parse_classes(value, known, place, separator)
    if kind == "number":
        return parse_number(value, place)
    if kind == "numbers":
        return parse_numbers(value, place, separator)
    return choice(value, place) if kind == "choice" else span(value, place)


def choice(value: object, place: str) -> int:
    """Return the place of the right choice, from 0: a whole number, or a letter from A."""
    text = str(value).strip()
    if len(text) == 1 and text.isascii() and text.isalpha():
        return ord(text.upper()) - ord("A")
    if text.isascii() and text.isdecimal() and not isinstance(value, bool):
        return int(text)
    raise BadRow(place, f"expected the number or the letter of a choice, got {value!r:.60}")


def span(value: Any, place: str) -> tuple[int, int] | None:
    """Return the characters [start, stop) of an answer; None if the question has no answer.

    A cell is [start, stop], {start, stop}, or {answer_start, text} as in SQuAD, where both may be lists, empty for a
    question without an answer.
    """
    characters = _characters(value, place)
    if characters is None:
        return None
    whole = isinstance(characters, (list, tuple)) and len(characters) == 2
    if not whole or not all(type(entry) is int for entry in characters):
        raise BadRow(
            place, f"expected the characters [start, stop] of an answer, got {value!r:.60}"
        )
    start, stop = characters
    if not 0 <= start < stop:
        raise BadRow(place, f"the characters [{start}, {stop}) hold no answer")
    return start, stop


def _characters(value: Any, place: str) -> Any:
    """Return what should be the first character of an answer and the one behind it; None: there is no answer."""
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError:
            raise BadRow(
                place, f"expected the characters of an answer, got {value!r:.60}"
            ) from None
    if not isinstance(value, Mapping):
        return value
    if not {"answer_start", "text"} <= value.keys():
        return [value.get("start"), value.get("stop", value.get("end"))]
    starts, texts = _listed(value["answer_start"]), _listed(value["text"])
    if not starts or not texts:
        return None
    return [starts[0], starts[0] + len(str(texts[0]))] if type(starts[0]) is int else starts[0]


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else [value]
