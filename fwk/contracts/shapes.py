"""Types as text ("int | None", "tuple[float, ...]"), and the values that fit them.

A schema may come from an index file, where no class is at hand, so the types of options travel as text. The types that
configurations have: bool, int, float, str, None, Any, Literal, unions, list, tuple, and dict with text keys.
"""

from __future__ import annotations

import ast
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from fwk.errors import did_you_mean

# what YAML and JSON hold: None, bool, int, float, str, and lists and dicts of them. It is Any because the values of a
# config are checked at run time, against the type that their schema declares
Plain: TypeAlias = Any

# YAML 1.1 reads 1e-4 as text (it wants 1.0e-4); where a number is wanted such text is one
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")

_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "None": "null",
    "Any": "anything",
}


@dataclass(frozen=True)
class Shape:
    """A parsed type."""

    head: str  # bool, int, float, str, None, Any, Literal, union, dict, list or tuple
    inner: tuple[Shape, ...] = ()  # alternatives of a union, types of the items of a container
    values: tuple[Plain, ...] = ()  # of a Literal
    variadic: bool = False  # a list or tuple of any length, all items of one type

    @property
    def alternatives(self) -> tuple[Shape, ...]:
        """The alternatives of a union; the shape itself otherwise."""
        return self.inner if self.head == "union" else (self,)

    @property
    def heads(self) -> set[str]:
        """The heads of all alternatives."""
        return {shape.head for shape in self.alternatives}


class Misfit(Exception):
    """A value does not fit its type: what is wrong, the path inside the value, and a remedy for the message."""

    def __init__(self, message: str, path: tuple[str, ...] = (), remedy: str = "") -> None:
        self.message, self.path, self.remedy = message, path, remedy


# ---- types to text and back ----


def type_text(annotation: object) -> str:
    """Return an annotation as canonical text. Raises TypeError for a type that configurations do not have."""
    if annotation is Any:
        return "Any"
    if annotation is None or annotation is type(None):
        return "None"
    if isinstance(annotation, type) and annotation in (bool, int, float, str):
        return annotation.__name__

    origin = typing.get_origin(annotation) or annotation
    inner = typing.get_args(annotation)
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, inner))}]"
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_text(alternative) for alternative in inner)
    if origin in (tuple, list, Sequence):
        return _sequence_text(origin, inner or (Any, ...))
    if origin in (dict, Mapping):
        key, value = inner or (str, Any)
        if key is str:
            return f"dict[str, {type_text(value)}]"
    raise TypeError(f"{annotation!r} is not a type that configurations have")


def _sequence_text(origin: object, inner: tuple[object, ...]) -> str:
    if origin is not tuple or inner[1:] == (...,):
        return f"{'list' if origin is list else 'tuple'}[{type_text(inner[0])}, ...]"
    return f"tuple[{', '.join(type_text(item) for item in inner)}]"


@cache
def parse_type(text: str) -> Shape:
    """Return the shape of a type's text. Raises ValueError where the text is no type."""
    return _shape(ast.parse(text, mode="eval").body)


def _shape(node: ast.expr) -> Shape:
    if isinstance(node, ast.Name):
        return Shape(node.id)
    if isinstance(node, ast.Constant) and node.value is None:
        return Shape("None")
    if isinstance(node, ast.BinOp):
        left, right = _shape(node.left), _shape(node.right)
        return Shape("union", (*left.alternatives, *right.alternatives))
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return _subscript_shape(node.value.id, items)
    raise ValueError(f"not a type: {ast.dump(node)}")


def _subscript_shape(head: str, items: Sequence[ast.expr]) -> Shape:
    if head == "Literal":
        return Shape(head, values=tuple(ast.literal_eval(item) for item in items))
    if head == "dict":
        return Shape(head, (_shape(items[1]),))
    variadic = isinstance(items[-1], ast.Constant) and items[-1].value is ...
    inner = items[:-1] if variadic else items
    return Shape(head, tuple(_shape(item) for item in inner), variadic=variadic)


def in_words(shape: Shape) -> str:
    """Return a type as an error message names it: 'a whole number or null'."""
    if shape.head in _WORDS:
        return _WORDS[shape.head]
    if shape.head == "Literal":
        options = ", ".join(f"'{value}'" for value in shape.values)
        return options if len(shape.values) == 1 else f"one of {options}"
    if shape.head == "union":
        return " or ".join(in_words(alternative) for alternative in shape.inner)
    if shape.head == "dict":
        (value,) = shape.inner
        return "a mapping" if value.head == "Any" else f"a mapping of names to {in_words(value)}"
    if shape.variadic:
        (item,) = shape.inner
        return "a list" if item.head == "Any" else f"a list of {in_words(item)}"
    return f"a list of {len(shape.inner)} values"


def shown(value: Plain) -> str:
    """Return a value as an error message shows it: short, on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# ---- values that fit a type ----

CheckNumber: TypeAlias = Callable[[float], None]  # raises Misfit for a number out of range


def fit(value: Plain, shape: Shape, check_number: CheckNumber) -> Plain:
    """Return the value as its type has it: an int where a float is wanted becomes one, a list becomes a tuple.

    Raises Misfit.
    """
    return _FITTERS.get(shape.head, _fit_sequence)(value, shape, check_number)


def _misfit(shape: Shape, value: Plain) -> Misfit:
    """Return the error for a value of another type, with the advice for what YAML made of it."""
    message = f"expected {in_words(shape)}, got {shown(value)}"
    heads = shape.heads
    if "int" in heads and isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        message += f"; write {int(value)}"
    elif heads & {"str", "Literal"} and isinstance(value, bool):
        message += "; YAML reads yes, no, on, off, true and false as truth values, so put the text in quotes"
    elif "str" in heads and isinstance(value, (int, float)):
        message += "; put it in quotes if it is text"
    return Misfit(message)


def _fit_any(value: Plain, shape: Shape, check_number: CheckNumber) -> Plain:
    return value


def _fit_none(value: Plain, shape: Shape, check_number: CheckNumber) -> None:
    if value is not None:
        raise _misfit(shape, value)


def _fit_bool(value: Plain, shape: Shape, check_number: CheckNumber) -> bool:
    if not isinstance(value, bool):
        raise _misfit(shape, value)
    return value


def _fit_text(value: Plain, shape: Shape, check_number: CheckNumber) -> str:
    if not isinstance(value, str):
        raise _misfit(shape, value)
    try:
        value.encode()
    except UnicodeEncodeError:  # from a path that is not UTF-8; a config file could not hold it
        raise Misfit(f"must be UTF-8 text, got {shown(value)}") from None
    return value


def _fit_int(value: Plain, shape: Shape, check_number: CheckNumber) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _misfit(shape, value)
    if not -(1 << 63) <= value < 1 << 63:
        raise Misfit(f"must fit into 64 bits, got {shown(value)}")
    check_number(value)
    return value


def _fit_float(value: Plain, shape: Shape, check_number: CheckNumber) -> float:
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        value = float(value)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise _misfit(shape, value)
    try:
        number = float(value)
    except OverflowError:
        raise Misfit("must be a finite number") from None
    if not math.isfinite(number):
        raise Misfit(f"must be a finite number, got {value}")
    check_number(number)
    return number


def _fit_literal(value: Plain, shape: Shape, check_number: CheckNumber) -> Plain:
    if any(type(value) is type(option) and value == option for option in shape.values):
        return value
    if isinstance(value, str):
        remedy = nearest_text(value, shape.values)
        raise Misfit(f"expected {in_words(shape)}, got '{value}'", remedy=remedy)
    raise _misfit(shape, value)


def _fit_mapping(value: Plain, shape: Shape, check_number: CheckNumber) -> dict[str, Plain]:
    if not isinstance(value, Mapping):
        raise _misfit(shape, value)
    (inner,) = shape.inner
    return {str(key): _fit_inside(v, inner, check_number, str(key)) for key, v in value.items()}


def _fit_sequence(value: Plain, shape: Shape, check_number: CheckNumber) -> Plain:
    if not isinstance(value, (list, tuple)):
        raise _misfit(shape, value)
    if not shape.variadic and len(value) != len(shape.inner):
        raise Misfit(f"expected {in_words(shape)}, got {len(value)}")
    inner = shape.inner * len(value) if shape.variadic else shape.inner
    items = [
        _fit_inside(item, inner[number], check_number, str(number))
        for number, item in enumerate(value)
    ]
    return items if shape.head == "list" else tuple(items)


def _fit_inside(value: Plain, shape: Shape, check_number: CheckNumber, step: str) -> Plain:
    """Fit a part of a container; its errors carry the way to it."""
    try:
        return fit(value, shape, check_number)
    except Misfit as misfit:
        raise Misfit(misfit.message, (step, *misfit.path), misfit.remedy) from None


def _fit_union(value: Plain, shape: Shape, check_number: CheckNumber) -> Plain:
    # exact matches first, so that 1 stays an int in `float | int`
    order = sorted(shape.inner, key=lambda alternative: alternative.head != type(value).__name__)
    failures: list[tuple[Shape, Misfit]] = []
    for alternative in order:
        try:
            return fit(value, alternative, check_number)
        except Misfit as misfit:
            failures.append((alternative, misfit))
    raise _most_helpful(failures, value) or _misfit(shape, value)


def _most_helpful(failures: Sequence[tuple[Shape, Misfit]], value: Plain) -> Misfit | None:
    """Return the error that says more than 'expected a or b, got c', if there is one.

    It is that of a container of the value's kind, of a number out of range, or of the options of a Literal.
    """
    for alternative, misfit in failures:
        if _is_container(value, alternative.head) or misfit.message.startswith("must be"):
            return misfit
    for alternative, misfit in failures:
        if alternative.head == "Literal" and isinstance(value, str):
            return misfit
    return None


def _is_container(value: Plain, head: str) -> bool:
    if head == "dict":
        return isinstance(value, Mapping)
    return head in ("list", "tuple") and isinstance(value, (list, tuple))


_FITTERS: dict[str, Callable[[Plain, Shape, CheckNumber], Plain]] = {
    "Any": _fit_any,
    "None": _fit_none,
    "bool": _fit_bool,
    "str": _fit_text,
    "int": _fit_int,
    "float": _fit_float,
    "Literal": _fit_literal,
    "dict": _fit_mapping,
    "union": _fit_union,
}


def nearest_text(value: str, options: Sequence[Plain]) -> str:
    """Return the remedy that names the nearest option of a fixed set."""
    return did_you_mean(value, [option for option in options if isinstance(option, str)], 0)
