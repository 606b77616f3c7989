"""What `criterion.X...` points at: a label, a new label, or with a single criterion one of its options."""

from __future__ import annotations

from collections.abc import Mapping

from fwk.components.registry import registry
from fwk.config.paths import KeyPath, dotted, in_parentheses
from fwk.config.patterns import is_pattern, task_names
from fwk.config.spec import DEFAULTS, EXTRAS
from fwk.config.tree import Tree
from fwk.config.yaml_text import Layer
from fwk.contracts.options import Plain
from fwk.errors import ConfigError, did_you_mean


def locate_criterion(tree: Tree, keys: KeyPath, value: Plain, layer: Layer) -> KeyPath:
    """Return the keys below `criterion` with the label in front. Raises ConfigError where none is meant."""
    word = keys[0]
    labels = tree.labels("criterion")
    if word in labels or (any(map(is_pattern, labels)) and word in _tasks(tree)):
        return keys
    labels = labels or [DEFAULTS["criterion"]]
    options = _options_of(tree, labels[0]) if len(labels) == 1 else []
    if word in options:
        return (labels[0], *keys)

    where = in_parentheses(layer.where(("criterion", *keys)))
    if word == "name":
        raise ConfigError(
            "criterion.name",
            "'criterion' maps labels to criteria; write criterion: {LABEL: {name: "
            f"{value}}}}}, or criterion: {value}{where}",
        )
    if _starts_a_criterion(keys, value):
        return keys

    path = dotted(("criterion", *keys))
    if len(labels) > 1:
        raise ConfigError(
            path,
            f"there are several criteria, and '{word}' is not one of their labels: "
            f"{', '.join(labels)}; write criterion.LABEL.{dotted(keys)}{where}",
        )
    known = list(dict.fromkeys([*options, labels[0], *registry.names("criterion")]))
    raise ConfigError(
        path,
        f"'{word}' is neither an option of criterion '{labels[0]}' nor a criterion{where}"
        f"{did_you_mean(word, known)}",
    )


def _tasks(tree: Tree) -> list[str]:
    """Return the names that stand for a pattern."""
    return task_names({"task": tree.get(("task",))})


def _options_of(tree: Tree, label: str) -> list[str]:
    """Return the keys of a criterion that are options of its own or read by the engine."""
    name = tree.get(("criterion", label, "name")) or label
    schema = registry.get("criterion", name).schema
    return [spec.name for spec in (*schema, *EXTRAS["criterion"])]


def _starts_a_criterion(keys: KeyPath, value: Plain) -> bool:
    """Return whether a new criterion begins here: its label is a criterion's name, or its name is given."""
    word = keys[0]
    if keys[1:] == ("name",) or (isinstance(value, Mapping) and "name" in value):
        return True
    if word in registry.known("criterion"):
        return True
    # asking for all names imports what no index covers, so only where the value can be a criterion's
    can_be_whole = isinstance(value, (Mapping, str)) or value is None or len(keys) > 1
    if can_be_whole and word in registry.names("criterion"):
        return True
    return isinstance(value, str) and len(keys) == 1 and value in registry.names("criterion")
