"""Merge files, flags and overrides into one tree in canonical form.

In canonical form every component is a mapping {name, options...} (a view: {noiser, ...}) and every table maps labels to
components. Short forms (`model: bert`, `criterion: masked_lm`, `criterion.weight=2`) are brought into it here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fwk.components.registry import registry
from fwk.config import yaml_text
from fwk.config.checking import require_known, require_label
from fwk.config.criterion_keys import locate_criterion
from fwk.config.extending import EXTENDS
from fwk.config.interpolation import check_interpolation
from fwk.config.paths import KeyPath, dotted, given_in, in_parentheses, leaves
from fwk.config.patterns import TABLES as PATTERNED
from fwk.config.patterns import TASK, with_plain_references
from fwk.config.provenance import Intentions, Origins
from fwk.config.spec import (
    DEFAULT_HOOKS,
    DEFAULTS,
    EXTRAS,
    SLOTS,
    TABLES,
    TOP_LEVEL,
    TRAIN_SCHEMA,
)
from fwk.config.tree import Tree
from fwk.config.yaml_text import Layer, Override
from fwk.contracts.options import Plain, plain, shown
from fwk.errors import ConfigError, did_you_mean

_PLAIN_KEYS = ("seed", "run", "user_dirs")  # keys without keys of their own
_USER_DIR_ADVICE = "Load your own components with --user-dir"


class Merger:
    """The layers merged so far: their values, the origin of each, and what options were meant for."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.origins = Origins()
        self.intentions = Intentions()

    # ---- layers ----

    def add_layer(self, layer: Layer) -> None:
        """Merge the values of a file or a mapping."""
        for key, value in layer.values.items():
            self._put((key,), value, layer)

    def add_flags(self, flags: Mapping[str, Plain]) -> None:
        """Merge the flags --task, --model, --criterion (a list), --optimizer, --schedule, --run and --seed."""
        for name in SLOTS:
            if flags.get(name) is not None:
                self._put((name,), str(flags[name]), Layer({}, name=f"--{name}"))
        for name in ("run", "seed"):
            value = flags.get(name)
            if value is not None:
                if name == "seed" and isinstance(value, str):
                    value = yaml_text.scalar(value)
                self._put((name,), value, Layer({}, name=f"--{name}"))
        if flags.get("criterion"):
            self._select_criteria(list(flags["criterion"]))

    def add_override(self, override: Override) -> None:
        """Merge `key.path=value`; user_dirs are loaded before anything is merged."""
        if override.path[0] != "user_dirs":
            layer = Layer({}, name=override.origin, raw=override.typed)
            self._put(override.path, override.value, layer)

    def _select_criteria(self, chosen: Sequence[str]) -> None:
        """Keep the criteria of the flags only, in their order, with the options that files gave them."""
        for name in chosen:
            if chosen.count(name) > 1:
                raise ConfigError(
                    "criterion",
                    f"--criterion {name} is given twice; a criterion that is used twice takes a "
                    f"label: criterion.second={{name: {name}}}",
                )
        current = self.tree.labels("criterion")
        for label in current:
            if label not in chosen:
                self._remove(("criterion", label))
        for label in chosen:
            if label not in current:
                self._put(("criterion", label), {"name": label}, Layer({}, name="--criterion"))
        self.tree.reorder("criterion", chosen)

    # ---- one value ----

    def _put(self, path: KeyPath, value: Plain, layer: Layer) -> None:
        """Merge a value at a path, after bringing it into canonical form."""
        top = path[0]
        if top in _PLAIN_KEYS:
            if len(path) > 1:
                raise ConfigError(dotted(path), f"'{top}' has no keys of its own")
            self._merge(path, value, layer)
        elif top == "train":
            self._put_train(path, value, layer)
        elif top in SLOTS:
            self._put_component(path[:1], path[1:], value, layer, "name")
        elif top in TABLES and len(path) == 1:
            self._put_table(top, value, layer)
        elif top in TABLES:
            self._put_label(top, path[1:], value, layer)
        elif top == EXTENDS:
            raise ConfigError(
                EXTENDS,
                "only a config file extends another one; give both files by --config"
                f"{in_parentheses(layer.where(path))}",
            )
        else:
            advice = (
                "; write the key nested, or give it as an override on the command line"
                if "." in top
                else ""
            )
            raise ConfigError(
                top,
                f"unknown key{advice}{in_parentheses(layer.where(path[:1]))}"
                f"{did_you_mean(top.split('.')[0], TOP_LEVEL)}",
            )

    def _put_train(self, path: KeyPath, value: Plain, layer: Layer) -> None:
        if len(path) == 1:
            _require_mapping(path, value, layer, "a mapping")
            for key, inner in value.items():
                self._put_train(("train", key), inner, layer)
            return
        known = [spec.name for spec in TRAIN_SCHEMA]
        require_known(path[:2], path[1], known, "train", layer.where(path[:2]))
        self._merge(path, value, layer)

    def _put_table(self, table: str, value: Plain, layer: Layer) -> None:
        """Merge a whole table: a mapping of labels, null, or for `criterion` one name."""
        expected = "a mapping of labels"
        if table == "criterion":
            expected += " or one name"
            if isinstance(value, str):
                value = {value: {"name": value}}
        value = {} if value is None else value
        _require_mapping((table,), value, layer, expected)
        if table == "hooks" and not value:  # no hooks at all, not even the default ones
            for label in DEFAULT_HOOKS:
                self._merge((table, label), None, layer)
        for key, inner in value.items():
            self._put_label(table, (key,), inner, layer)

    def _put_label(self, table: str, keys: KeyPath, value: Plain, layer: Layer) -> None:
        """Merge into a table at LABEL or LABEL.key...; null removes the label."""
        if table == "criterion":
            keys = locate_criterion(self.tree, keys, value, layer)
        place = (table, keys[0])
        label = keys[0].replace(TASK, "task") if table in PATTERNED else keys[0]
        require_label(label, dotted(place), layer.where(place))
        if len(keys) == 1 and value is None:
            self._remove(place)
            self._merge(place, None, layer)
            return
        naming = "noiser" if table == "views" else "name"
        self._put_component(place, keys[1:], value, layer, naming)

    def _put_component(
        self, place: KeyPath, keys: KeyPath, value: Plain, layer: Layer, naming: str
    ) -> None:
        """Merge into the component at `place`: all of it, its name, or one option."""
        if not keys:
            self._put_whole_component(place, value, layer, naming)
            return
        path = (*place, *keys)
        if keys[0] != naming:
            structural = [spec.name for spec in EXTRAS.get(place[0], ()) if spec.name != "network"]
            if keys[0] not in structural:
                self.intentions.option_given(place, keys[0])
            self._merge(path, value, layer)
        elif len(keys) > 1:
            raise ConfigError(
                dotted(path),
                f"'{naming}' has no keys of its own{in_parentheses(layer.where(path))}",
            )
        else:
            self._name_component(place, value, layer, naming)

    def _put_whole_component(self, place: KeyPath, value: Plain, layer: Layer, naming: str) -> None:
        if isinstance(value, str):
            value = {naming: value}
        _require_mapping(place, value, layer, "a name or a mapping")
        if naming in value:
            self._name_component(place, value[naming], layer, naming)
        for key, inner in value.items():
            if key != naming:
                self._put_component(place, (key,), inner, layer, naming)
        if not value and self.tree.get(place) is None:
            self._merge(place, {}, layer)
        if place[0] in (
            "criterion",
            "hooks",
        ):  # a label names the component where nothing else does
            self.intentions.name_by_default(place, lambda: component_name(self.tree, place))

    def _name_component(self, place: KeyPath, name: Plain, layer: Layer, naming: str) -> None:
        """Name the component at `place`; options that were meant for another one are dropped."""
        path = (*place, naming)
        where = layer.where(path)
        if not isinstance(name, str):
            raise ConfigError(
                dotted(path), f"expected a name, got {shown(name)}{in_parentheses(where)}"
            )
        if "${" in name:
            raise ConfigError(
                dotted(path),
                f"a component's name cannot be an interpolation{in_parentheses(where)}",
            )
        # a flag is named like the kind of component, so its name says nothing that the kind does not
        place_in_words = "" if where.startswith("--") else given_in(path, where)
        registry.get(TABLES.get(place[0], place[0]), name, place_in_words, _USER_DIR_ADVICE)
        for option in self.intentions.named(place, name):
            self._remove((*place, option))
        self._merge(path, name, layer)

    def _merge(self, path: KeyPath, value: Plain, layer: Layer) -> None:
        value = with_plain_references(plain(value))
        for inner, leaf in leaves(value, path):
            check_interpolation(leaf, dotted(inner), in_parentheses(layer.where(inner)))
        self.origins.record(path, value, layer)
        self.tree.set(path, value)

    def _remove(self, path: KeyPath) -> None:
        self.tree.remove(path)
        self.origins.forget(path)
        self.intentions.forget(path)


def component_name(tree: Tree, place: KeyPath) -> str:
    """Return the name of the component at `place`: the given one, else the label, else the default."""
    name = tree.get((*place, "name"))
    return name or (place[1] if len(place) == 2 else DEFAULTS[place[0]])


def _require_mapping(path: KeyPath, value: Plain, layer: Layer, expected: str) -> None:
    if isinstance(value, Mapping):
        return
    advice = "; write label: {name: ..., option: ...} for each" if isinstance(value, list) else ""
    raise ConfigError(
        dotted(path),
        f"expected {expected}, got {shown(value)}{advice}{in_parentheses(layer.where(path))}",
    )
