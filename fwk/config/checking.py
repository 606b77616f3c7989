"""Checks of values against the schema of their component."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fwk.components.registry import registry
from fwk.config.paths import KeyPath, dotted, in_parentheses
from fwk.config.spec import DEFAULTS, FROM, TIE, Component, NetworkSpec
from fwk.contracts.options import FieldSpec, Plain, convert, plain, shown
from fwk.contracts.plain import PlainDict
from fwk.errors import ConfigError, did_you_mean

LABEL = re.compile(r"[A-Za-z0-9_][\w-]*")  # of a component in a table of the config


def require_label(label: str, key: str, where: str = "") -> None:
    """Raise ConfigError where `label` cannot be a key of the config, or a part of a parameter's name."""
    if not LABEL.fullmatch(label):
        fact = "" if key.endswith(f".{label}") else f"{shown(label)} cannot be the name of a view; "
        raise ConfigError(
            key, f"{fact}a label is made of letters, digits, '_' and '-'{in_parentheses(where)}"
        )


def require_module_name(name: str, key: str) -> None:
    """Raise ConfigError where torch's containers of modules have an attribute `name`. Imports torch."""
    from torch import nn

    if hasattr(nn.ModuleDict(), name):
        raise ConfigError(
            key, f"torch keeps '{name}' for itself; choose another name, such as '{name}_1'"
        )


def require_known(
    path: KeyPath, name: str, known: Sequence[str], owner: str, where: str = ""
) -> None:
    """Raise ConfigError where `owner` (such as "model 'bert'") has no option `name`."""
    if name not in known:
        raise ConfigError(
            dotted(path),
            f"{owner} has no option '{name}'{in_parentheses(where)}{did_you_mean(name, known)}",
        )


def value_or_default(spec: FieldSpec, values: Mapping[str, Plain], key: str, owner: str) -> Plain:
    """Return an option's value or its default. Raises ConfigError where a required option is missing."""
    if spec.name in values:
        return values[spec.name]
    if spec.required:
        raise ConfigError(key, f"{owner} needs this option{': ' + spec.doc if spec.doc else ''}")
    return plain(spec.default)


def complete_values(
    schema: Sequence[FieldSpec], values: Mapping[str, Plain], key: str, owner: str
) -> PlainDict:
    """Return every option of a schema, checked and converted, defaults filled in. Raises ConfigError."""
    prefix = f"{key}." if key else ""
    names = [spec.name for spec in schema]
    for name in values:
        require_known((f"{prefix}{name}",), name, names, owner)

    complete = {}
    for spec in schema:
        option_key = prefix + spec.name
        value = value_or_default(spec, values, option_key, owner)
        complete[spec.name] = convert(value, spec, option_key)
    return complete


def inline_network(key: str, values: Mapping[str, Plain]) -> NetworkSpec:
    """Return the network that a view defines for itself. Raises ConfigError naming the key."""
    values = dict(values)
    start = convert(values.pop(FROM.name, None), FROM, f"{key}.{FROM.name}")
    # the name of a model that starts from weights is that of its source
    name = values.pop("name", None if start is None else DEFAULTS["model"])
    if not isinstance(name, str):
        known = ", ".join(sorted(entry.name for entry in registry.entries("model")))
        raise ConfigError(
            f"{key}.name", f"a network needs the name of a model; expected one of {known}"
        )

    tie = convert(values.pop("tie", []), TIE, f"{key}.tie")
    schema = registry.get("model", name, f"given in {key}").schema
    owner = f"model '{name}'"
    known_options = [*(spec.name for spec in schema), TIE.name, FROM.name]
    for option_name in values:
        require_known((key, option_name), option_name, known_options, owner)
    options = complete_values(schema, values, key, owner)
    return NetworkSpec(Component("model", name, options, key, start), tie)
