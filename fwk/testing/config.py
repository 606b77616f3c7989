"""Configs small enough for a unit test, and the merging of nested settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fwk.config.resolve import from_mapping
from fwk.config.run_config import RunConfig
from fwk.config.spec import DEFAULT_HOOKS
from fwk.contracts.plain import PlainDict, PlainMapping

# an encoder without dropout: the rules compare gradients of several runs to the last digits
TINY_ENCODER = {
    "name": "bert",
    "layers": 2,
    "width": 16,
    "heads": 2,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
TINY: PlainDict = {
    "task": {
        "name": "synthetic",
        "sequences": 64,
        "length": 16,
        "shortest": 9,
        "vocabulary": 32,
        "second_source": 0.4,
    },
    "model": TINY_ENCODER,
    "hooks": {label: None for label in DEFAULT_HOOKS},
    "train": {
        "updates": 6,
        "batch": 12,
        "precision": "fp64",
        "log_every": 2,
        "validate_every": 3,
        "save_every": 3,
        "device": "cpu",
    },
    "optimizer": {"name": "adamw", "lr": 1e-3},
}


def tiny_config(changes: PlainMapping | None = None, user_dirs: Sequence[str] = ()) -> RunConfig:
    """Return `TINY`, with the nested mapping `changes` laid over it, as a config."""
    return from_mapping(merge_settings(TINY, {**(changes or {}), "user_dirs": list(user_dirs)}))


def change_config(config: RunConfig, changes: PlainMapping) -> RunConfig:
    """Return a copy of `config` with the nested mapping `changes` laid over it."""
    return from_mapping(merge_settings(config.to_mapping(), changes))


def merge_settings(base: PlainMapping, changes: PlainMapping) -> PlainDict:
    """Return `base` with the nested mapping `changes` laid over it.

    Mappings are merged key by key. A component that `changes` gives another `name` replaces the old one with all its
    options, because those belong to the old component.
    """
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            same_component = value.get("name", old.get("name")) == old.get("name")
            value = merge_settings(old, value) if same_component else value
        merged[key] = value
    return merged
