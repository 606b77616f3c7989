"""Fill the defaults of every component and of `train` into the merged values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fwk.components.registry import registry
from fwk.config.checking import require_known, value_or_default
from fwk.config.nested import nested_components
from fwk.config.paths import KeyPath, dotted, given_in, in_parentheses
from fwk.config.provenance import Origins
from fwk.config.spec import (
    DEFAULT_HOOKS,
    DEFAULT_UPDATES,
    DEFAULTS,
    EXTRAS,
    FROM,
    SEED,
    SLOTS,
    TABLES,
    TRAIN_SCHEMA,
    VIEW_FIELDS,
)
from fwk.contracts.options import Plain, plain
from fwk.errors import ConfigError

_LENGTHS = ("updates", "epochs", "tokens", "minutes")  # options of `train` that end a run
_PERIODIC = ("validate", "save")  # what is done every so many updates, or passes over the data


def complete(
    values: Mapping[str, Plain], user_dirs: Sequence[str], origins: Origins
) -> dict[str, Plain]:
    """Return the merged values with every default filled in, still unresolved and unchecked by type.

    Raises ConfigError for unknown and missing options, UnknownName for unknown components.
    """
    tree: dict[str, Plain] = {
        "seed": values.get("seed", SEED.default),
        "run": values.get("run"),
        "user_dirs": list(user_dirs),
    }
    for slot in SLOTS:
        tree[slot] = _component((slot,), slot, DEFAULTS[slot], values.get(slot) or {}, origins)
    for table, components in _tables(values).items():
        tree[table] = {
            label: _labelled(table, label, dict(stated), origins)
            for label, stated in components.items()
            if stated is not None
        }
    tree["train"] = _train(values.get("train") or {}, origins)
    return tree


def _tables(values: Mapping[str, Plain]) -> dict[str, dict[str, Plain]]:
    """Return every table with its default components."""
    tables = {table: dict(values.get(table) or {}) for table in TABLES}
    if all(stated is None for stated in tables["criterion"].values()):
        tables["criterion"] = {DEFAULTS["criterion"]: {}}
    tables["hooks"] = {**{label: {} for label in DEFAULT_HOOKS}, **tables["hooks"]}
    return tables


def _labelled(
    table: str, label: str, stated: dict[str, Plain], origins: Origins
) -> dict[str, Plain]:
    """Return a component of a table with its defaults; of a view what was stated, because criteria add to it."""
    place = (table, label)
    if table == "views":
        _check_view_keys(place, stated, origins)
        return stated
    if table == "networks":
        _check_network_label(place, stated, origins)
        label = DEFAULTS["model"]  # where it starts from weights, and they say what it is
    return _component(place, TABLES[table], label, stated, origins)


def _component(
    place: KeyPath, kind: str, default: str, stated: Mapping[str, Plain], origins: Origins
) -> dict[str, Plain]:
    """Return a component with the keys that the engine reads beside its options. default: its name if it has none."""
    values = dict(stated)
    name = values.pop("name", default)
    extras = EXTRAS.get(place[0], ())
    head = {spec.name: values.pop(spec.name, plain(spec.default)) for spec in extras}
    extra_names = [spec.name for spec in extras]
    return {"name": name, **head, **_options(place, kind, name, values, extra_names, origins)}


def _check_network_label(place: KeyPath, stated: Mapping[str, Plain], origins: Origins) -> None:
    if "name" not in stated and stated.get(FROM.name) is None:
        raise ConfigError(
            dotted(place),
            "has no name; expected {name: MODEL, option: ...}"
            f"{in_parentheses(origins.where(place))}",
        )
    if place[1] == "main":
        raise ConfigError(dotted(place), "'main' is the network of 'model'; choose another name")


def _options(
    place: KeyPath,
    kind: str,
    name: str,
    stated: Mapping[str, Plain],
    extra_names: Sequence[str],
    origins: Origins,
) -> dict[str, Plain]:
    """Return a component's options with defaults; unknown and missing ones are errors."""
    schema = registry.get(kind, name, given_in(place, origins.where(place))).schema
    owner = f"{kind} '{name}'"
    known = [*(spec.name for spec in schema), *extra_names]
    for option_name in stated:
        path = (*place, option_name)
        require_known(path, option_name, known, owner, origins.where(path))
    for spec in schema:
        if spec.components and spec.name in stated:
            nested_components(
                spec.components, stated[spec.name], dotted((*place, spec.name)), stated
            )
    return {
        spec.name: value_or_default(spec, stated, f"{dotted(place)}.{spec.name}", owner)
        for spec in schema
    }


def _check_view_keys(place: KeyPath, stated: Mapping[str, Plain], origins: Origins) -> None:
    """Check a view's keys against its noiser where one is named, else against all noisers."""
    noiser = stated.get("noiser")
    if noiser is not None:
        schema = registry.get("noiser", noiser, given_in(place, origins.where(place))).schema
        owner = f"noiser '{noiser}'"
        names = [spec.name for spec in schema]
    else:
        owner = "a view"
        names = [spec.name for entry in registry.entries("noiser") for spec in entry.schema]
    known = [*(spec.name for spec in VIEW_FIELDS), *dict.fromkeys(names)]
    for key in stated:
        path = (*place, key)
        require_known(path, key, known, owner, origins.where(path))


def _train(stated: Mapping[str, Plain], origins: Origins) -> dict[str, Plain]:
    defaults = {spec.name: spec.default for spec in TRAIN_SCHEMA}
    train = {**defaults, **{name: stated[name] for name in defaults if name in stated}}
    if all(train[name] is None for name in _LENGTHS):
        train["updates"] = DEFAULT_UPDATES
    for work in _PERIODIC:
        updates, epochs = f"{work}_every", f"{work}_epochs"
        if train[epochs] is None:
            train[updates] = defaults[updates] if train[updates] is None else train[updates]
        elif stated.get(updates) is None:
            train[updates] = None
        else:
            raise ConfigError(
                f"train.{epochs}",
                f"takes the place of train.{updates}, which is {stated[updates]}"
                f"{in_parentheses(origins.where(('train', updates)))}; state one of them, or set the other to null",
            )
    return train
