"""Merge config files, flags and overrides into one tree, remembering where each value came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fwk.components.registry import registry
from fwk.config import yaml_text
from fwk.config.checking import (
    _at,
    _dotted,
    _known,
    _leaves,
    _network,
    _value_or_default,
    _weight,
)
from fwk.config.interpolation import _check_interpolation, _first_line, _targets
from fwk.config.spec import (
    _EXTRAS,
    _LABEL,
    _RUN,
    _SEED,
    _SLOTS,
    _TABLES,
    _TIE,
    _USER_DIRS,
    _VIEW_FIELDS,
    _WEIGHT,
    DEFAULT_HOOKS,
    DEFAULT_UPDATES,
    DEFAULTS,
    TRAIN_SCHEMA,
    Component,
    CriterionSpec,
    NetworkSpec,
    Resolved,
    RunConfig,
    TrainConfig,
)
from fwk.contracts.options import FieldSpec, convert, plain, shown
from fwk.errors import ConfigError, did_you_mean


class _Merge:
    """The layers seen so far: one OmegaConf tree in canonical form, the origin of each value by path, and for each
    place of a component the name it was given explicitly and which of its options were said for which name."""

    def __init__(self) -> None:
        self.merged: DictConfig = OmegaConf.create({})
        self.waiting: dict[
            str, Any
        ] = {}  # not merged yet: OmegaConf merges many values at once faster than one by one
        self.origins: dict[tuple[str, ...], tuple[str, str | None]] = {}
        self.named: dict[tuple[str, ...], str] = {}
        self.owners: dict[tuple[str, ...], dict[str, str | None]] = {}

    # -- layers --

    def mapping(self, layer: yaml_text.Layer) -> None:
        for key, value in layer.values.items():
            self.put((key,), value, layer)

    def flags(self, flags: Mapping[str, Any]) -> None:
        for name in ("task", "model", "optimizer", "schedule"):
            if flags.get(name) is not None:
                self.put((name,), str(flags[name]), yaml_text.Layer({}, {}, f"--{name}"))
        for name in ("run", "seed"):
            if flags.get(name) is not None:
                raw = flags[name]
                value = yaml_text.scalar(raw) if name == "seed" and isinstance(raw, str) else raw
                self.put((name,), value, yaml_text.Layer({}, {}, f"--{name}"))
        chosen = list(flags.get("criterion") or ())
        if twice := next((name for name in chosen if chosen.count(name) > 1), None):
            raise ConfigError(
                "criterion",
                f"--criterion {twice} is given twice; a criterion that is used twice takes a label: "
                f"criterion.second={{name: {twice}}}",
            )
        if chosen:
            layer = yaml_text.Layer({}, {}, "--criterion")
            current = self.labels("criterion")
            for label in current:
                if label not in chosen:
                    self.drop(("criterion", label))
            for label in chosen:
                if label not in current:
                    self.put(("criterion", label), {"name": label}, layer)
            # the order is the order of the flags
            kept = {label: self.tree.criterion._get_node(label) for label in chosen}
            self.tree.criterion = OmegaConf.create(
                {label: OmegaConf.to_container(n) for label, n in kept.items()}
            )

    def override(self, path: tuple[str, ...], value: Any, raw: str | None, text: str) -> None:
        layer = yaml_text.Layer({}, {}, text, raw)
        if path[0] == "user_dirs":
            return
        self.put(path, value, layer)

    # -- one value --

    def put(self, path: tuple[str, ...], value: Any, layer: yaml_text.Layer) -> None:
        """Merge `value` at `path`, which is brought into canonical form first."""
        top = path[0]
        if top in ("seed", "run", "user_dirs"):
            if len(path) > 1:
                raise ConfigError(".".join(path), f"'{top}' has no keys of its own")
            self.merge(path, value, layer)
        elif top == "train":
            if len(path) == 1:
                self.expect_mapping(path, value, layer, "a mapping")
                for key, inner in value.items():
                    self.put((top, key), inner, layer)
                return
            _known(
                path[:2], path[1], [f.name for f in TRAIN_SCHEMA], "train", layer.where(path[:2])
            )
            self.merge(path, value, layer)
        elif top in _SLOTS:
            self.component(path[:1], path[1:], value, layer, "name")
        elif top in _TABLES:
            self.table(top, path[1:], value, layer)
        else:
            known = ["seed", "run", "user_dirs", *_SLOTS, *_TABLES, "train"]
            advice = (
                "; write the key nested, or give it as an override on the command line"
                if "." in top
                else ""
            )
            raise ConfigError(
                top,
                f"unknown key{advice}{_at(layer.where(path[:1]))}"
                f"{did_you_mean(top.split('.')[0], known)}",
            )

    def table(self, top: str, rest: tuple[str, ...], value: Any, layer: yaml_text.Layer) -> None:
        if not rest:
            if isinstance(value, str) and top == "criterion":
                value = {value: {"name": value}}
            if value is None:
                value = {}
            self.expect_mapping(
                (top,),
                value,
                layer,
                "a mapping of labels" + (" or one name" if top == "criterion" else ""),
            )
            if top == "hooks" and not value:  # no hooks at all, not even the default ones
                for label in DEFAULT_HOOKS:
                    self.merge((top, label), None, layer)
            for key, inner in value.items():
                self.table(top, (key,), inner, layer)
            return
        label = rest[0]
        if top == "criterion":
            rest, label = self.criterion_place(rest, value, layer)
        if not _LABEL.fullmatch(label):
            raise ConfigError(
                f"{top}.{label}",
                f"a label is made of letters, digits, '_' and '-'{_at(layer.where((top, label)))}",
            )
        if len(rest) == 1 and value is None:
            self.drop((top, label))
            self.merge((top, label), None, layer)
            return
        self.component((top, label), rest[1:], value, layer, "noiser" if top == "views" else "name")

    def criterion_place(
        self, rest: tuple[str, ...], value: Any, layer: yaml_text.Layer
    ) -> tuple[tuple[str, ...], str]:
        """Where `criterion.X...` points: X is a label, or with one criterion a key of it."""
        word = rest[0]
        labels = self.labels("criterion") or [DEFAULTS["criterion"]]
        if word in self.labels("criterion"):
            return rest, word
        only = labels[0] if len(labels) == 1 else None
        keys = self.option_names("criterion", only) if only else []
        if only and word in keys:
            return (only, *rest), only
        if word == "name":
            raise ConfigError(
                "criterion.name",
                "'criterion' maps labels to criteria; write criterion: {LABEL: {name: "
                f"{value}}}}}, or criterion: {value}{_at(layer.where(('criterion', word)))}",
            )
        new_label = isinstance(value, (Mapping, str)) or value is None or len(rest) > 1
        registered = (
            word in registry._known("criterion")
            or new_label
            and word in registry.names("criterion")
        )
        if (
            registered
            or rest[1:] == ("name",)
            or (isinstance(value, Mapping) and "name" in value)
            or (isinstance(value, str) and len(rest) == 1 and value in registry.names("criterion"))
        ):
            return rest, word
        where = _at(layer.where(("criterion", *rest)))
        if len(labels) > 1:
            raise ConfigError(
                f"criterion.{'.'.join(rest)}",
                f"there are several criteria, and '{word}' is none of their "
                f"labels: {', '.join(labels)}; write criterion.LABEL.{'.'.join(rest)}{where}",
            )
        known = list(dict.fromkeys([*keys, only, *registry.names("criterion")]))
        raise ConfigError(
            f"criterion.{'.'.join(rest)}",
            f"'{word}' is neither an option of criterion '{only}' nor a "
            f"criterion{where}{did_you_mean(word, known)}",
        )

    def component(
        self,
        place: tuple[str, ...],
        rest: tuple[str, ...],
        value: Any,
        layer: yaml_text.Layer,
        naming: str,
    ) -> None:
        """Merge into the component at `place`: all of it, its name, or one option."""
        if not rest:
            if isinstance(value, str):
                value = {naming: value}
            self.expect_mapping(place, value, layer, "a name or a mapping")
            if naming in value:
                self.name(place, value[naming], layer, naming)
            for key, inner in value.items():
                if key != naming:
                    self.component(place, (key,), inner, layer, naming)
            if not value and OmegaConf.select(self.tree, _dotted(place)) is None:
                self.merge(place, {}, layer)
            if len(place) == 2 and place[0] in ("criterion", "hooks"):
                self.named.setdefault(place, self.current(place, naming))
            return
        if rest[0] == naming:
            if len(rest) > 1:
                raise ConfigError(
                    _dotted((*place, *rest)),
                    f"'{naming}' has no keys of its own{_at(layer.where((*place, *rest)))}",
                )
            self.name(place, value, layer, naming)
            return
        structural = [f.name for f in _EXTRAS.get(place[0], ()) if f.name != "network"]
        if rest[0] not in structural:
            self.owners.setdefault(place, {})[rest[0]] = self.named.get(place)
        self.merge((*place, *rest), value, layer)

    def name(self, place: tuple[str, ...], name: Any, layer: yaml_text.Layer, naming: str) -> None:
        """A component is named: options that were said for another name go."""
        path = (*place, naming)
        if not isinstance(name, str):
            raise ConfigError(
                _dotted(path), f"expected a name, got {shown(name)}{_at(layer.where(path))}"
            )
        if "${" in name:
            raise ConfigError(
                _dotted(path),
                f"a component's name cannot be an interpolation{_at(layer.where(path))}",
            )
        kind = _TABLES.get(place[0], place[0])
        registry.get(kind, name, _given_in(path, layer), _USER_DIR_ADVICE)
        owners = self.owners.get(place, {})
        for key in [k for k, owner in owners.items() if owner is not None and owner != name]:
            self.drop((*place, key))
            del owners[key]
        self.named[place] = name
        self.merge(path, name, layer)

    def merge(self, path: tuple[str, ...], value: Any, layer: yaml_text.Layer) -> None:
        value = plain(value)
        for inner, leaf in _leaves(value, path):
            _check_interpolation(leaf, _dotted(inner), _at(layer.where(inner)))
            self.origins[inner] = (layer.where(inner), layer.raw)
        node = self.waiting
        for key in path[:-1]:
            node = node.setdefault(key, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict) or path[-1] in node:
            _ = self.tree  # what waits there is merged first
            node = self.waiting
            for key in path[:-1]:
                node = node.setdefault(key, {})
        node[path[-1]] = value

    @property
    def tree(self) -> DictConfig:
        """All that has been said so far."""
        if self.waiting:
            waiting, self.waiting = self.waiting, {}
            self.merged.merge_with(waiting)
        return self.merged

    def drop(self, path: tuple[str, ...]) -> None:
        parent = self.tree
        for key in path[:-1]:
            parent = (
                parent._get_node(key)
                if isinstance(parent, DictConfig) and not parent._is_none()
                else None
            )
            if not isinstance(parent, DictConfig):
                return
        if not parent._is_none() and path[-1] in parent:
            del parent[path[-1]]
        for known in (self.origins, self.named, self.owners):
            for inner in [p for p in known if p[: len(path)] == path]:
                del known[inner]

    # -- questions --

    def labels(self, top: str) -> list[str]:
        table = self.tree._get_node(top)
        return (
            []
            if table is None
            else [label for label in table if table._get_node(label)._value() is not None]
        )

    def current(self, place: tuple[str, ...], naming: str = "name") -> str:
        name = OmegaConf.select(self.tree, _dotted((*place, naming)))
        return name or (place[1] if len(place) == 2 else DEFAULTS[place[0]])

    def option_names(self, top: str, label: str) -> list[str]:
        kind = _TABLES[top]
        schema = registry.get(kind, self.current((top, label))).schema
        return [*(f.name for f in schema), *(f.name for f in _EXTRAS.get(top, ()))]

    @staticmethod
    def expect_mapping(
        path: tuple[str, ...], value: Any, layer: yaml_text.Layer, what: str
    ) -> None:
        if not isinstance(value, Mapping):
            advice = (
                "; write label: {name: ..., option: ...} for each"
                if isinstance(value, list)
                else ""
            )
            raise ConfigError(
                _dotted(path),
                f"expected {what}, got {shown(value)}{advice}{_at(layer.where(path))}",
            )

    # -- the end --

    def finish(self, user_dirs: Sequence[str], user_dirs_origin: Sequence[str]) -> Resolved:
        """Fill in defaults, resolve interpolations, check every value."""
        given = OmegaConf.to_container(self.tree, resolve=False)
        tree: dict[str, Any] = {
            "seed": given.get("seed", _SEED.default),
            "run": given.get("run"),
            "user_dirs": list(user_dirs),
        }
        for slot in _SLOTS:
            values = dict(given.get(slot) or {})
            name = values.pop("name", DEFAULTS[slot])
            tree[slot] = {"name": name, **self.filled((slot,), slot, name, values)}
        tables: dict[str, dict[str, Any]] = {top: dict(given.get(top) or {}) for top in _TABLES}
        if not any(v is not None for v in tables["criterion"].values()):
            tables["criterion"] = {DEFAULTS["criterion"]: {}}
        tables["hooks"] = {**{label: {} for label in DEFAULT_HOOKS}, **tables["hooks"]}
        for top, kind in _TABLES.items():
            tree[top] = {}
            for label, values in tables[top].items():
                if values is None:
                    continue
                if top == "views":
                    tree[top][label] = self.view(label, dict(values))
                    continue
                values = dict(values)
                if top == "networks" and "name" not in values:
                    raise ConfigError(
                        f"networks.{label}",
                        "has no name; expected {name: MODEL, option: ...}"
                        f"{_at(self.where(('networks', label)))}",
                    )
                if top == "networks" and label == "main":
                    raise ConfigError(
                        "networks.main", "'main' is the network of 'model'; choose another name"
                    )
                name = values.pop("name", label)
                extras = _EXTRAS.get(top, ())
                head = {f.name: values.pop(f.name, plain(f.default)) for f in extras}
                known = [f.name for f in extras]
                tree[top][label] = {
                    "name": name,
                    **head,
                    **self.filled((top, label), kind, name, values, known),
                }
        train = given.get("train") or {}
        tree["train"] = {f.name: train.get(f.name, f.default) for f in TRAIN_SCHEMA}
        ends = [
            n for n in ("updates", "epochs", "tokens", "minutes") if tree["train"][n] is not None
        ]
        if not ends:
            tree["train"]["updates"] = DEFAULT_UPDATES
        tree = self.interpolated(tree)
        config = self.typed(tree)
        provenance = self.provenance(config.to_mapping(), user_dirs_origin)
        return Resolved(replace(config, provenance=provenance), provenance)

    def filled(
        self,
        place: tuple[str, ...],
        kind: str,
        name: str,
        values: Mapping[str, Any],
        known: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Options with defaults filled in; unknown and missing ones are errors. Values are checked later."""
        schema = registry.get(kind, name, self.whose(place)).schema
        key = _dotted(place)
        for option_name in values:
            _known(
                (*place, option_name),
                option_name,
                [*(f.name for f in schema), *known],
                f"{kind} '{name}'",
                self.where((*place, option_name)),
            )
        return {
            f.name: _value_or_default(f, values, f"{key}.{f.name}", f"{kind} '{name}'")
            for f in schema
        }

    def view(self, label: str, values: dict[str, Any]) -> dict[str, Any]:
        """What is said of a view: keys are checked against its noiser where one is named, else against all of them."""
        noiser = values.get("noiser")
        structural = [f.name for f in _VIEW_FIELDS]
        if noiser is not None:
            schema = registry.get("noiser", noiser, self.whose(("views", label))).schema
            names, whose = [f.name for f in schema], f"noiser '{noiser}'"
        else:
            names = [
                f.name for n in registry.names("noiser") for f in registry.get("noiser", n).schema
            ]
            whose = "a view"
        for key in values:
            _known(
                ("views", label, key),
                key,
                [*structural, *dict.fromkeys(names)],
                whose,
                self.where(("views", label, key)),
            )
        return values

    def interpolated(self, tree: dict[str, Any]) -> dict[str, Any]:
        leaves = dict(_leaves(tree, ()))
        if not any(
            isinstance(leaf, str) and ("${" in leaf or leaf == "???") for leaf in leaves.values()
        ):
            return tree
        known = {_dotted(path[:end]) for path in leaves for end in range(1, len(path) + 1)}
        for path, leaf in leaves.items():
            if leaf == "???":
                raise ConfigError(
                    _dotted(path),
                    f"must be given ('???' stands for a value still missing)"
                    f"{_at(self.where(path))}",
                )
            for target in _targets(leaf):
                if target not in known:
                    raise ConfigError(
                        _dotted(path),
                        f"${{{target}}} names no key{_at(self.where(path))}"
                        f"{did_you_mean(target, known, 0)}",
                    )
        node = OmegaConf.create(tree)
        for path, leaf in leaves.items():
            try:
                parent: Any = node
                for key in path:
                    parent = parent[int(key) if OmegaConf.is_list(parent) else key]
            except (OmegaConfBaseException, RecursionError) as error:
                circular = isinstance(error, RecursionError) or "ecursive" in str(error)
                reason = "refers to itself" if circular else _first_line(error)
                raise ConfigError(
                    _dotted(path), f"interpolation {shown(leaf)}: {reason}{_at(self.where(path))}"
                ) from None
        return OmegaConf.to_container(node, resolve=True)

    def typed(self, tree: Mapping[str, Any]) -> RunConfig:
        def checked(spec: FieldSpec, value: Any, *place: str) -> Any:
            path = (*place, spec.name)
            origin, raw = self.origins.get(path, ("", None))
            return convert(value, spec, _dotted(path), raw, origin)

        def component(kind: str, values: Mapping[str, Any], *place: str) -> Component:
            schema = registry.get(kind, values["name"]).schema
            made = {f.name: checked(f, values[f.name], *place) for f in schema if f.name in values}
            return Component(kind, values["name"], made, _dotted(place))

        criterion = {}
        for label, values in tree["criterion"].items():
            weight = _weight(
                checked(_WEIGHT, values["weight"], "criterion", label), f"criterion.{label}.weight"
            )
            criterion[label] = CriterionSpec(
                label, component("criterion", values, "criterion", label), weight
            )
        networks = {
            label: NetworkSpec(
                component("model", values, "networks", label),
                checked(_TIE, values["tie"], "networks", label),
            )
            for label, values in tree["networks"].items()
        }
        views = {}
        for label, values in tree["views"].items():
            schema = {f.name: f for f in _VIEW_FIELDS}
            if "noiser" in values:
                schema.update({f.name: f for f in registry.get("noiser", values["noiser"]).schema})
            views[label] = {
                key: checked(schema[key], value, "views", label) if key in schema else value
                for key, value in values.items()
            }
            if "name" in (
                values["network"] if isinstance(values.get("network"), Mapping) else ()
            ):  # or a criterion names it
                _network(f"views.{label}.network", values["network"])
        train = TrainConfig(
            **{f.name: checked(f, tree["train"][f.name], "train") for f in TRAIN_SCHEMA}
        )
        return RunConfig(
            seed=checked(_SEED, tree["seed"]),
            run=checked(_RUN, tree["run"]),
            user_dirs=checked(_USER_DIRS, tree["user_dirs"]),
            **{slot: component(slot, tree[slot], slot) for slot in _SLOTS},
            networks=networks,
            views=views,
            criterion=criterion,
            hooks={
                label: component("hook", values, "hooks", label)
                for label, values in tree["hooks"].items()
            },
            train=train,
        )

    def where(self, path: tuple[str, ...]) -> str:
        """Where the value at a path, or the first one inside it, came from."""
        if path in self.origins:
            return self.origins[path][0]
        return next(
            (origin for inner, (origin, _) in self.origins.items() if inner[: len(path)] == path),
            "",
        )

    def whose(self, place: tuple[str, ...]) -> str:
        origin = self.where(place)
        return f"given in {_dotted(place)}" + (f", {origin}" if origin else "")

    def provenance(
        self, mapping: Mapping[str, Any], user_dirs_origin: Sequence[str]
    ) -> dict[str, str]:
        found = {}
        for path, _ in _leaves(mapping, ()):
            for end in range(len(path), 0, -1):
                if path[:end] in self.origins:
                    found[_dotted(path)] = self.origins[path[:end]][0]
                    break
            else:
                found[_dotted(path)] = "default"
        if user_dirs_origin:
            found.update({key: user_dirs_origin[0] for key in found if key.startswith("user_dirs")})
        return found


_USER_DIR_ADVICE = "Load your own components with --user-dir"


def _given_in(path: tuple[str, ...], layer: yaml_text.Layer) -> str:
    where = layer.where(path)
    if where.startswith("--"):
        return ""  # the flag is named like the kind of component
    return f"given in {_dotted(path)}{f', {where}' if where else ''}"


def _listed(layer: yaml_text.Layer, key: str) -> list[str]:
    value = layer.values.get(key)
    value = [value] if isinstance(value, str) else [] if value is None else value
    return list(convert(value, _USER_DIRS, key, None, layer.where((key,))))
