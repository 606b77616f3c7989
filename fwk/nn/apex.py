"""NVIDIA apex, where it is installed. The package called `apex` on the public index is something else, and importing it
works, so the part that is wanted is what is asked for."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch

from fwk.errors import ConfigError


def apex_part(part: str, key: str, other: str) -> ModuleType:
    """The module `apex.<part>`. ConfigError names the option `key` that wanted it, and the value `other` to use
    instead."""
    where = "NVIDIA's is built from https://github.com/NVIDIA/apex"
    try:
        importlib.import_module("apex")
    except ImportError:
        raise ConfigError(
            key, f"needs NVIDIA apex, which is not installed; {where}, or use '{other}'"
        ) from None
    try:
        return importlib.import_module(f"apex.{part}")
    except ImportError as error:
        raise ConfigError(
            key,
            f"needs NVIDIA apex, and the installed package 'apex' is not it or not whole (no module "
            f"apex.{part}: {error}): the package of that name on the public index is something else; "
            f"{where}, or use '{other}'",
        ) from None


def apex_optimizer(
    name: str, groups: list[dict[str, Any]], other: str, **settings: Any
) -> torch.optim.Optimizer:
    """`apex.optimizers.NAME`. ConfigError where there is no NVIDIA apex, no CUDA device, or no kernel for fp64. other:
    the implementation that there always is."""
    key, parameters = "optimizer.implementation", [p for group in groups for p in group["params"]]
    apex_part("normalization", key, other)  # only NVIDIA's has it
    cls = getattr(apex_part("optimizers", key, other), name)
    wrong = next(
        (p for p in parameters if p.device.type != "cuda" or p.dtype == torch.float64), None
    )
    if wrong is not None:
        what = "float64" if wrong.device.type == "cuda" else f"train.device={wrong.device}"
        raise ConfigError(
            key, f"apex's {name} has CUDA kernels up to float32, and none for {what}; use '{other}'"
        )
    try:
        return cls(groups, **settings)
    except RuntimeError as error:  # built without its CUDA extensions
        raise ConfigError(key, f"apex's {name} cannot be used ({error}); use '{other}'") from error
