"""Resolution of YAML files, flags and dotted overrides to a typed, checked `RunConfig` with the origin of each value.

Later wins: registered defaults, then files in order, then flags, then `key=value`. The passes, one module each:

    extending      read files, each after the one that it extends
    merge          bring every layer into canonical form and merge it; remember origins
    patterns       write an entry per task for each that is written once for all
    completing     fill in the defaults of every component
    interpolation  replace ${key.path}
    typed          check every value by its type
    bringing       let an option bring the value of another key, such as the tokenizer of a model
    needs, chain   take out the runs that the run needs, and resolve each of them in turn

Nothing here imports torch for built-in and first-party components; `Component.config` and `RunConfig.views_by_name` do.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fwk.components.discovery import discover, existing
from fwk.components.trust import UserDir, require_trust
from fwk.config.bringing import with_brought_values
from fwk.config.chain import add_run, at_entry, filled_in, require_no_circle, require_not_above
from fwk.config.checking import complete_values
from fwk.config.completing import complete
from fwk.config.extending import read_with_bases
from fwk.config.interpolation import resolve_interpolations
from fwk.config.merge import Merger
from fwk.config.needs import Places, StatedNeeds, check_references
from fwk.config.patterns import expand_patterns
from fwk.config.python_values import plain_from_python
from fwk.config.run_config import NeededRun, Needs, Resolved, RunConfig
from fwk.config.spec import NEEDS, SLOTS, USER_DIRS, construct
from fwk.config.typed import TypedValues
from fwk.config.yaml_text import Layer, Override, parse_override
from fwk.contracts.options import Plain, convert, schema_of, shown
from fwk.contracts.plain import PlainDict, PlainMapping
from fwk.errors import ConfigError, PluginError, UnknownName


def resolve(
    files: Sequence[str | Path] = (),
    flags: Mapping[str, Plain] | None = None,
    overrides: Sequence[str | Override] = (),
    user_dirs: Sequence[str | Path] = (),
    allow_broken: bool = False,
    layers: Sequence[tuple[str, Mapping[str, Plain]] | Layer] = (),
) -> Resolved:
    """Return the config of files, flags and overrides, with the origin of every value.

    files: YAML, later wins. flags: task, model, criterion (a list), optimizer, schedule, run, seed. overrides:
    "key.path=value". user_dirs: loaded first, with those that the files name. layers: (origin, mapping), merged between
    files and flags. Raises UserError naming the key, and UntrustedCode for code that only a file names and the user has
    not allowed (see `fwk.components.trust`). Imports no torch unless user code does.
    """
    parsed = [parse_override(text) if isinstance(text, str) else text for text in overrides]
    request = _Request(_in_order(files, layers), flags or {}, parsed, user_dirs, allow_broken)
    config = _resolve(request)[0]
    require_no_circle(config)
    return Resolved(config, dict(config.provenance))


@dataclass(frozen=True)
class _Request:
    """What one config is resolved from."""

    layers: Sequence[Layer]
    flags: Mapping[str, Plain]
    overrides: Sequence[Override]
    user_dirs: Sequence[str | Path]
    allow_broken: bool
    places: Places = field(default_factory=dict)  # that the config may refer to, besides its own
    above: tuple[str, ...] = ()  # the folders of the runs that need this one


def _resolve(request: _Request) -> tuple[RunConfig, PlainDict]:
    """Return a config with the runs that it needs, and what it states as plain data."""
    given = StatedNeeds.of(request.layers, request.overrides)
    named = _user_dirs(given.layers, given.overrides, request.user_dirs)
    require_trust(named)
    folders = list(dict.fromkeys(str(user_dir.place) for user_dir in named))
    discover(folders, request.allow_broken)

    merger = Merger()
    for layer in given.layers:
        merger.add_layer(layer)
    merger.add_flags(request.flags)
    for override in given.overrides:
        merger.add_override(override)

    stated = expand_patterns(merger.tree.to_mapping(), merger.origins)
    places = {**request.places, **given.places(stated.get("run"))}
    check_references(stated, places)
    tree = complete(stated, folders, merger.origins)
    tree = resolve_interpolations({**tree, NEEDS: places}, merger.origins.where)
    places = tree.pop(NEEDS)
    config = TypedValues(tree, merger.origins).run_config()
    provenance = merger.origins.provenance(
        config.to_mapping(), user_dirs_origin="--user-dir" if request.user_dirs else ""
    )
    config, provenance = with_brought_values(config, provenance)
    stated = filled_in(stated, tree)
    needs = _needs(given, replace(request, places=places), config.run, named, stated)
    if config.user_dirs:
        stated["user_dirs"] = list(config.user_dirs)
    return replace(config, provenance=provenance, needs=needs), stated


def _needs(
    given: StatedNeeds,
    request: _Request,
    run: str | None,
    user_dirs: Sequence[UserDir],
    stated: PlainMapping,
) -> Needs:
    """Return the runs that a config states that it needs, each resolved, after those that it needs itself.

    run: the folder of the run that needs them. user_dirs: of its config, which are those of needed runs, too. stated:
    what its config states.
    """
    shared = [
        Layer({"user_dirs": [str(u.place)]}, name=u.origin, is_file=not u.by_user)
        for u in user_dirs
    ]
    above = request.above + ((os.path.abspath(run),) if run else ())
    known: list[NeededRun] = []
    for entry in given.entries:
        folder = request.places[entry.name]["run"]
        require_not_above(entry, folder, above)
        inner = replace(
            request,
            layers=[*shared, *entry.layers, entry.inherited(stated)],
            flags={"run": folder},
            overrides=(),
            user_dirs=(),
            above=above,
        )
        with at_entry(entry):
            config, states = _resolve(inner)
        needed = NeededRun(
            name=entry.name, run=folder, split=entry.split, stated=states, config=config
        )
        for one in (*config.needs.runs, needed):
            add_run(known, one, parent=entry.name)
    own = [os.path.abspath(request.places[entry.name]["run"]) for entry in given.entries]
    return Needs(tuple(known), tuple(dict.fromkeys(own)), given.parallel)


def _in_order(
    files: Sequence[str | Path], layers: Sequence[tuple[str, Mapping[str, Plain]] | Layer]
) -> list[Layer]:
    """Return the layers of files, then those given as layers."""
    in_order = [layer for file in files for layer in read_with_bases(file)]
    for layer in layers:
        if not isinstance(layer, Layer):
            origin, values = layer
            layer = Layer(plain_from_python(values), name=origin)
        in_order.append(layer)
    return in_order


def _user_dirs(
    layers: Sequence[Layer],
    overrides: Sequence[Override],
    user_dirs: Sequence[str | Path],
) -> list[UserDir]:
    """Return all user directories with who named them. Raises PluginError where one is missing."""
    stated = list(layers)
    for override in overrides:
        if override.path == ("user_dirs",):
            stated.append(Layer({"user_dirs": override.value}, name=override.origin))
    return [
        *(_user_dir(folder, layer) for layer in stated for folder in _folders(layer)),
        *(UserDir(existing(path), True, "--user-dir") for path in user_dirs),
    ]


def _folders(layer: Layer) -> list[str]:
    """Return the user directories that a layer names, as it names them."""
    value = layer.values.get("user_dirs") or []
    where = layer.where(("user_dirs",))
    return convert(
        [value] if isinstance(value, str) else value, USER_DIRS, "user_dirs", where=where
    )


def _user_dir(folder: str, layer: Layer) -> UserDir:
    return UserDir(existing(folder), not layer.is_file, layer.where(("user_dirs",)))


def _usable(folder: str, layer: Layer) -> bool:
    """Return whether a user directory that a layer names exists and may be imported."""
    try:
        require_trust([_user_dir(folder, layer)])
    except PluginError:
        return False
    return True


def read(
    path: str | Path,
    user_dirs: Sequence[str | Path] = (),
    overrides: Sequence[str] = (),
    needs_hooks: bool = True,
) -> RunConfig:
    """Return the config of one YAML file, such as RUN/config.yaml.

    user_dirs: used instead of the file's, where any are given. overrides: "key.path=value". Code that is missing, or
    not trusted, is an error only where a component of the config comes from it. needs_hooks: hooks are such
    components; otherwise the default hooks take the place of all hooks in that case.
    """
    layers = read_with_bases(path)
    without = [layer.without("user_dirs") for layer in layers]
    if user_dirs:
        layers = without
    try:
        return resolve(layers=layers, overrides=overrides, user_dirs=user_dirs).config
    except PluginError as refusal:
        stated = [(folder, layer) for layer in layers for folder in _folders(layer)]
        usable = [folder for folder, layer in stated if _usable(folder, layer)]
        if len(usable) == len(stated):
            raise
        if not needs_hooks:
            without = [layer.without("hooks") for layer in without]
        try:
            return resolve(layers=without, overrides=overrides, user_dirs=usable).config
        except UnknownName:
            raise refusal from None


def from_mapping(values: Mapping[str, Plain]) -> RunConfig:
    """Return the config of nested plain data, as a config file would have it."""
    return resolve(layers=[("config", values)]).config


def from_python(
    config: Any = None,
    options: PlainMapping | None = None,
    allow_broken: bool = False,
) -> RunConfig:
    """Return the config that `fwk.train` trains.

    config: a file, a mapping, a RunConfig, or a list of them, later wins. options: values by flag name or dotted key.
    """
    if not isinstance(config, (list, tuple)):
        config = [] if config is None else [config]
    layers = [layer for item in config for layer in _layers_of(item)]

    options = {
        key: plain_from_python(value, tuple(key.split(".")))
        for key, value in (options or {}).items()
    }
    user_dirs = options.pop("user_dirs", ())
    if isinstance(user_dirs, str):
        user_dirs = [user_dirs]
    flags = _take_flags(options)
    overrides = [Override(tuple(key.split(".")), value) for key, value in options.items()]
    return resolve((), flags, overrides, user_dirs, allow_broken, layers).config


def _layers_of(item: object) -> list[Layer]:
    if isinstance(item, RunConfig):
        return [Layer({**item.to_mapping(), **item.needs.to_mapping()}, name="config")]
    if isinstance(item, Mapping):
        return [Layer(plain_from_python(item), name="config")]
    if isinstance(item, (str, Path)):
        return read_with_bases(item)
    raise ConfigError(
        "", f"fwk.train: expected a path, a mapping or a RunConfig, got {shown(item)}"
    )


def _take_flags(options: PlainDict) -> dict[str, Plain]:
    """Remove from `options` those that the command has a flag for, and return them."""
    flags: dict[str, Plain] = {}
    for name in SLOTS:
        if isinstance(options.get(name), str):
            flags[name] = options.pop(name)

    criterion = options.get("criterion")
    if isinstance(criterion, str):
        flags["criterion"] = [options.pop("criterion")]
    elif isinstance(criterion, list) and all(isinstance(c, str) for c in criterion):
        flags["criterion"] = list(options.pop("criterion"))

    for name in ("run", "seed"):
        if name in options:
            flags[name] = options.pop(name)
    return flags


def build(cls: type[Any], values: Mapping[str, Plain], key: str = "") -> Any:
    """Return a component class's typed config, made of options alone and checked as any other."""
    schema = schema_of(cls.Config, cls.__qualname__) if hasattr(cls, "Config") else ()
    return construct(
        cls, complete_values(schema, plain_from_python(values), key, cls.__name__), key
    )
