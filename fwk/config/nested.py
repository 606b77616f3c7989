"""Components in the value of an option, such as the tasks of a task: options checked like those of any component.

    tasks: {"{task}": {name: glue, data: GLUE, set: "{task}"}, rte: {}, mrpc: {length: 64}}

An entry whose label is a pattern holds what the others have unless they state it; the name of each takes the place of
`{task}`. An entry of another component than the pattern's takes nothing from it.
"""

from __future__ import annotations

from collections.abc import Mapping

from fwk.components.registry import registry
from fwk.config.checking import LABEL, complete_values
from fwk.config.patterns import filled, is_pattern
from fwk.config.spec import Component
from fwk.config.tree import merged
from fwk.contracts.options import Plain, shown
from fwk.errors import ConfigError


def nested_components(
    kind: str, stated: Plain, key: str, common: Mapping[str, Plain] | None = None
) -> dict[str, Component]:
    """Return the components of an option's value by label, complete and checked. Imports no torch.

    key: of the option. common: options that every component which has them takes where it states none. Raises
    ConfigError, UnknownName.
    """
    if not isinstance(stated, Mapping):
        raise ConfigError(
            key, f"expected a mapping of names to {{name: ..., option: ...}}, got {shown(stated)}"
        )
    entries = {label: value for label, value in stated.items() if value is not None}
    for label, value in entries.items():
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{key}.{label}", f"expected a mapping of options, got {shown(value)}"
            )
        if not is_pattern(label) and not LABEL.fullmatch(label):
            raise ConfigError(f"{key}.{label}", "a label is made of letters, digits, '_' and '-'")
    patterns = [value for label, value in entries.items() if is_pattern(label)]
    if len(patterns) > 1:
        raise ConfigError(key, "states what all have twice; expected one entry with '{task}'")
    shared = patterns[0] if patterns else {}
    components = {
        label: _component(kind, label, value, shared, f"{key}.{label}", common or {})
        for label, value in entries.items()
        if not is_pattern(label)
    }
    if not components:
        raise ConfigError(key, "names none; expected {NAME: {name: ..., option: ...}}")
    return components


def _component(
    kind: str,
    label: str,
    stated: Mapping[str, Plain],
    shared: Mapping[str, Plain],
    key: str,
    common: Mapping[str, Plain],
) -> Component:
    values = dict(stated)
    if stated.get("name") in (None, shared.get("name")):
        values = merged(filled(shared, label), stated)
    name = values.pop("name", None)
    if not isinstance(name, str):
        known = ", ".join(registry.names(kind))
        raise ConfigError(f"{key}.name", f"which {kind}? expected one of {known}")
    schema = registry.get(kind, name, f"given in {key}").schema
    for spec in schema:
        if common.get(spec.name) is not None:
            values.setdefault(spec.name, common[spec.name])
    return Component(kind, name, complete_values(schema, values, key, f"{kind} '{name}'"), key)
