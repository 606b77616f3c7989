"""The tree of config values, merged by OmegaConf. Only this module and `interpolation` know OmegaConf's interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from fwk.config.paths import KeyPath
from fwk.contracts.options import Plain, plain
from fwk.contracts.plain import PlainDict


class Tree:
    """Values that are set one by one, each merged into what stands at its path."""

    def __init__(self) -> None:
        self._merged: DictConfig = OmegaConf.create({})
        # values set since the last question: OmegaConf merges many at once faster than one by one
        self._pending: PlainDict = {}

    def set(self, path: KeyPath, value: Plain) -> None:
        """Merge plain data into what stands at a path."""
        if not self._pends(path, value):
            self._merge_pending()  # a second value for one path is merged after the first
            self._pends(path, value)

    def _pends(self, path: KeyPath, value: Plain) -> bool:
        """Return whether the value could be added to the pending ones without replacing any of them."""
        node = self._pending
        for key in path[:-1]:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                return False
        if path[-1] in node:
            return False
        node[path[-1]] = value
        return True

    def _merge_pending(self) -> DictConfig:
        if self._pending:
            pending, self._pending = self._pending, {}
            self._merged.merge_with(pending)
        return self._merged

    def _settled(self, path: KeyPath) -> DictConfig:
        """Return the merged tree, after the pending values are merged if one stands at the path, below or above it.

        Merging takes time for every value in the tree, so asking for each of many labels must not merge each time.
        """
        node: Plain = self._pending
        for key in path:
            if not isinstance(node, dict):
                return self._merge_pending()
            if key not in node:
                return self._merged
            node = node[key]
        return self._merge_pending()

    def get(self, path: KeyPath) -> Plain:
        """Return the value at a path, with interpolations as text, or None where the path has no value."""
        node: Any = self._settled(path)
        for key in path:
            node = _child(node, key)
        return _plain_value(node)

    def remove(self, path: KeyPath) -> None:
        """Remove what stands at a path, if anything does."""
        node: Any = self._settled(path)
        for key in path[:-1]:
            node = _child(node, key)
        if _is_mapping(node) and path[-1] in node:
            del node[path[-1]]

    def labels(self, table: str) -> list[str]:
        """Return the keys of a top-level mapping whose values are not null."""
        node: Any = _child(self._merged, table)
        keys = list(node) if _is_mapping(node) else []
        present = {key: not node._get_node(key)._is_none() for key in keys}
        pending = self._pending.get(table, {})
        if not isinstance(pending, dict):
            return [key for key, value in (self.get((table,)) or {}).items() if value is not None]
        present.update({key: value is not None for key, value in pending.items()})
        return [key for key, is_there in present.items() if is_there]

    def reorder(self, table: str, labels: Sequence[str]) -> None:
        """Keep these keys of a top-level mapping only, in this order."""
        values = self.get((table,))
        self._merged[table] = OmegaConf.create({label: values[label] for label in labels})

    def to_mapping(self) -> dict[str, Plain]:
        """Return the whole tree as plain data, interpolations left as text."""
        return cast(PlainDict, _plain_value(self._merge_pending()))


def merged(values: Mapping[str, Plain], over: Mapping[str, Plain]) -> dict[str, Plain]:
    """Return plain data with `over` merged into `values`, interpolations left as text."""
    node = OmegaConf.create(dict(values), flags={"allow_objects": True})
    return cast(PlainDict, _plain_value(OmegaConf.merge(node, plain(over))))


# ---- OmegaConf's private interface: its public one resolves interpolations and raises for null ----


def _is_mapping(node: object) -> bool:
    """Return whether a node is a mapping that is not null."""
    return isinstance(node, DictConfig) and not node._is_none()


def _child(node: object, key: str) -> object:
    """Return the unresolved node under a key, or None where the key is absent."""
    return cast(DictConfig, node)._get_node(key) if _is_mapping(node) else None


def _plain_value(node: Any) -> Plain:
    """Return a node's value as plain data, interpolations left as text."""
    if OmegaConf.is_config(node):
        return OmegaConf.to_container(node, resolve=False)
    return None if node is None else node._value()
