"""The paths in the value of an option."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

from fwk.contracts.shapes import Plain

# before the name of a repository of the Hugging Face hub, which takes the place of a path
HUB = "hub:"
Change: TypeAlias = Callable[[str], str]  # of a path


def change_in(value: Plain, change: Change, keys: Collection[str], names: Collection[str]) -> Plain:
    """Return a path, a list of paths or a mapping of labels to these, with each path changed.

    keys: of a mapping below a label, whose values are paths. names: texts that are no paths; names of repositories of
    the hub are none either.
    """
    if isinstance(value, str):
        return value if value in names or value.startswith(HUB) else change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(change_in(item, change, keys, names) for item in value)
    if isinstance(value, Mapping):
        return {label: _below_label(inner, change, keys, names) for label, inner in value.items()}
    return value


def _below_label(
    value: Plain, change: Change, keys: Collection[str], names: Collection[str]
) -> Plain:
    if not isinstance(value, Mapping):
        return change_in(value, change, keys, names)
    return {
        key: change_in(inner, change, keys, names) if key in keys else inner
        for key, inner in value.items()
    }
