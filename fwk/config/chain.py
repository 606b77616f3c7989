"""Which runs need which: what a config reads of other runs, and the checks of a chain as a whole.

A run depends on another one where one of its values leads to that run's folder, or to a file in it. It does not matter
whether the value was written as `${needs.NAME.run}` or as a path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from fwk.config.needs import Entry
from fwk.config.paths import KeyPath, dotted, leaves
from fwk.config.patterns import filled, is_pattern, task_names
from fwk.config.run_config import NeededRun, RunConfig
from fwk.config.spec import FROM, NEEDS
from fwk.contracts.options import Plain
from fwk.contracts.plain import PlainDict, PlainMapping
from fwk.errors import ConfigError, UnknownName, UntrustedCode, UserError
from fwk.files import expand_user

_NOT_READ = ("run", "user_dirs", NEEDS)  # top-level keys whose values are no input of the run


@dataclass(frozen=True)
class Mention:
    """A value of a config that leads to a needed run."""

    needed: NeededRun
    key: str  # of the config
    path: str

    @property
    def is_start(self) -> bool:
        """Return whether the value says what a network starts from, which is read once."""
        return self.key.endswith(f".{FROM.name}")


def mentions(config: RunConfig, runs: Sequence[NeededRun]) -> list[Mention]:
    """Return the values of a config that lead to some of these runs."""
    by_folder = {os.path.abspath(needed.run): needed for needed in runs}
    values = config.to_mapping()
    names = task_names(values)
    found = []
    for path, value in _texts(values, names):
        if path[0] in _NOT_READ or "\0" in value:
            continue
        # a name without a folder may be that of anything, and is not looked up
        place = os.path.abspath(expand_user(value)) if os.sep in value else ""
        while place and place not in by_folder:
            place = "" if place == os.path.dirname(place) else os.path.dirname(place)
        if place:
            found.append(Mention(by_folder[place], dotted(path), value))
    return found


def _texts(values: PlainMapping, tasks: Sequence[str]) -> Iterator[tuple[KeyPath, str]]:
    """Yield every text with its path; one that is written for each of several tasks, once for each of them."""
    for path, value in leaves(values):
        if isinstance(value, str):
            for name in tasks if is_pattern(value) else ("",):
                yield path, str(filled(value, name))


def depends_on(config: RunConfig, runs: Sequence[NeededRun]) -> list[NeededRun]:
    """Return the runs that a run depends on directly.

    Those that its values lead to; and those that it states, and that none of the others it states leads to.
    """
    direct = [mention.needed for mention in mentions(config, runs)]
    by_folder = {os.path.abspath(needed.run): needed for needed in runs}
    stated = [by_folder[folder] for folder in config.needs.stated if folder in by_folder]
    for needed in stated:
        others = [other for other in stated if other is not needed]
        if not any(m.needed is needed for other in others for m in mentions(other.config, runs)):
            direct.append(needed)
    return list({id(needed): needed for needed in direct}.values())


def require_no_circle(config: RunConfig) -> None:
    """Raise ConfigError where needed runs need each other in a circle."""
    runs = config.needs.runs
    edges = {needed.name: depends_on(needed.config, runs) for needed in runs}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            circle = " needs ".join([*above[above.index(name) :], name])
            raise ConfigError(NEEDS, f"the runs need each other in a circle: {circle}")
        if name not in done:
            for needed in edges[name]:
                visit(needed.name, (*above, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def require_not_above(entry: Entry, folder: str, above: Sequence[str]) -> None:
    """Raise ConfigError where a needed run is one of those that need it. above: their absolute folders."""
    place = os.path.abspath(folder)
    if place in above:
        names = [os.path.relpath(other) for other in (*above[above.index(place) :], place)]
        raise ConfigError(
            entry.key, f"the runs need each other in a circle: {' needs '.join(names)}"
        )


@contextmanager
def at_entry(entry: Entry) -> Iterator[None]:
    """Let errors of a needed run's config name the entry."""
    try:
        yield
    except UntrustedCode:
        raise
    except UnknownName as error:
        raise ConfigError(entry.key, str(error)) from None
    except ConfigError as error:
        text = str(error).removeprefix(f"{error.key}: ") if error.key else str(error)
        raise ConfigError(f"{entry.key}.{error.key}".rstrip("."), text) from None
    except UserError as error:
        raise ConfigError(entry.key, str(error)) from None


def add_run(runs: list[NeededRun], needed: NeededRun, parent: str) -> None:
    """Add a needed run to those of a config, unless it is among them. parent: the name of what brings it.

    Raises ConfigError where another run with other values is made in the same folder.
    """
    place = os.path.abspath(needed.run)
    for number, other in enumerate(runs):
        if os.path.abspath(other.run) == place:
            _require_equal(other, needed)
            runs[number] = replace(other, split=other.split or needed.split)
            return
    if any(other.name == needed.name for other in runs):
        needed = replace(needed, name=f"{parent}-{needed.name}")
    runs.append(needed)


def _require_equal(one: NeededRun, other: NeededRun) -> None:
    before, after = (dict(leaves(run.config.to_mapping())) for run in (one, other))
    for path in (*before, *after):
        if before.get(path) != after.get(path):
            raise ConfigError(
                f"{other.key}.run",
                f"{other.run} is the folder of two different runs ({dotted(path)} is {before.get(path)} for "
                f"{one.name} and {after.get(path)} for {other.name}); give one of them another 'run'",
            )
    if one.split and other.split and one.split != other.split:
        raise ConfigError(
            f"{other.key}.targets",
            f"is {other.split}, and {one.split} where the same run is needed elsewhere; state one split for both",
        )


def filled_in(stated: PlainMapping, resolved: PlainMapping) -> PlainDict:
    """Return the stated values of a config with the value of each interpolation."""
    return {key: _filled(value, resolved.get(key, value)) for key, value in stated.items()}


def _filled(stated: Plain, resolved: Plain) -> Plain:
    if isinstance(stated, Mapping):
        return filled_in(stated, resolved if isinstance(resolved, Mapping) else {})
    if isinstance(stated, list):
        items = resolved if isinstance(resolved, list) else stated
        return [_filled(value, item) for value, item in zip(stated, items)]
    return resolved if isinstance(stated, str) and "${" in stated else stated
