"""The state of an optimizer by the names of parameters, so that it survives other groups and a change of phase."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fwk.contracts.optimizer import ParameterGroup
from fwk.engine.run import OptimizerState
from fwk.errors import CheckpointError

Build = Callable[[list[ParameterGroup]], torch.optim.Optimizer]

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


# ---- the state in a checkpoint, compared with what the optimizer keeps ----

_SIZES = (2, 3, 5, 7, 11, 13)  # of a parameter's dimensions in the trial; they are distinct


def check_optimizer_state(
    optimizer: torch.optim.Optimizer, trial: Build, state: OptimizerState, path: Path, applied: int
) -> None:
    """Raise CheckpointError where a checkpoint's state is not what `optimizer` keeps for its parameters.

    trial: builds the optimizer of other groups. A trial of tiny parameters shows which tensors it keeps for one, and
    which of the parameter's dimensions they have. path: of the checkpoint. applied: updates that had an effect.
    """
    tensors, numbers = state
    by_parameter = _by_parameter(state, path)
    expected = _trial_state(optimizer, trial)
    if applied and not by_parameter and any(expected.values()):
        raise CheckpointError(
            f"{path} is damaged: it holds no state of the optimizer after {applied} updates"
        )
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"]):
            kept = by_parameter.get(name)
            wanted = expected.get((group["kind"], parameter.dim()), {})
            for key, sizes in wanted.items() if kept else ():
                _check_tensor(f"{name}::{key}", sizes, parameter, tensors, path)
            for key in kept or ():
                _check_group_setting(key, numbers.get(f"{name}::{key}"), group, path)


def _by_parameter(state: OptimizerState, path: Path) -> dict[str, set[str]]:
    """Return the keys of each parameter's state. Raises CheckpointError for names and values of another kind."""
    keys: dict[str, set[str]] = {}
    for mapping in state:
        for entry, value in mapping.items():
            name, separator, key = entry.rpartition("::")
            is_plain = value is None or isinstance(value, (Tensor, bool, int, float, str))
            if not separator or not is_plain:
                raise CheckpointError(
                    f"{path} is damaged: '{entry[:80]}' of the optimizer's state is no value of a parameter"
                )
            keys.setdefault(name, set()).add(key)
    return keys


def _trial_state(
    optimizer: torch.optim.Optimizer, build: Build
) -> dict[tuple[str, int], dict[str, tuple[int, ...]]]:
    """Return the sizes of the tensors that the optimizer keeps, by kind and number of dimensions of a parameter.

    Empty where the optimizer cannot step a parameter of another size; nothing is known of its state then.
    """
    groups, kinds = [], []
    for group in optimizer.param_groups:
        first = {p.dim(): name for name, p in zip(group["names"], group["params"])}
        first = {dims: name for dims, name in first.items() if dims <= len(_SIZES)}
        parameters = [torch.nn.Parameter(torch.ones(_SIZES[:dims])) for dims in first]
        settings = {key: group["built"][key] for key in ("kind", "lr_scale", "weight_decay", "lr")}
        groups.append({"params": parameters, "names": list(first.values()), **settings})
        kinds += [((settings["kind"], p.dim()), p) for p in parameters]
    try:
        twin = build(groups)
        for _, parameter in kinds:
            parameter.grad = torch.ones_like(parameter)
        twin.step()
    except Exception:  # a plugin's optimizer may be bound to the parameters of its model
        return {}
    return {
        place: {k: tuple(v.shape) for k, v in twin.state[p].items() if isinstance(v, Tensor)}
        for place, p in kinds
    }


def _check_tensor(
    entry: str,
    sizes: tuple[int, ...],
    parameter: Tensor,
    tensors: Mapping[str, Tensor],
    path: Path,
) -> None:
    """Raise CheckpointError where a tensor of the state is missing, or has not the shape of the trial (`sizes`)."""
    if not all(size == 1 or size in _SIZES[: parameter.dim()] for size in sizes):
        return  # the shape does not follow from the parameter's
    shape = [1 if size == 1 else parameter.shape[_SIZES.index(size)] for size in sizes]
    value = tensors.get(entry)
    if value is None:
        raise CheckpointError(f"{path} is damaged: it lacks {entry} of the optimizer's state")
    if list(value.shape) != shape or not value.is_floating_point():
        raise CheckpointError(
            f"{path} is damaged: {entry} of the optimizer's state is {value.dtype} {list(value.shape)}, expected "
            f"numbers {shape}"
        )
    is_count = not shape
    if bool(torch.isnan(value).any()) or (is_count and not 0 <= float(value) < 2**53):
        raise CheckpointError(f"{path} is damaged: {entry} of the optimizer's state is not finite")


def _check_group_setting(key: str, value: object, group: Mapping[str, object], path: Path) -> None:
    """Raise CheckpointError for a setting of a group that is not state, or is of another kind than the group's."""
    name = key.removeprefix("group.")
    if name == key:
        return
    numbers = (int, float)
    present = group.get(name, value)
    alike = type(present) is type(value) or (
        isinstance(present, numbers) and isinstance(value, numbers)
    )
    if name in NOT_STATE or not (alike or isinstance(present, Tensor)):
        raise CheckpointError(f"{path} is damaged: '{key[:80]}' is no state of the optimizer")
