"""The state of an optimizer by the names of parameters, so that it survives other groups and a change of phase."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fwk.engine.run import OptimizerState
from fwk.errors import CheckpointError

# keys of a parameter group that are not state: its parameters, their names, the rate that the schedule sets, and
# `remember_initial_settings`'s record
NOT_STATE = ("params", "names", "lr", "built")


def pack_optimizer(optimizer: torch.optim.Optimizer) -> OptimizerState:
    """Return the optimizer's state as tensors and as JSON-able values, both by 'parameter::key'.

    State that the optimizer keeps for a group as a whole since `remember_initial_settings` (a count, a running sum) is
    repeated for each of the group's parameters as 'parameter::group.key', since another phase may group them otherwise.
    Raises CheckpointError for a value of another kind.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for group in optimizer.param_groups:
        group_state = {f"group.{key}": value for key, value in _changed_settings(group).items()}
        for name, parameter in zip(group["names"], group["params"]):
            state = {**optimizer.state.get(parameter, {}), **group_state}
            for key, value in state.items():
                if isinstance(value, Tensor):
                    # a file holds no two names for the same memory
                    tensors[f"{name}::{key}"] = value.clone() if key in group_state else value
                elif value is None or isinstance(value, (bool, int, float, str)):
                    numbers[f"{name}::{key}"] = value
                else:
                    raise CheckpointError(
                        f"{type(optimizer).__name__} keeps a {type(value).__name__} as '{key}' of {name}; "
                        "only tensors and numbers can be saved"
                    )
    return tensors, numbers


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
) -> None:
    """Restore the state that `pack_optimizer` returned, for the parameters that the optimizer steps now."""
    groups = {
        name: (group, parameter)
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"])
    }
    optimizer.state.clear()
    for path, value in [*tensors.items(), *numbers.items()]:
        name, key = path.rsplit("::", 1)
        if name not in groups:
            continue  # frozen in this phase: its moments are not needed
        group, parameter = groups[name]
        if isinstance(value, Tensor):
            # torch keeps `step` on the CPU unless the implementation is fused or capturable
            on_device = key != "step" or group.get("fused") or group.get("capturable")
            value = value.to(parameter.device) if on_device else value
        if key.startswith("group."):
            group[key.removeprefix("group.")] = value
        else:
            optimizer.state[parameter][key] = value


def remember_initial_settings(optimizer: torch.optim.Optimizer) -> None:
    """Record in each group, as `built`, its settings before the first step."""
    for group in optimizer.param_groups:
        group["built"] = {
            key: value.clone() if isinstance(value, Tensor) else value
            for key, value in group.items()
            if key not in ("params", "names")
        }


def _changed_settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the optimizer changed or added in a group since it was built.

    All other settings come from the config, and must: which kernels exist depends on the device, and a run may resume
    on another one.
    """
    built = group["built"]
    return {
        key: value
        for key, value in group.items()
        if key not in NOT_STATE and (key not in built or not _are_equal(value, built[key]))
    }


def _are_equal(a: object, b: object) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)
    return type(a) is type(b) and a == b
