"""Config files that extend another one: `extends: base.yaml`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fwk.config.spec import FROM
from fwk.config.yaml_text import Layer, read
from fwk.contracts.options import Plain, shown
from fwk.errors import ConfigError, did_you_mean
from fwk.files import user_path
from fwk.files.kinds import COPY

EXTENDS = "extends"


def read_with_bases(path: str | Path) -> list[Layer]:
    """Return the layers of a config file: the files that it extends, the first base first, then the file itself.

    `extends` names one file, relative to the folder of the file that extends it. Raises ConfigError naming both files
    where the base is missing or extends the file in turn, or where the value is no file name.
    """
    return _read_chain(user_path(path), ())


def _read_chain(path: Path, extended_by: tuple[Path, ...]) -> list[Layer]:
    layer = _of_its_run(read(path), path, is_base=bool(extended_by))
    if EXTENDS not in layer.values:
        return [layer]

    where = layer.where((EXTENDS,))
    base = _base_of(path, layer.values[EXTENDS], where)
    chain = (*extended_by, path)
    if base.resolve() in [file.resolve() for file in chain]:
        circle = " extends ".join(str(file) for file in (*chain, base))
        raise ConfigError(EXTENDS, f"config files extend each other in a circle: {circle}")
    return [*_read_chain(base, chain), layer.without(EXTENDS)]


def _of_its_run(layer: Layer, path: Path, is_base: bool) -> Layer:
    """Return the layer of RUN/config.yaml with `run` as the folder that it is in now; any other layer as it is.

    The folder may have been moved since the file was written. A file that extends it describes another run.
    """
    if path.name != "config.yaml":
        return layer
    if COPY.holds(path.parent):
        return _of_its_copy(layer, path)
    if not (path.parent / "environment.json").is_file():
        return layer
    layer = _with_tokenizer(layer, path, layer.values.get("run"))
    layer = layer.without("run")
    if is_base:
        return layer
    return replace(layer, values={**layer.values, "run": os.path.abspath(path.parent)})


def _of_its_copy(layer: Layer, path: Path) -> Layer:
    """Return the layer of the config of weights that were imported or copied: a run that it describes starts from them.

    The file names the folder of the run that the copy was made of, or the copy's own; neither is the new run's folder.
    """
    place = os.path.abspath(path.parent)
    values = dict(_with_tokenizer(layer.without("run"), path, None).values)
    values["model"] = _starting(values.get("model"), place)
    networks, views = values.get("networks"), values.get("views")
    if isinstance(networks, Mapping):
        values["networks"] = {name: _starting(value, place) for name, value in networks.items()}
    if isinstance(views, Mapping):
        values["views"] = {
            name: {**view, "network": _starting(view["network"], place)}
            if isinstance(view, Mapping) and isinstance(view.get("network"), Mapping)
            else view
            for name, view in views.items()
        }
    return replace(layer, values=values)


def _starting(network: Plain, place: str) -> Plain:
    """Return a network with `from`; anything but a mapping as it is, which is reported later."""
    return {**network, FROM.name: place} if isinstance(network, Mapping) else network


def _with_tokenizer(layer: Layer, path: Path, recorded: object) -> Layer:
    """Return the layer with the tokenizer in the folder of the file, where it states that of a folder.

    recorded: where that folder was when the file was written; None: any tokenizer is that of the folder.
    """
    task, place = layer.values.get("task"), path.parent / "tokenizer"
    if not isinstance(task, Mapping) or "tokenizer" not in task or not place.is_dir():
        return layer
    stated = task["tokenizer"]
    if recorded is not None and stated != os.path.join(str(recorded), "tokenizer"):
        return layer
    task = {**task, "tokenizer": os.path.abspath(place)}
    return replace(layer, values={**layer.values, "task": task})


def _base_of(path: Path, value: object, where: str) -> Path:
    """Return the file that `path` extends. Raises ConfigError where it is not one."""
    if not isinstance(value, str) or not value:
        raise ConfigError(
            EXTENDS,
            f"{where}: expected the name of the config file that {path.name} extends, "
            f"got {shown(value)}",
        )
    base = path.parent / user_path(value)
    try:
        base.resolve()
        base.stat()
    except FileNotFoundError:
        pass  # reported below, with the files that exist
    except (OSError, RuntimeError, ValueError) as error:  # too long, a NUL, a circle of links
        raise ConfigError(
            EXTENDS, f"{where}: {path} extends {shown(str(base))}, which cannot be read ({error})"
        ) from None
    if base.is_dir():
        raise ConfigError(
            EXTENDS, f"{where}: {path} extends {base}, which is a folder; expected a file"
        )
    if not base.exists():
        siblings = (
            [file.name for file in base.parent.glob("*.y*ml")] if base.parent.is_dir() else []
        )
        raise ConfigError(
            EXTENDS,
            f"{where}: {path} extends {base}, which does not exist"
            f"{did_you_mean(base.name, siblings, 0)}",
        )
    return base
