"""The key `needs:` of a config: the runs that a run needs, as files, mappings and overrides state them.

    needs:
      mnli: {config: mnli.yaml, train: {epochs: 2}}
      "teacher_{task}": {over: [rte, mrpc], config: single.yaml, task: {set: "{task}"}, targets: train}

    model: {from: "${needs.mnli.run}"}

An entry has a few keys of its own, and every key of a config besides, which overrides `config`. Its name may be a
pattern; every text of the entry then has the same `{...}` replaced.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from fwk.config.checking import require_known, require_label
from fwk.config.extending import read_with_bases
from fwk.config.interpolation import MISSING
from fwk.config.paths import KeyPath, in_parentheses, leaves
from fwk.config.run_config import targets_file
from fwk.config.spec import NEEDS, RUNS, RUNS_SCHEMA, TOP_LEVEL
from fwk.config.yaml_text import Layer, Override
from fwk.contracts.options import Plain, convert, shown
from fwk.contracts.plain import PlainDict, PlainMapping
from fwk.errors import ConfigError
from fwk.files import user_path

_OWN_KEYS = (
    "config",
    "run",
    "targets",
    "over",
    "same",
)  # of an entry; the others are those of a config
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_SPLIT = re.compile(r"\w[\w.-]*")
_REFERENCE = re.compile(r"\$\{\s*needs\.([\w-]+)\.targets\s*\}")

Places = Mapping[str, PlainDict]  # by name of a needed run: its `run`, and its `targets` if any


@dataclass(frozen=True)
class Entry:
    """One needed run as it is stated."""

    name: str
    layers: Sequence[Layer]  # its config, without the keys of the entry
    folder: str | None  # None: beside the run that needs it
    split: str | None
    same: tuple[str, ...] = ()  # dotted keys whose values are those of the run that needs it

    def inherited(self, values: PlainMapping) -> Layer:
        """Return the values of `same` among those of the run that needs this one, as far as it states them."""
        layer: PlainDict = {}
        for key in self.same:
            value: Plain = values
            for name in key.split("."):
                value = value.get(name) if isinstance(value, Mapping) else None
            if value is not None and value != MISSING:
                place = layer
                *parents, last = key.split(".")
                for name in parents:
                    place = place.setdefault(name, {})
                place[last] = value
        return Layer(layer, name=f"{self.key}.same")

    @property
    def key(self) -> str:
        """The entry's key in the config that states it."""
        return f"{NEEDS}.{self.name}"

    def place(self, beside: str) -> PlainDict:
        """Return what other values may refer to. beside: the folder of the run that needs it, or one in `runs/`."""
        folder = self.folder or os.path.join(os.path.dirname(beside), self.name)
        if os.sep not in folder:  # so that a value that refers to it is seen to be a path
            folder = os.path.join(os.curdir, folder)
        targets = {} if self.split is None else {"targets": targets_file(folder, self.split)}
        return {"run": folder, **targets}


@dataclass
class StatedNeeds:
    """What the layers of one config say about other runs, and the layers without it."""

    layers: list[Layer]
    overrides: list[Override]
    entries: list[Entry] = field(default_factory=list)
    parallel: int = 1

    @classmethod
    def of(cls, layers: Sequence[Layer], overrides: Sequence[Override]) -> StatedNeeds:
        """Return what layers and overrides state. Raises ConfigError naming the key."""
        about = [_as_layer(o) if o.path[0] in (NEEDS, RUNS) else None for o in overrides]
        rest = [o for o, layer in zip(overrides, about) if layer is None]
        stated = cls([layer.without(NEEDS).without(RUNS) for layer in layers], rest)
        fragments: dict[str, list[Layer]] = {}
        for layer in [*layers, *(layer for layer in about if layer is not None)]:
            stated._take_runs(layer)
            _take_fragments(layer, fragments)
        for name, parts in _expanded(fragments):
            stated.entries.append(_entry(name, parts))
        return stated

    def places(self, run: Plain) -> dict[str, PlainDict]:
        """Return the places of the needed runs by name. run: the folder of the run that needs them, if stated."""
        beside = run if isinstance(run, str) and run else os.path.join("runs", "run")
        return {entry.name: entry.place(beside.rstrip("/")) for entry in self.entries}

    def _take_runs(self, layer: Layer) -> None:
        """Take the value of `runs.parallel`."""
        if RUNS not in layer.values:
            return
        values = _mapping((RUNS,), layer.values[RUNS] or {}, layer)
        known = {spec.name: spec for spec in RUNS_SCHEMA}
        for name, value in values.items():
            path = (RUNS, name)
            require_known(path, name, list(known), f"'{RUNS}'", layer.where(path))
            self.parallel = convert(
                value, known[name], f"{RUNS}.{name}", layer.raw, layer.where(path)
            )


def check_references(values: object, places: Places) -> None:
    """Raise ConfigError where a value refers to the targets of a needed run that states none."""
    for path, value in leaves(values):
        for name in _REFERENCE.findall(value) if isinstance(value, str) else ():
            if name in places and "targets" not in places[name]:
                raise ConfigError(
                    ".".join(path),
                    f"${{needs.{name}.targets}} is not made, because needs.{name} states no split; add "
                    f"needs.{name}.targets=train",
                )


# -- from layers to entries ------------------------------------------------------------------------------------------


def _as_layer(override: Override) -> Layer:
    """Return the layer of an override of one needed run."""
    value = override.value
    for key in reversed(override.path[1:]):
        value = {key: value}
    return Layer({override.path[0]: value}, name=override.origin, raw=override.typed)


def _mapping(path: KeyPath, value: Plain, layer: Layer) -> Mapping[str, Plain]:
    if isinstance(value, Mapping):
        return value
    raise ConfigError(
        ".".join(path),
        f"expected a mapping, got {shown(value)}{in_parentheses(layer.where(path))}",
    )


def _take_fragments(layer: Layer, fragments: dict[str, list[Layer]]) -> None:
    """Add what a layer says of each needed run; null removes one."""
    if NEEDS not in layer.values:
        return
    for name, value in _mapping((NEEDS,), layer.values[NEEDS] or {}, layer).items():
        if value is None:
            fragments.pop(name, None)
            continue
        values = _mapping((NEEDS, name), value, layer)
        lines = {
            path[2:]: line
            for path, line in layer.lines.items()
            if path[:2] == (NEEDS, name) and len(path) > 2
        }
        fragments.setdefault(name, []).append(replace(layer, values=values, lines=lines))


def _expanded(fragments: Mapping[str, Sequence[Layer]]) -> Iterator[tuple[str, list[Layer]]]:
    """Yield the name and the layers of every entry, patterns taken apart.

    What is stated of a name that a pattern gives is laid over the pattern's.
    """
    patterns = {name: _over(parts) for name, parts in fragments.items()}
    members = [
        (pattern, name, values)
        for pattern, over in patterns.items()
        if over is not None
        for name, values in _members(pattern, over)
    ]
    pattern_of: dict[str, str] = {}
    for pattern, name, _ in members:
        if name in pattern_of:
            raise ConfigError(
                f"{NEEDS}.{name}", f"'{pattern_of[name]}' and '{pattern}' both name this run"
            )
        pattern_of[name] = pattern

    for pattern, parts in fragments.items():
        if patterns[pattern] is None and pattern not in pattern_of:
            _require_no_placeholder(pattern, parts)
            yield pattern, list(parts)
        for _, name, values in (member for member in members if member[0] == pattern):
            filled = [replace(part, values=_filled(part.values, values)) for part in parts]
            yield name, [*filled, *fragments.get(name, ())]


def _require_no_placeholder(name: str, parts: Sequence[Layer]) -> None:
    if _PLACEHOLDER.search(name):
        raise ConfigError(
            f"{NEEDS}.{name}",
            "a pattern needs the values of its {...}; add 'over: [...]', or 'over: {NAME: [...]}' for several"
            f"{in_parentheses(parts[0].name)}",
        )


def _over(parts: Sequence[Layer]) -> Plain:
    return _last(parts, "over")[0]


def _last(parts: Sequence[Layer], key: str) -> tuple[Plain, Layer | None]:
    """Return the value that the last of the layers gives a key, with that layer."""
    for layer in reversed(parts):
        if key in layer.values:
            return layer.values[key], layer
    return None, None


def _members(pattern: str, over: Plain) -> Iterator[tuple[str, PlainDict]]:
    """Yield the name of every member of a pattern, with the values of its placeholders."""
    key = f"{NEEDS}.{pattern}.over"
    holders = list(dict.fromkeys(_PLACEHOLDER.findall(pattern)))
    if isinstance(over, list) and len(holders) == 1:
        over = {holders[0]: over}
    if not isinstance(over, Mapping) or not holders or sorted(over) != sorted(holders):
        wanted = ", ".join(f"{name}: [...]" for name in holders)
        remedy = f"expected {{{wanted}}}" if holders else "belongs to a name with {...}"
        raise ConfigError(key, f"{remedy}, got {shown(over)} for '{pattern}'")
    for name in holders:
        items = over[name]
        if not isinstance(items, list) or not items:
            raise ConfigError(f"{key}.{name}", f"expected a list of values, got {shown(items)}")
        for item in items:
            if isinstance(item, (list, Mapping)) or item is None:
                raise ConfigError(f"{key}.{name}", f"expected names or numbers, got {shown(item)}")
    for chosen in product(*(over[name] for name in holders)):
        values = dict(zip(holders, chosen))
        yield str(_filled(pattern, values)), values


def _filled(value: Plain, values: Mapping[str, Plain]) -> Plain:
    """Return a value with the placeholders replaced; a text that is nothing but one becomes the value itself."""
    if isinstance(value, Mapping):
        return {str(_filled(k, values)): _filled(v, values) for k, v in value.items()}
    if isinstance(value, list):
        return [_filled(item, values) for item in value]
    if not isinstance(value, str):
        return value
    for name, replacement in values.items():
        if value == f"{{{name}}}":
            return replacement
        value = value.replace(f"{{{name}}}", str(replacement))
    return value


def _entry(name: str, parts: Sequence[Layer]) -> Entry:
    """Return the entry of a name. Raises ConfigError for wrong values of its own keys."""
    require_label(name, f"{NEEDS}.{name}", parts[0].name)
    key = f"{NEEDS}.{name}"
    known = [*_OWN_KEYS, *(name for name in TOP_LEVEL if name not in _OWN_KEYS)]
    for part in parts:
        for name_of_key in part.values:
            path = (*key.split("."), name_of_key)
            require_known(path, name_of_key, known, "a needed run", part.where((name_of_key,)))
    files = [layer for file in _files(key, parts) for layer in _read(file, key)]
    split = _text(key, "targets", parts)
    if split is not None and not _SPLIT.fullmatch(split):
        raise ConfigError(
            f"{key}.targets", f"expected the name of a split, such as train, got {shown(split)}"
        )
    folder = _text(key, "run", parts) or _text(key, "run", files)
    layers = files + [_without_own(layer) for layer in parts]
    own = [layer.without("run") for layer in layers]
    return Entry(name, own, folder, split, _same(key, parts))


def _same(key: str, parts: Sequence[Layer]) -> tuple[str, ...]:
    """Return the keys whose values an entry shares with the run that needs it. Raises ConfigError for other values."""
    value, layer = _last(parts, "same")
    if value is None or layer is None:
        return ()
    names = value if isinstance(value, list) else [value]
    for name in names:
        if not isinstance(name, str) or name.split(".")[0] not in TOP_LEVEL:
            at = in_parentheses(layer.where(("same",)))
            raise ConfigError(
                f"{key}.same",
                f"expected a list of keys, such as [task.data], got {shown(value)}{at}",
            )
    return tuple(names)


def _read(file: Path, key: str) -> list[Layer]:
    """Return the layers of a config file. Raises ConfigError, which names the entry where the file is missing."""
    try:
        return read_with_bases(file)
    except ConfigError as error:
        if error.key != "--config":
            raise
        raise ConfigError(f"{key}.config", str(error).removeprefix("--config: ")) from None


def _without_own(layer: Layer) -> Layer:
    values = {key: value for key, value in layer.values.items() if key not in _OWN_KEYS}
    return replace(layer, values=values)


def _text(key: str, name: str, parts: Sequence[Layer]) -> str | None:
    """Return the last text that layers give one of an entry's own keys."""
    value, layer = _last(parts, name)
    at = in_parentheses(layer.where((name,)) if layer else "")
    if value is None:
        return None
    if not isinstance(value, str) or not value or "\0" in value:
        raise ConfigError(f"{key}.{name}", f"expected text, got {shown(value)}{at}")
    if "${" in value:
        raise ConfigError(
            f"{key}.{name}",
            f"cannot be an interpolation, because others refer to it; state the text itself{at}",
        )
    return str(user_path(value)) if name == "run" else value


def _files(key: str, parts: Sequence[Layer]) -> list[Path]:
    """Return the config files of an entry, which are relative to the file that states them."""
    value, layer = _last(parts, "config")
    if value is None or layer is None:
        return []
    names = value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) and name for name in names):
        at = in_parentheses(layer.where(("config",)))
        raise ConfigError(
            f"{key}.config", f"expected a config file, or a list of them, got {shown(value)}{at}"
        )
    folder = Path(layer.name).parent if layer.is_file else Path()
    return [folder / user_path(name) for name in names]
