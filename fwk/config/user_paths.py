"""The paths in a config: `~` is replaced wherever a value is read, and a run's config.yaml has them absolute.

A relative path is relative to the current folder, whichever file or flag it comes from (`extends` alone is relative to
its file). Which options hold paths is declared with `option(paths=...)`; `convert` replaces `~` in their values.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from fwk.config.run_config import RunConfig
from fwk.config.spec import Component, NetworkSpec, ViewSpec
from fwk.contracts.option_paths import HUB, Change
from fwk.contracts.options import FieldSpec, Plain, change_paths
from fwk.contracts.plain import PlainMapping
from fwk.errors import UserError


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Return a config whose paths mean the same from every folder. Its views are stated in full."""
    return _with_paths(config, _absolute_path)


def with_paths_from(config: RunConfig, folder: str) -> RunConfig:
    """Return a config whose paths are relative to a folder, so that they stay the same where both are moved."""
    return _with_paths(config, lambda path: os.path.relpath(_absolute_path(path), folder))


def with_names_of_files(config: RunConfig) -> RunConfig:
    """Return a config that shows the names of files without their folders, to be published."""
    return _with_paths(config, lambda path: Path(path).name or path)


def _with_paths(config: RunConfig, change: Change) -> RunConfig:
    """Return a config with each of its paths changed."""

    def changed(component: Component) -> Component:
        values = _change_values(component.values, component.entry.schema, change)
        start = component.weights_from
        return replace(
            component,
            values=values,
            weights_from=None if start is None else _change_place(start, change),
        )

    return replace(
        config,
        run=None if config.run is None else change(config.run),
        task=changed(config.task),
        model=changed(config.model),
        optimizer=changed(config.optimizer),
        schedule=changed(config.schedule),
        criterion={
            label: replace(spec, component=changed(spec.component))
            for label, spec in config.criterion.items()
        },
        networks={
            label: replace(spec, component=changed(spec.component))
            for label, spec in config.networks.items()
        },
        views={
            name: _change_values(
                _with_network(spec, changed).to_mapping(), spec.component.entry.schema, change
            )
            for name, spec in config.views_by_name.items()
        },
        hooks={label: changed(component) for label, component in config.hooks.items()},
    )


def _with_network(view: ViewSpec, changed: Callable[[Component], Component]) -> ViewSpec:
    """Return a view whose own network, where it has one, is changed."""
    network = view.network
    if not isinstance(network, NetworkSpec):
        return view
    return replace(view, network=replace(network, component=changed(network.component)))


def _change_place(place: str, change: Change) -> str:
    """Return the place of weights with its path changed; a name on the hub as it is."""
    return place if place.startswith(HUB) else change(place)


def _change_values(
    values: PlainMapping, schema: Sequence[FieldSpec], change: Change
) -> dict[str, Plain]:
    """Return the options of a component with each of their paths changed."""
    specs = {spec.name: spec for spec in schema if spec.paths is not None}
    return {
        name: change_paths(value, specs[name], change) if name in specs else value
        for name, value in values.items()
    }


def _absolute_path(path: str) -> str:
    """Return a path or glob as an absolute one. Raises UserError for one that no config can hold."""
    if os.path.exists(path) or not glob.has_magic(path):
        absolute = os.path.abspath(path)
    else:
        absolute = os.path.join(glob.escape(os.getcwd()), path)  # unchanged where it is absolute
    try:
        absolute.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"the path {absolute!r} is not UTF-8 text, so config.yaml cannot hold it; rename the folder, or name the "
            "file by a path through other folders"
        ) from None
    return absolute
