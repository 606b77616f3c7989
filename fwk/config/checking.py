"""Checks of single values against their declared options."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fwk.components.registry import registry
from fwk.config.spec import _TIE, Component, NetworkSpec
from fwk.contracts.options import FieldSpec, convert, plain
from fwk.errors import ConfigError, did_you_mean


def _dotted(path: Iterable[str]) -> str:
    return ".".join(path)


def _at(where: str) -> str:
    return f" ({where})" if where else ""


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every scalar with its path; lists count as inner nodes, empty containers as leaves."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list) and value:
        yield path, None
        for number, inner in enumerate(value):
            yield from _leaves(inner, (*path, str(number)))
    else:
        yield path, value


def _known(path: tuple[str, ...], name: str, known: Sequence[str], whose: str, where: str) -> None:
    if name not in known:
        raise ConfigError(
            _dotted(path), f"{whose} has no option '{name}'{_at(where)}{did_you_mean(name, known)}"
        )


def _value_or_default(spec: FieldSpec, values: Mapping[str, Any], key: str, whose: str) -> Any:
    if spec.name in values:
        return values[spec.name]
    if spec.required:
        raise ConfigError(key, f"{whose} needs this option{': ' + spec.doc if spec.doc else ''}")
    return plain(spec.default)


def _filled(
    schema: Sequence[FieldSpec], values: Mapping[str, Any], key: str, whose: str
) -> dict[str, Any]:
    prefix = f"{key}." if key else ""
    for name in values:
        _known((f"{prefix}{name}",), name, [f.name for f in schema], whose, "")
    return {
        f.name: convert(_value_or_default(f, values, prefix + f.name, whose), f, prefix + f.name)
        for f in schema
    }


def _weight(weight: Any, key: str) -> float | dict[str, float]:
    """A number, or a complete {from, to, start, end}."""
    if not isinstance(weight, Mapping):
        return weight
    for name in weight:
        if name not in ("from", "to", "start", "end"):
            raise ConfigError(
                f"{key}.{name}",
                f"a weight that changes has the keys from, to, start, end"
                f"{did_you_mean(name, ('from', 'to', 'start', 'end'), 0)}",
            )
    for name in ("from", "to"):
        if name not in weight:
            raise ConfigError(
                f"{key}.{name}", "a weight that changes needs this key (the weight at that end)"
            )
    made = {
        "from": weight["from"],
        "to": weight["to"],
        "start": weight.get("start", 0.0),
        "end": weight.get("end", 1.0),
    }
    if not 0 <= made["start"] < made["end"] <= 1:
        raise ConfigError(
            key,
            "expected 0 <= start < end <= 1 (shares of the run), got start "
            f"{made['start']:g} and end {made['end']:g}",
        )
    return made


def _network(key: str, values: Mapping[str, Any]) -> NetworkSpec:
    """An inline network of a view."""
    values = dict(values)
    name = values.pop("name", None)
    if not isinstance(name, str):
        known = ", ".join(sorted(entry.name for entry in registry.entries("model")))
        raise ConfigError(
            f"{key}.name", f"a network needs the name of a model; expected one of {known}"
        )
    tie = convert(values.pop("tie", []), _TIE, f"{key}.tie")
    schema = registry.get("model", name, f"given in {key}").schema
    for option_name in values:
        _known(
            (key, option_name),
            option_name,
            [*(f.name for f in schema), "tie"],
            f"model '{name}'",
            "",
        )
    return NetworkSpec(
        Component("model", name, _filled(schema, values, key, f"model '{name}'"), key), tie
    )


def _leaves_whole(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves_whole(inner, (*path, key))
    else:
        yield path, value
