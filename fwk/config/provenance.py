"""Where each value of a config came from, and for which component an option was meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from fwk.config.paths import KeyPath, dotted, leaves
from fwk.config.yaml_text import Layer
from fwk.contracts.options import Plain

T = TypeVar("T")
_LONGEST_PLACE = 2  # keys of a component's place: a slot, or a table and a label


class Origins:
    """The origin of every value: a file and line, a flag or an override."""

    def __init__(self) -> None:
        self._places: dict[KeyPath, str] = {}
        self._typed: dict[KeyPath, str | None] = {}  # the text of an override, as it was typed
        # path -> the paths with a place at or below it, in the order of their recording
        self._below: dict[KeyPath, dict[KeyPath, None]] = {}

    def record(self, path: KeyPath, value: Plain, layer: Layer) -> None:
        """Record the origin of a value and of everything inside it."""
        for inner, _ in leaves(value, path):
            self._places[inner] = layer.where(inner)
            self._typed[inner] = layer.raw
            for end in range(len(inner) + 1):
                self._below.setdefault(inner[:end], {})[inner] = None

    def copy(self, path: KeyPath, other: KeyPath, rename: Callable[[str], str]) -> None:
        """Give what stands below another path the origins of what stands below this one, where it has none."""
        for inner in list(self._below.get(path, ())):
            target = (*other, *map(rename, inner[len(path) :]))
            if target in self._places:
                continue
            self._places[target], self._typed[target] = self._places[inner], self._typed[inner]
            for end in range(len(target) + 1):
                self._below.setdefault(target[:end], {})[target] = None

    def forget(self, path: KeyPath) -> None:
        """Forget a path and everything below it."""
        for inner in list(self._below.get(path, ())):
            del self._places[inner], self._typed[inner]
            for end in range(len(inner) + 1):
                del self._below[inner[:end]][inner]

    def where(self, path: KeyPath) -> str:
        """Return the origin of the value at a path, else of the first value inside it, else ''."""
        if path in self._places:
            return self._places[path]
        first = next(iter(self._below.get(path, ())), None)
        return "" if first is None else self._places[first]

    def of_value(self, path: KeyPath) -> tuple[str, str | None]:
        """Return the origin of exactly this value, and the text it was typed as."""
        return self._places.get(path, ""), self._typed.get(path)

    def provenance(self, mapping: Mapping[str, Plain], user_dirs_origin: str) -> dict[str, str]:
        """Return the origin of every value of a resolved config by dotted key; 'default' for the others."""
        places = {}
        for path, _ in leaves(mapping):
            known = (path[:end] for end in range(len(path), 0, -1) if path[:end] in self._places)
            origin = next(known, None)
            places[dotted(path)] = "default" if origin is None else self._places[origin]
        if user_dirs_origin:
            places.update({key: user_dirs_origin for key in places if key.startswith("user_dirs")})
        return places


class Intentions:
    """The component that each option was meant for: naming another one drops the options of the first.

    An option that was given before any name stays, whatever name comes later.
    """

    def __init__(self) -> None:
        self._names: dict[KeyPath, str] = {}  # place -> the name that was given there
        self._options: dict[KeyPath, dict[str, str | None]] = {}  # place -> option -> name

    def option_given(self, place: KeyPath, option: str) -> None:
        """Record an option as meant for the component named at `place` so far."""
        self._options.setdefault(place, {})[option] = self._names.get(place)

    def named(self, place: KeyPath, name: str) -> list[str]:
        """Record the name of the component at `place`. Returns the options that were meant for another."""
        options = self._options.get(place, {})
        misplaced = [key for key, meant in options.items() if meant not in (None, name)]
        for option in misplaced:
            del options[option]
        self._names[place] = name
        return misplaced

    def name_by_default(self, place: KeyPath, current: Callable[[], str]) -> None:
        """Record the current name of the component at `place` where none was given."""
        if place not in self._names:
            self._names[place] = current()

    def forget(self, path: KeyPath) -> None:
        """Forget a path and everything below it."""
        _forget(self._names, path)
        _forget(self._options, path)


def _forget(known: dict[KeyPath, T], path: KeyPath) -> None:
    """Forget a component's place, or those below a path that is shorter than a place."""
    if len(path) >= _LONGEST_PLACE:
        known.pop(path, None)
        return
    for inner in [inner for inner in known if inner[: len(path)] == path]:
        del known[inner]
