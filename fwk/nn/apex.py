"""NVIDIA apex, where it is installed.

The package called `apex` on the public index is unrelated, and importing it succeeds, so the wanted sub-module
is imported.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch

from fwk.contracts.optimizer import ParameterGroup
from fwk.errors import ConfigError

_ORIGIN = "NVIDIA's is built from https://github.com/NVIDIA/apex"


def import_apex(part: str, key: str, other: str) -> ModuleType:
    """Return the module `apex.<part>`.

    Raises ConfigError at `key`, the option that needs it, and suggests the value `other` instead.
    """
    try:
        importlib.import_module("apex")
    except ImportError:
        raise ConfigError(
            key, f"needs NVIDIA apex, which is not installed; {_ORIGIN}, or use '{other}'"
        ) from None
    try:
        return importlib.import_module(f"apex.{part}")
    except ImportError as error:
        raise ConfigError(
            key,
            f"needs NVIDIA apex, and the installed package 'apex' is another one or incomplete (no module apex.{part}: "
            f"{error}); the package of that name on the public index is unrelated; {_ORIGIN}, or use '{other}'",
        ) from None


def apex_optimizer(
    name: str,
    groups: list[ParameterGroup],
    other: str,
    **settings: Any,
) -> torch.optim.Optimizer:
    """Return `apex.optimizers.NAME` over these parameters.

    other: the implementation that is always available, for messages. settings: keywords of the optimizer. Raises
    ConfigError without NVIDIA apex, without a CUDA device, and for float64, which has no kernel.
    """
    key = "optimizer.implementation"
    import_apex("normalization", key, other)  # the unrelated package lacks it
    optimizer_class = getattr(import_apex("optimizers", key, other), name)
    for parameter in (parameter for group in groups for parameter in group["params"]):
        if parameter.device.type != "cuda":
            wrong = f"train.device={parameter.device}"
        elif parameter.dtype == torch.float64:
            wrong = "float64"
        else:
            continue
        raise ConfigError(
            key,
            f"apex's {name} has CUDA kernels up to float32, and none for {wrong}; use '{other}'",
        )
    try:
        return optimizer_class(groups, **settings)
    except RuntimeError as error:  # built without its CUDA extensions
        raise ConfigError(key, f"apex's {name} cannot be used ({error}); use '{other}'") from error
