"""Examples of registered components for error messages, so that the core names none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fwk.components.registry import Entry, registry


def such_as(kind: str, suits: Callable[[Any], bool]) -> str:
    """Return ", such as 'NAME'" with the first component of a kind whose class suits; "" where none does.

    Built-in components come first. Their classes are imported.
    """

    def by_origin(entry: Entry) -> tuple[bool, str]:
        return entry.plugin != "fwk", entry.name

    for entry in sorted(registry.entries(kind), key=by_origin):
        if suits(entry.cls):
            return f", such as '{entry.name}'"
    return ""
