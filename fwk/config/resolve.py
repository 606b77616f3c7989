"""Configuration: YAML files, flags and dotted overrides -> a typed, validated `RunConfig`, each value with its origin.

Later wins: registered defaults < files in order < flags < `key=value`. Every layer is brought into canonical form
(a mapping label -> {name, options} wherever components stand) before OmegaConf merges it into what came before;
OmegaConf also resolves `${key.path}`. Each component's options are then checked against its schema. Nothing here
imports torch for built-in and first-party components, until `Component.config` or `complete_views` is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fwk.components.discovery import discover, existing
from fwk.config import yaml_text
from fwk.config.checking import _filled
from fwk.config.layers import _listed, _Merge
from fwk.config.spec import Resolved, RunConfig, _construct
from fwk.contracts.options import plain, schema_of, shown
from fwk.errors import ConfigError


def resolve(
    files: Sequence[str | Path] = (),
    flags: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    user_dirs: Sequence[str | Path] = (),
    allow_broken: bool = False,
    layers: Sequence[tuple[str, Mapping]] = (),
) -> Resolved:
    """files: YAML, later wins. flags: task, model, criterion (a list), optimizer, schedule, run, seed. overrides:
    "key.path=value". user_dirs: loaded first, with those that the files name. layers: (origin, mapping) laid between
    files and flags. Raises UserError naming the key; imports no torch unless user code does."""
    flags = dict(flags or {})
    read_layers = [yaml_text.read(path) for path in files]
    read_layers += [yaml_text.Layer(plain(values), {}, origin) for origin, values in layers]
    parsed = [yaml_text.override(text) for text in overrides]

    folders: list[str] = []
    for layer in read_layers:
        folders += _listed(layer, "user_dirs")
    for path, value, _, text in parsed:
        if path == ("user_dirs",):
            folders += _listed(yaml_text.Layer({"user_dirs": value}, {}, text), "user_dirs")
    folders += [str(path) for path in user_dirs]
    folders = list(dict.fromkeys(str(existing(folder)) for folder in folders))
    discover(folders, allow_broken)

    merge = _Merge()
    for layer in read_layers:
        merge.mapping(layer)
    merge.flags(flags)
    for path, value, raw, text in parsed:
        merge.override(path, value, raw, text)
    return merge.finish(folders, ["--user-dir"] * bool(user_dirs))


def read(
    path: str | Path, user_dirs: Sequence[str | Path] = (), overrides: Sequence[str] = ()
) -> RunConfig:
    """One YAML file, such as RUN/config.yaml. user_dirs: used instead of the file's when given. overrides: "key.path=value"."""
    if not user_dirs:
        return resolve([path], overrides=overrides).config
    layer = yaml_text.read(path)
    return resolve(
        layers=[(layer.name, {k: v for k, v in layer.values.items() if k != "user_dirs"})],
        overrides=overrides,
        user_dirs=user_dirs,
    ).config


def from_mapping(values: Mapping[str, Any]) -> RunConfig:
    """Nested plain data, as a config file would have it."""
    return resolve(layers=[("config", values)]).config


def from_python(
    config: Any = None, options: Mapping[str, Any] | None = None, allow_broken: bool = False
) -> RunConfig:
    """What `fwk.train` accepts: a file, several, a mapping or a RunConfig; and options by flag name or dotted key."""
    files, layers = [], []
    given = config if isinstance(config, (list, tuple)) else [] if config is None else [config]
    for item in given:
        if isinstance(item, RunConfig):
            layers.append(("config", item.to_mapping()))
        elif isinstance(item, Mapping):
            layers.append(("config", plain(item)))
        elif isinstance(item, (str, Path)):
            layer = yaml_text.read(item)
            layers.append((layer.name, layer.values))
        else:
            raise ConfigError(
                "", f"fwk.train: expected a path, a mapping or a RunConfig, got {shown(item)}"
            )
    options = dict(options or {})
    user_dirs = options.pop("user_dirs", ())
    user_dirs = [user_dirs] if isinstance(user_dirs, (str, Path)) else user_dirs
    flags = {}
    for name in ("task", "model", "optimizer", "schedule"):
        if isinstance(options.get(name), str):
            flags[name] = options.pop(name)
    chosen = options.get("criterion")
    if (
        isinstance(chosen, str)
        or isinstance(chosen, (list, tuple))
        and all(isinstance(c, str) for c in chosen)
    ):
        flags["criterion"] = (
            [options.pop("criterion")]
            if isinstance(chosen, str)
            else list(options.pop("criterion"))
        )
    for name in ("run", "seed"):
        if name in options:
            value = options.pop(name)
            flags[name] = str(value) if isinstance(value, Path) else value
    overrides = [
        yaml_text.PythonOverride(tuple(key.split(".")), plain(value))
        for key, value in options.items()
    ]
    return resolve(files, flags, overrides, user_dirs, allow_broken, layers).config


def build(cls: type, values: Mapping[str, Any], key: str = "") -> Any:
    """A component class's typed config from options alone, checked as any other (tests and tools use it)."""
    schema = schema_of(cls.Config, cls.__qualname__) if hasattr(cls, "Config") else ()
    return _construct(cls, _filled(schema, plain(values), key, cls.__name__), key)
