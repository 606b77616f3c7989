"""Schemas of configurations: what fields there are, what may stand in them, and how a value is checked.

A schema can be read from a dataclass or from an index file, so types travel as text ("float", "int | None",
"Literal['a', 'b']", "tuple[str, ...]", "dict[str, float]", "Any") and are checked without the class at hand.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from fwk.errors import ConfigError, PluginError, did_you_mean

# what YAML and JSON hold: None, bool, int, float, str, and lists and dicts of them. It is Any because the values of a
# config are checked at run time, against the type that their schema declares
Plain: TypeAlias = Any

# YAML 1.1 reads 1e-4 as text (it wants 1.0e-4); where a number is wanted such text is one
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def option(
    default: Any = dataclasses.MISSING,
    doc: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: Sequence[Any] | None = None,
) -> Any:
    """A field of a configuration dataclass: its default (none: the user must say it), one line of documentation (the
    `--help` text: unit, range, the paper's value), the inclusive range of numbers, a bound that they must be above, and
    the values there are."""
    metadata = {
        "doc": doc,
        "low": low,
        "high": high,
        "above": above,
        "choices": None if choices is None else tuple(choices),
    }
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    if isinstance(default, (dict, list)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class FieldSpec:
    """One field of a schema. `default` is plain data (lists, not tuples); None when `required`."""

    name: str
    type: str
    default: Any = None
    doc: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple[Any, ...] | None = None
    required: bool = False

    def to_mapping(self) -> dict[str, Any]:
        """Plain data for an index file; what is empty is left out."""
        full = {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        return {
            k: v
            for k, v in full.items()
            if k in ("name", "type", "default") or not (v is None or v is False or v == "")
        }

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> FieldSpec:
        choices = values.get("choices")
        return cls(**{**values, "choices": None if choices is None else tuple(choices)})


def plain(value: Any) -> Any:
    """The same value with mappings as dicts and sequences as lists, as JSON and YAML would have it."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    return value


def type_text(annotation: Any) -> str:
    """An annotation as canonical text. Raises TypeError for a type that configurations do not have."""
    if annotation is Any:
        return "Any"
    if annotation is None or annotation is type(None):
        return "None"
    if annotation in (bool, int, float, str):
        return annotation.__name__
    origin, inner = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, inner))}]"
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_text(a) for a in inner)
    if origin in (tuple, list, Sequence):
        inner = inner or (Any, ...)
        if origin is not tuple or inner[1:] == (...,):
            return f"{'list' if origin is list else 'tuple'}[{type_text(inner[0])}, ...]"
        return f"tuple[{', '.join(type_text(a) for a in inner)}]"
    if origin in (dict, Mapping):
        key, value = inner or (str, Any)
        if key is str:
            return f"dict[str, {type_text(value)}]"
    raise TypeError(f"{annotation!r} is not a type that configurations have")


def schema_of(config: type, where: str = "", reserved: Sequence[str] = ()) -> tuple[FieldSpec, ...]:
    """The schema of a configuration dataclass. `where` names its owner in errors; `reserved` are names it may not use.

    Raises PluginError when the class is not a dataclass or a field cannot be described.
    """
    where = where or config.__qualname__
    if not dataclasses.is_dataclass(config):
        raise PluginError(f"{where}: Config must be a dataclass (frozen=True, kw_only=True)")
    try:
        hints = typing.get_type_hints(config)
    except Exception as error:
        raise PluginError(
            f"{where}: an annotation of Config cannot be resolved: {error}"
        ) from error
    specs = []
    for field in dataclasses.fields(config):
        if field.name in reserved:
            raise PluginError(
                f"{where}: Config may not have a field '{field.name}', the engine reads that key"
            )
        try:
            text = type_text(hints[field.name])
        except TypeError as error:
            raise PluginError(f"{where}: field '{field.name}' of Config: {error}") from None
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required:
            default = None
        else:
            default = (
                field.default_factory() if field.default is dataclasses.MISSING else field.default
            )
        meta = field.metadata
        specs.append(
            FieldSpec(
                name=field.name,
                type=text,
                default=plain(default),
                doc=meta.get("doc", ""),
                low=meta.get("low"),
                high=meta.get("high"),
                above=meta.get("above"),
                choices=meta.get("choices"),
                required=required,
            )
        )
    return tuple(specs)


# ---- checking a value against a type given as text ----


class _Wrong(Exception):
    """A value does not have the declared type: `path` inside it, what was expected, and a remedy."""

    def __init__(self, message: str, path: tuple[str, ...] = (), remedy: str = ""):
        self.message, self.path, self.remedy = message, path, remedy


@lru_cache(maxsize=None)
def _parsed(text: str) -> tuple:
    return _shape(ast.parse(text, mode="eval").body)


def _shape(node: ast.expr) -> tuple:
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Constant) and node.value is None:
        return ("None",)
    if isinstance(node, ast.BinOp):
        flat: list[tuple] = []
        for side in (node.left, node.right):
            shape = _shape(side)
            flat += shape[1] if shape[0] == "union" else [shape]
        return ("union", flat)
    if isinstance(node, ast.Subscript):
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if node.value.id == "Literal":
            return ("Literal", tuple(ast.literal_eval(i) for i in inner))
        if node.value.id == "dict":
            return ("dict", _shape(inner[1]))
        variadic = isinstance(inner[-1], ast.Constant) and inner[-1].value is ...
        return (node.value.id, [_shape(i) for i in (inner[:-1] if variadic else inner)], variadic)
    raise ValueError(f"not a type: {ast.dump(node)}")


def _words(shape: tuple) -> str:
    head = shape[0]
    simple = {
        "bool": "true or false",
        "int": "a whole number",
        "float": "a number",
        "str": "text",
        "None": "null",
        "Any": "anything",
    }
    if head in simple:
        return simple[head]
    if head == "Literal":
        return (
            f"'{shape[1][0]}'"
            if len(shape[1]) == 1
            else "one of " + ", ".join(f"'{v}'" for v in shape[1])
        )
    if head == "union":
        return " or ".join(_words(s) for s in shape[1])
    if head == "dict":
        return "a mapping" if shape[1][0] == "Any" else f"a mapping of names to {_words(shape[1])}"
    if shape[2]:
        return "a list" if shape[1][0][0] == "Any" else f"a list of {_words(shape[1][0])}"
    return f"a list of {len(shape[1])} values"


def shown(value: Any) -> str:
    """A value as an error message shows it: short, on one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _expected(shape: tuple, value: Any) -> _Wrong:
    message = f"expected {_words(shape)}, got {shown(value)}"
    heads = {s[0] for s in (shape[1] if shape[0] == "union" else [shape])}
    if "int" in heads and isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        message += f"; write {int(value)}"
    elif heads & {"str", "Literal"} and isinstance(value, bool):
        message += "; YAML reads yes, no, on, off, true and false as truth values, so put the text in quotes"
    elif "str" in heads and isinstance(value, (int, float)):
        message += "; put it in quotes if it is text"
    return _Wrong(message)


def _fit(value: Any, shape: tuple, spec: FieldSpec) -> Any:
    head = shape[0]
    if head == "Any":
        return value
    if head == "union":
        # exact matches first, so that 1 stays an int in `float | int` and "a" is never taken for something else
        order = sorted(shape[1], key=lambda s: s[0] != type(value).__name__)
        failures = []
        for alternative in order:
            try:
                return _fit(value, alternative, spec)
            except _Wrong as wrong:
                failures.append((alternative, wrong))
        # an error inside a matching container, or a number out of range, says more than "expected a or b"
        for alternative, wrong in failures:
            fits = isinstance(
                value,
                {"dict": Mapping, "tuple": (list, tuple), "list": (list, tuple)}.get(
                    alternative[0], ()
                ),
            )
            if fits or wrong.message.startswith("must be"):
                raise wrong
        literals = [a for a, _ in failures if a[0] == "Literal"]
        if literals and isinstance(value, str):
            raise next(w for a, w in failures if a[0] == "Literal")
        raise _expected(shape, value)
    if head == "None":
        if value is None:
            return None
    elif head == "bool":
        if isinstance(value, bool):
            return value
    elif head == "str":
        if isinstance(value, str):
            return value
    elif head in ("int", "float"):
        if head == "float" and isinstance(value, str) and _EXPONENT.fullmatch(value):
            value = float(value)
        if (
            isinstance(value, int)
            and not isinstance(value, bool)
            or head == "float"
            and isinstance(value, float)
        ):
            try:
                number = value if head == "int" else float(value)
            except OverflowError:
                raise _Wrong("must be a finite number") from None
            if isinstance(number, float) and not math.isfinite(number):
                raise _Wrong(f"must be a finite number, got {value}")
            if head == "int" and not -(1 << 63) <= number < 1 << 63:
                raise _Wrong(f"must fit into 64 bits, got {shown(number)}")
            _in_range(number, spec)
            return number
    elif head == "Literal":
        if any(type(value) is type(v) and value == v for v in shape[1]):
            return value
        if isinstance(value, str):
            raise _Wrong(
                f"expected {_words(shape)}, got '{value}'", remedy=_near(value, shape[1])
            )
    elif head == "dict":
        if isinstance(value, Mapping):
            return {str(k): _inside(v, shape[1], spec, str(k)) for k, v in value.items()}
    elif isinstance(value, (list, tuple)):
        inner, variadic = shape[1], shape[2]
        if not variadic and len(value) != len(inner):
            raise _Wrong(f"expected {_words(shape)}, got {len(value)}")
        made = [
            _inside(v, inner[0] if variadic else inner[i], spec, str(i))
            for i, v in enumerate(value)
        ]
        return made if head == "list" else tuple(made)
    raise _expected(shape, value)


def _near(value: str, known: Sequence[Any]) -> str:
    return did_you_mean(value, [k for k in known if isinstance(k, str)], everything_up_to=0)


def _inside(value: Any, shape: tuple, spec: FieldSpec, step: str) -> Any:
    try:
        return _fit(value, shape, spec)
    except _Wrong as wrong:
        raise _Wrong(wrong.message, (step, *wrong.path), wrong.remedy) from None


def _in_range(number: float, spec: FieldSpec) -> None:
    low, high = spec.low, spec.high
    if spec.above is not None and number <= spec.above:
        raise _Wrong(f"must be above {spec.above:g}, got {number:g}")
    if (low is not None and number < low) or (high is not None and number > high):
        if low is None or high is None:
            bound = f"at least {low:g}" if high is None else f"at most {high:g}"
        else:
            bound = f"between {low:g} and {high:g}"
        raise _Wrong(f"must be {bound}, got {number:g}")


def convert(value: Any, spec: FieldSpec, key: str, raw: str | None = None, where: str = "") -> Any:
    """`value` as the field's type has it (an int where a float is wanted becomes one, a list becomes a tuple).

    key: the dotted key, for errors. raw: the text as it was typed, used when the field wants text and the command line
    made something else of it. where: the place the value came from, for errors. Raises ConfigError.
    """
    shape = _parsed(spec.type)
    try:
        try:
            made = _fit(value, shape, spec)
        except _Wrong as wrong:
            heads = {inner[0] for inner in (shape[1] if shape[0] == "union" else [shape])}
            if (
                raw is None
                or isinstance(value, str)
                or value is None
                or not heads & {"str", "Literal"}
            ):
                raise
            try:
                made = _fit(raw, shape, spec)
            except _Wrong:
                raise wrong from None
        if spec.choices is not None and made is not None and made not in spec.choices:
            raise _Wrong(
                f"expected one of {', '.join(map(str, spec.choices))}, got {shown(made)}",
                remedy=_near(made, spec.choices) if isinstance(made, str) else "",
            )
        return made
    except _Wrong as wrong:
        raise ConfigError(
            ".".join((key, *wrong.path)),
            wrong.message + (f" ({where})" if where else "") + wrong.remedy,
        ) from None
