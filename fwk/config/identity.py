"""What makes two runs the same run: the YAML of a config, its identity, and the differences of two configs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from fwk.components.discovery import versions
from fwk.components.registry import registry
from fwk.config import yaml_text
from fwk.config.paths import dotted, leaves, leaves_with_whole_lists
from fwk.config.run_config import Needs, Resolved, RunConfig
from fwk.config.spec import NEEDS
from fwk.contracts.metrics import direction_of
from fwk.contracts.options import Plain
from fwk.contracts.plain import PlainDict

# hooks that a sink may implement: they listen and change nothing
SINK_HOOKS = ("fwk_run_begin", "fwk_logged", "fwk_validated", "fwk_exception", "fwk_run_end")

# keys that may change between two starts of a run: its length, logging and saving, and how the machine is used
KEYS_THAT_MAY_CHANGE = (
    "run",
    "user_dirs",
    "train.updates",
    "train.epochs",
    "train.tokens",
    "train.minutes",
    "train.log_every",
    "train.patience",
    "train.min_improvement",
    "train.validate_every",
    "train.validate_epochs",
    "train.validate_batches",
    "train.save_every",
    "train.save_epochs",
    "train.keep_last",
    "train.keep_best",
    "train.keep_at",
    "train.device",
    "train.timeout",
    "train.workers",
    "train.threads",
    "train.micro_batch",
    "train.compile",
    "train.activation_checkpointing",
    "train.async_save",
    "train.check_ranks_every",
)
# options that were added later, with the value that stands for what was done before: left out, so that a command finds
# the run of an earlier version
LATER_DEFAULTS = {"pooler": False}
# keys that may differ between the processes of one job
KEYS_PER_RANK = ("train.device", "train.workers", "train.threads")


def to_yaml(
    config: RunConfig | Resolved, provenance: Mapping[str, str] | None = None, complete: bool = True
) -> str:
    """Return YAML that `--config` reads back to an equal config.

    Views are stated in full; with `complete=False` as the config states them. With `provenance` each line ends in a
    comment that names the origin of its value.
    """
    config = config.config if isinstance(config, Resolved) else config
    origins: dict[str, str] = {}
    if complete:
        full = config.with_complete_views()
        stated = {dotted(path) for path, _ in leaves(config.to_mapping())}
        brought = (dotted(path) for path, _ in leaves({"views": full.to_mapping()["views"]}))
        origins = {key: "default" for key in brought if key not in stated}
        config = full
    return yaml_text.dump(
        config.to_mapping(), None if provenance is None else {**origins, **provenance}
    )


def needs_to_yaml(needs: Needs, states: Mapping[str, str]) -> str:
    """Return the needed runs as YAML, each with the state of its folder in a comment."""
    origins = {dotted((NEEDS, name, "run")): state for name, state in states.items()}
    return yaml_text.dump(needs.to_mapping(), origins)


def identity(config: RunConfig) -> str:
    """Return eight hexadecimal digits, equal for configs that compute the same (length and logging aside).

    For a config that starts from weights they depend on what it states, not on what the weights are, so that the same
    command finds its run where the weights are gone.
    """
    complete = config if config.weights_from() else config.with_complete_views()
    text = json.dumps(_decisive(complete), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def differences(old: RunConfig, new: RunConfig) -> dict[str, tuple[Plain, Plain]]:
    """Return the keys whose values differ, with both values.

    Keys that may change between two starts of a run are left out, and so are hooks that only listen and options of the
    task that cannot act.
    """
    before, after = (_decisive(config.with_complete_views()) for config in (old, new))
    idle = _idle_keys(old) & _idle_keys(new)
    return {
        key: (before.get(key), after.get(key))
        for key in sorted({*before, *after} - idle)
        if before.get(key) != after.get(key) or (key in before) != (key in after)
    }


def _idle_keys(config: RunConfig) -> set[str]:
    """Return the options of the task that cannot act beside its others.

    They are part of `identity` nevertheless, so that a command finds the run of an earlier version.
    """
    task = config.task
    return {f"task.{name}" for name in task.cls.idle_options(task.config)}


def shared_by_ranks(config: RunConfig) -> dict[str, Plain]:
    """Return dotted key -> value of everything that must be equal in all processes of one job."""
    train = {f"train.{name}": value for name, value in config.to_mapping()["train"].items()}
    return {
        key: value
        for key, value in {**train, **_decisive(config.with_complete_views())}.items()
        if key not in KEYS_PER_RANK
    }


def _decisive(config: RunConfig) -> dict[str, Plain]:
    """Return dotted key -> value of everything in a config that decides what a run computes."""
    mapping = config.to_mapping()
    hooks = {
        label: hook.to_mapping() for label, hook in config.hooks.items() if not _is_sink(hook.cls)
    }
    del mapping["hooks"]
    if config.train.best_mode == "auto":  # as stated by configs of before, which had no such mode
        mapping["train"]["best_mode"] = direction_of(config.train.best_metric) or "min"
    if hooks:
        mapping["hooks"] = hooks
    return {
        dotted(path): value
        for path, value in leaves_with_whole_lists(mapping)
        if not _may_change(dotted(path)) and not _is_later_default(path[-1], value)
    }


def _is_later_default(option: str, value: Plain) -> bool:
    """Return whether this is the default of an option that runs of earlier versions did not have."""
    return option in LATER_DEFAULTS and value == LATER_DEFAULTS[option]


def _may_change(key: str) -> bool:
    return any(key == other or key.startswith(f"{other}.") for other in KEYS_THAT_MAY_CHANGE)


def _is_sink(cls: type) -> bool:
    """Return whether a hook only listens, so that a run computes the same with and without it."""
    listens: bool | None = getattr(cls, "listens_only", None)
    if listens is not None:
        return listens
    return all(name in SINK_HOOKS for name in dir(cls) if name.startswith("fwk_"))


def required(config: RunConfig) -> dict[str, PlainDict]:
    """Return the plugins that a config needs besides fwk: name -> version, distribution, and the names it uses.

    Components of views that criteria bring are included. Imports the classes.
    """
    plugins: dict[str, PlainDict] = {}
    known = versions()
    for kind, name in sorted({(part.kind, part.name) for part in config.components()}):
        plugin = registry.get(kind, name).plugin
        if plugin != "fwk":
            entry = plugins.setdefault(plugin, {**known.get(plugin, {}), "names": []})
            entry["names"].append(f"{kind} {name}")
    return plugins
