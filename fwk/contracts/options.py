"""Options of components: how they are declared, their schema, and the check of a value against it.

A component's `Config` is a dataclass whose fields are declared with `option`. Its schema can be read from the class or
from an index file, so that names, types and ranges are checked without importing the class.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any

from fwk.contracts.option_paths import Change, change_in
from fwk.contracts.shapes import (
    Misfit,
    Plain,
    Shape,
    fit,
    nearest_text,
    parse_type,
    shown,
    type_text,
)
from fwk.errors import ConfigError, PluginError, UserError
from fwk.files import expand_user

__all__ = ["FieldSpec", "Plain", "convert", "option", "plain", "schema_of", "shown", "type_text"]


def option(
    default: Any = MISSING,
    doc: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: Sequence[Plain] | None = None,
    paths: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    brings: str = "",
    components: str = "",
) -> Any:
    """Return a field of a `Config` dataclass.

    default: without one the user must give the option. doc: one line for `--help`: unit, range, the paper's value.
    low, high: the inclusive range of numbers. above: a bound that numbers must exceed. choices: the allowed values.
    paths: the value is a path, a list of paths, or a mapping of labels to these; in a mapping below a label, the values
    of these keys are paths. A user may write ~ in them, and a run's config.yaml has them absolute. names: texts that
    are no paths. brings: the key of an option of the task that has this value where the user gives none.
    components: the value maps names to components of this kind, as {NAME: {name: ..., option: ...}}.
    The result is Any, so that type checkers accept it as the default of a field of any type.
    """
    metadata = {
        "doc": doc,
        "low": low,
        "high": high,
        "above": above,
        "choices": None if choices is None else tuple(choices),
        "paths": None if paths is None else tuple(paths),
        "names": None if names is None else tuple(names),
        "brings": brings,
        "components": components,
    }
    if default is MISSING:
        return dataclasses.field(metadata=metadata)
    if isinstance(default, (dict, list)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class FieldSpec:
    """One option of a schema."""

    name: str
    type: str  # as text, see `type_text`
    default: Plain = None  # plain data: lists, not tuples; None where the option is required
    doc: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple[Plain, ...] | None = None
    required: bool = False
    paths: tuple[str, ...] | None = None  # see `option`; None: the value holds no path
    names: tuple[str, ...] | None = None  # see `option`
    brings: str = ""  # see `option`
    components: str = ""  # see `option`

    def to_mapping(self) -> dict[str, Plain]:
        """Return plain data for an index file, without what is empty."""
        values = {
            field.name: plain(getattr(self, field.name)) for field in dataclasses.fields(self)
        }
        return {
            name: value
            for name, value in values.items()
            if name in ("name", "type", "default")
            or not (value is None or value is False or value == "")  # 0 is a bound
        }

    @classmethod
    def from_mapping(cls, values: Mapping[str, Plain]) -> FieldSpec:
        """Return the option that `to_mapping` described."""
        lists = {
            name: tuple(values[name])
            for name in ("choices", "paths", "names")
            if values.get(name) is not None
        }
        return cls(**{**values, **lists})


def plain(value: Plain) -> Plain:
    """Return the value with mappings as dicts and sequences as lists, as JSON and YAML have it."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value


def schema_of(
    config: type[Any], where: str = "", reserved: Sequence[str] = ()
) -> tuple[FieldSpec, ...]:
    """Return the schema of a `Config` dataclass.

    where: its owner, for errors. reserved: names that it may not use. Raises PluginError where the class is not a
    dataclass, or where a field cannot be described.
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
            specs.append(_field_spec(field, hints[field.name]))
        except TypeError as error:
            raise PluginError(f"{where}: field '{field.name}' of Config: {error}") from None
    return tuple(specs)


def _field_spec(field: dataclasses.Field[Any], annotation: object) -> FieldSpec:
    """Return the option of a field. Raises TypeError for a type that configurations do not have."""
    required = False
    default = None
    if field.default is not MISSING:
        default = field.default
    elif field.default_factory is not MISSING:
        default = field.default_factory()
    else:
        required = True
    meta = field.metadata
    return FieldSpec(
        name=field.name,
        type=type_text(annotation),
        default=plain(default),
        doc=meta.get("doc", ""),
        low=meta.get("low"),
        high=meta.get("high"),
        above=meta.get("above"),
        choices=meta.get("choices"),
        required=required,
        paths=meta.get("paths"),
        names=meta.get("names"),
        brings=meta.get("brings", ""),
        components=meta.get("components", ""),
    )


def change_paths(value: Plain, spec: FieldSpec, change: Change) -> Plain:
    """Return the value of an option with each of its paths changed."""
    if spec.paths is None:
        return value
    return change_in(value, change, keys=spec.paths, names=spec.names or ())


def convert(
    value: Plain, spec: FieldSpec, key: str, raw: str | None = None, where: str = ""
) -> Any:
    """Return the value as the option's type has it: where wanted, an int becomes a float and a list a tuple.

    In paths the home folder takes the place of `~`. key: the dotted key, for errors. raw: the text as it was typed,
    used where the option wants text and the command line read something else. where: the origin of the value, for
    errors. Raises ConfigError.
    """
    shape = parse_type(spec.type)
    place = f" ({where})" if where else ""
    try:
        converted = _fit_value_or_text(value, shape, spec, raw)
        if spec.choices is not None and converted is not None and converted not in spec.choices:
            raise Misfit(
                f"expected one of {', '.join(map(str, spec.choices))}, got {shown(converted)}",
                remedy=nearest_text(converted, spec.choices) if isinstance(converted, str) else "",
            )
        return change_paths(converted, spec, expand_user)
    except UserError as error:
        raise ConfigError(key, f"{error}{place}") from None
    except Misfit as misfit:
        raise ConfigError(
            ".".join((key, *misfit.path)), f"{misfit.message}{place}{misfit.remedy}"
        ) from None


def _fit_value_or_text(value: Plain, shape: Shape, spec: FieldSpec, raw: str | None) -> Any:
    """Fit the value; where text is wanted and the value is not text, the text as it was typed."""

    def check_range(number: float) -> None:
        _check_range(number, spec)

    try:
        return fit(value, shape, check_range)
    except Misfit:
        wants_text = shape.heads & {"str", "Literal"}
        if raw is None or value is None or isinstance(value, str) or not wants_text:
            raise
        try:
            return fit(raw, shape, check_range)
        except Misfit:
            pass
        raise  # the error of the value, not of the text


def _check_range(number: float, spec: FieldSpec) -> None:
    """Raise Misfit for a number outside of the option's range."""
    low, high = spec.low, spec.high
    if spec.above is not None and number <= spec.above:
        raise Misfit(f"must be above {spec.above:g}, got {number:g}")
    too_low = low is not None and number < low
    too_high = high is not None and number > high
    if not too_low and not too_high:
        return
    if high is None:
        bound = f"at least {low:g}"
    elif low is None:
        bound = f"at most {high:g}"
    else:
        bound = f"between {low:g} and {high:g}"
    raise Misfit(f"must be {bound}, got {number:g}")
