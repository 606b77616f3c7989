"""What makes two runs the same run: the YAML of a config, its identity, and the differences of two configs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from fwk.components.discovery import versions
from fwk.components.registry import registry
from fwk.config.checking import _dotted, _leaves, _leaves_whole
from fwk.config.resolve import yaml_text
from fwk.config.spec import KEYS_PER_RANK, KEYS_THAT_MAY_CHANGE, SINK_HOOKS, Resolved, RunConfig
from fwk.config.views import with_views


def to_yaml(
    config: RunConfig | Resolved, provenance: Mapping[str, str] | None = None, complete: bool = True
) -> str:
    """YAML that `--config` reads back to an equal config, views spelled out (`complete=False`: as they were said).
    With `provenance` each line ends in a comment that says where its value came from."""
    config = config.config if isinstance(config, Resolved) else config
    brought = {}
    if complete:
        full = with_views(config)
        said = {_dotted(p) for p, _ in _leaves(config.to_mapping(), ())}
        brought = {
            _dotted(p): "default"
            for p, _ in _leaves({"views": full.views}, ())
            if _dotted(p) not in said
        }
        config = full
    origins = None if provenance is None else {**brought, **provenance}
    return yaml_text.dump(config.to_mapping(), origins)


def _decisive(config: RunConfig) -> dict[str, Any]:
    """Dotted key -> value of everything that decides what a run computes."""
    mapping = with_views(config).to_mapping()
    hooks = {
        label: hook
        for label, hook in mapping["hooks"].items()
        if label in config.hooks and not _is_sink(config.hooks[label].cls)
    }
    mapping.pop("hooks")
    mapping.update({"hooks": hooks} if hooks else {})
    flat = {_dotted(path): value for path, value in _leaves_whole(mapping, ())}
    return {
        k: v
        for k, v in flat.items()
        if not any(k == m or k.startswith(m + ".") for m in KEYS_THAT_MAY_CHANGE)
    }


def _is_sink(cls: type) -> bool:
    """A hook that only listens: what it is and whether it is there does not change what the run computes."""
    return getattr(cls, "listens_only", False) or all(
        name in SINK_HOOKS for name in dir(cls) if name.startswith("fwk_")
    )


def differences(old: RunConfig, new: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ, with both; keys that may change when a run goes on are left out, and so are hooks
    that only listen."""
    a, b = _decisive(old), _decisive(new)
    return {
        key: (a.get(key), b.get(key))
        for key in sorted({*a, *b})
        if a.get(key) != b.get(key) or (key in a) != (key in b)
    }


def shared_by_ranks(config: RunConfig) -> dict[str, Any]:
    """Dotted key -> value of everything that all processes of one job must have been given alike."""
    train = {f"train.{name}": value for name, value in config.to_mapping()["train"].items()}
    return {
        key: value
        for key, value in {**train, **_decisive(config)}.items()
        if key not in KEYS_PER_RANK
    }


def identity(config: RunConfig) -> str:
    """Eight hexadecimal digits that are the same for configs that compute the same (length and logging aside)."""
    text = json.dumps(_decisive(config), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def required(config: Any) -> dict[str, dict[str, Any]]:
    """The plugins that a config needs besides fwk itself: name -> version, distribution, and the names it uses, those
    of the views that its criteria bring included. Imports the classes."""
    from fwk.config.spec import NetworkSpec
    from fwk.config.views import complete_views

    components = [
        config.task,
        config.model,
        config.optimizer,
        config.schedule,
        *config.hooks.values(),
        *(spec.component for spec in config.criterion.values()),
        *(spec.component for spec in config.networks.values()),
    ]
    for view in complete_views(config).values():
        components += [
            view.component,
            *([view.network.component] if isinstance(view.network, NetworkSpec) else []),
        ]
    used = {(c.kind, c.name) for c in components}
    found: dict[str, dict[str, Any]] = {}
    known = versions()
    for kind, name in sorted(used):
        plugin = registry.get(kind, name).plugin
        if plugin != "fwk":
            entry = found.setdefault(plugin, {**known.get(plugin, {}), "names": []})
            entry["names"].append(f"{kind} {name}")
    return found
