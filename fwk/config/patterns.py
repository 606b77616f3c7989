"""Entries of `views` and `criterion` that are written once for all tasks of `task.tasks`.

    criterion: {"{task}": {name: classification, view: "{task}", label: "{task}"}}

is such an entry for each task, whose name takes the place of `{task}` in the label and in all values. What the config
states under the label itself is merged over it; another component that is named there takes its place as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from fwk.config.paths import dotted, in_parentheses
from fwk.config.provenance import Origins
from fwk.config.tree import merged
from fwk.contracts.options import Plain
from fwk.errors import ConfigError

TASK = "{task}"
_IN_REFERENCE = "__task__"  # stands for it in a reference
TABLES = {"views": "noiser", "criterion": "name", "networks": "name"}  # and the key that names


def is_pattern(label: str) -> bool:
    """Return whether a label stands for one of each task."""
    return TASK in label


def task_names(values: Mapping[str, Plain]) -> list[str]:
    """Return the names of the tasks that the merged values state under `task.tasks`."""
    task = values.get("task")
    tasks = task.get("tasks") if isinstance(task, Mapping) else None
    if not isinstance(tasks, Mapping):
        return []
    return [name for name, value in tasks.items() if value is not None and not is_pattern(name)]


def filled(value: Plain, name: str) -> Plain:
    """Return plain data with the name of a task in place of `{task}` in every text."""
    return _in_texts(value, lambda text: text.replace(TASK, name).replace(_IN_REFERENCE, name))


def with_plain_references(value: Plain) -> Plain:
    """Return plain data whose references, such as `${needs.teacher_{task}.run}`, have no braces inside.

    OmegaConf reads every text that is set, and refuses such names.
    """
    return _in_texts(
        value, lambda text: text.replace(TASK, _IN_REFERENCE) if "${" in text else text
    )


def _in_texts(value: Plain, change: Callable[[str], str]) -> Plain:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _in_texts(inner, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [_in_texts(item, change) for item in value]
    return value


def expand_patterns(values: Mapping[str, Plain], origins: Origins) -> dict[str, Plain]:
    """Return the merged values with an entry per task in place of each pattern.

    Raises ConfigError for a pattern where there are no tasks.
    """
    result, names = dict(values), task_names(values)
    for table, naming in TABLES.items():
        stated = values.get(table)
        if isinstance(stated, Mapping) and any(map(is_pattern, stated)):
            result[table] = _expanded(table, naming, stated, names, origins)
    if names:
        task = result["task"]
        result["task"] = {**task, "tasks": _with_references(task["tasks"], names)}
    return result


def _with_references(tasks: Mapping[str, Plain], names: Sequence[str]) -> dict[str, Plain]:
    """Return the tasks, each with what a pattern refers to by its name, as in `${needs.teacher_{task}.targets}`.

    Everything else stays in the pattern, so that one value of it changes all tasks.
    """
    result = {
        label: dict(entry) if isinstance(entry, Mapping) else entry
        for label, entry in tasks.items()
    }
    for label, pattern in result.items():
        if not is_pattern(label) or not isinstance(pattern, dict):
            continue
        for key, value in [*pattern.items()]:
            if isinstance(value, str) and _IN_REFERENCE in value:
                del pattern[key]
                for name in names:
                    own = result[name]
                    if isinstance(own, dict):
                        own.setdefault(key, filled(value, name))
    return result


def _expanded(
    table: str,
    naming: str,
    stated: Mapping[str, Plain],
    names: Sequence[str],
    origins: Origins,
) -> dict[str, Plain]:
    entries: dict[str, Plain] = {}
    for label, entry in stated.items():
        if not is_pattern(label):
            entries.setdefault(label, entry)
            continue
        if not names:
            raise ConfigError(
                dotted((table, label)),
                "stands for one of each task, and there are none; expected task.tasks: {NAME: {option: value}}"
                f"{in_parentheses(origins.where((table, label)))}",
            )
        for name in names:
            own = label.replace(TASK, name)
            origins.copy((table, label), (table, own), partial(filled, name=name))
            entries[own] = _over(filled(entry, name), stated.get(own, {}), naming)
    return {label: entries[label] for label in entries if entries[label] is not None}


def _over(pattern: Plain, stated: Plain, naming: str) -> Plain:
    """Return what a config states of one entry over its pattern; null removes it."""
    if stated is None or not isinstance(pattern, Mapping) or not isinstance(stated, Mapping):
        return stated
    other = stated.get(naming)
    return dict(stated) if other not in (None, pattern.get(naming)) else merged(pattern, stated)
