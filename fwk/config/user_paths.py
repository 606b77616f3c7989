"""The paths in a config: `~` is replaced wherever a value is read, and a run's config.yaml has them absolute.

A relative path is relative to the current folder, whichever file or flag it comes from (`extends` alone is relative to
its file). Which options hold paths is declared with `option(paths=...)`.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Mapping
from dataclasses import replace

from fwk.config.run_config import RunConfig
from fwk.config.spec import Component
from fwk.contracts.options import FieldSpec, Plain
from fwk.files import expand_user


def expand(value: Plain, spec: FieldSpec) -> Plain:
    """Return the value of an option with the home folder in place of `~` in its paths."""
    return value if spec.paths is None else _change_paths(value, spec, expand_user)


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Return a config whose paths mean the same from every folder."""
    return replace(
        config,
        run=None if config.run is None else os.path.abspath(config.run),
        task=_absolute(config.task),
        model=_absolute(config.model),
        optimizer=_absolute(config.optimizer),
        schedule=_absolute(config.schedule),
        criterion={
            label: replace(spec, component=_absolute(spec.component))
            for label, spec in config.criterion.items()
        },
        networks={
            label: replace(spec, component=_absolute(spec.component))
            for label, spec in config.networks.items()
        },
        hooks={label: _absolute(component) for label, component in config.hooks.items()},
    )


def _absolute(component: Component) -> Component:
    holding_paths = {spec.name: spec for spec in component.entry.schema if spec.paths is not None}
    if not holding_paths:
        return component
    values = {
        name: _change_paths(value, holding_paths[name], _absolute_path)
        if name in holding_paths
        else value
        for name, value in component.values.items()
    }
    return replace(component, values=values)


def _absolute_path(path: str) -> str:
    """Return a path or glob as an absolute one."""
    if os.path.exists(path) or not glob.has_magic(path):
        return os.path.abspath(path)
    return os.path.join(glob.escape(os.getcwd()), path)  # unchanged where it is absolute


def _change_paths(value: Plain, spec: FieldSpec, change: Callable[[str], str]) -> Plain:
    """Return the value of an option with each of its paths changed."""
    if isinstance(value, str):
        return value if value in (spec.names or ()) else change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_change_paths(item, spec, change) for item in value)
    if isinstance(value, Mapping):
        return {label: _change_below_label(inner, spec, change) for label, inner in value.items()}
    return value


def _change_below_label(value: Plain, spec: FieldSpec, change: Callable[[str], str]) -> Plain:
    if not isinstance(value, Mapping):
        return _change_paths(value, spec, change)
    return {
        key: _change_paths(inner, spec, change) if key in (spec.paths or ()) else inner
        for key, inner in value.items()
    }
