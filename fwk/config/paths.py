"""Paths of keys in a config, the values at their ends, and how messages show them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

KeyPath: TypeAlias = tuple[str, ...]  # ("train", "batch"), written train.batch


def dotted(path: Iterable[str]) -> str:
    """Return a path as a user writes it: 'train.batch'."""
    return ".".join(path)


def in_parentheses(where: str) -> str:
    """Return ' (base.yaml:7)' for a message, or nothing where the place is unknown."""
    return f" ({where})" if where else ""


def given_in(path: KeyPath, where: str = "") -> str:
    """Return 'given in model.name, base.yaml:3' for a message about a name."""
    return ", ".join(filter(None, (f"given in {dotted(path)}", where)))


def leaves(value: object, path: KeyPath = ()) -> Iterator[tuple[KeyPath, object]]:
    """Yield every scalar with its path; a list is yielded as None before its items, an empty container as it is."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list) and value:
        yield path, None
        for number, inner in enumerate(value):
            yield from leaves(inner, (*path, str(number)))
    else:
        yield path, value


def leaves_with_whole_lists(value: object, path: KeyPath = ()) -> Iterator[tuple[KeyPath, object]]:
    """Yield every value that is no mapping with its path; lists are not taken apart."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves_with_whole_lists(inner, (*path, key))
    else:
        yield path, value
