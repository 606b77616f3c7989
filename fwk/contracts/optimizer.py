"""The contract of optimizers (registry `optimizer`): a config and a `build` that returns a torch optimizer.

    @register("optimizer", "adamw")
    class AdamW(OptimizerFactory):
        @dataclass(frozen=True, kw_only=True)
        class Config(OptimizerConfig): ...

        @classmethod
        def build(cls, config, groups, device): ...

`groups` comes from `fwk.engine.parameter_groups.parameter_groups`; the optimizer must keep every key of a group. What it keeps is
saved: tensors and numbers per parameter (`state`), and whatever it changes or adds in a group that is a tensor or a
number (a count of its own, a running sum). `step` leaves alone what has no gradient.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.nn import Parameter

from fwk.contracts.options import option
from fwk.errors import ConfigError, did_you_mean

LARGE = 1e6  # above any rate that makes sense, and far below what a 32-bit number holds


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """What every optimizer has. The fields are read by `parameter_groups` and by the trainer."""

    lr: float = option(
        3e-3,
        "peak learning rate, reached when the warm-up ends (default for tiny encoders; BERT-base: 1e-4)",
        low=0,
        high=LARGE,
    )
    weight_decay: float = option(
        0.01, "weight decay of the parameters that `no_decay` does not name", low=0, high=LARGE
    )
    no_decay: tuple[str, ...] = option(
        ("ndim<2", "*.bias", "*_bias*", "*norm.*", "*.relative.*"),
        "rules for parameters without weight decay: 'ndim<N', or a glob pattern over parameter names",
    )
    layer_decay: float = option(
        1.0,
        "each layer's learning rate is this times that of the layer above; the embedding is lowest (1: off)",
        low=0,
        high=1,
    )
    lr_scales: dict[str, float] = option(
        {},
        "glob pattern over parameter names -> factor on the learning rate ('networks.generator.*': 0.5); "
        "the factors of all patterns that match a parameter multiply",
        low=0,
        high=LARGE,
    )
    decay_scales: dict[str, float] = option(
        {},
        "glob pattern over parameter names -> factor on the weight decay ('criteria.corrective_lm.*': 0.1), likewise",
        low=0,
        high=LARGE,
    )


class OptimizerFactory:
    """Base class of what is registered under `optimizer`; never instantiated."""

    Config = OptimizerConfig
    suits: int | None = (
        None  # width of the widest encoder for which the default learning rate is a good one, where known
    )

    @classmethod
    def advice(cls, config: Any, width: int) -> str | None:
        """A sentence for whoever trains an encoder of this width with a default rate that is made for narrower ones."""
        default = type(config).__dataclass_fields__["lr"].default
        if cls.suits is None or width <= cls.suits or config.lr != default:
            return None
        return (
            f"optimizer.lr is {default:g}, the default, which suits encoders up to {cls.suits} wide; this one is {width} wide and "
            f"may not learn with it: optimizer.lr={default * cls.suits / width:.1g} is a better start (docs/small-models.md)"
        )

    @classmethod
    def kind(
        cls, config: Any, name: str, parameter: nn.Parameter, owners: tuple[nn.Module, ...]
    ) -> str:
        """A word for what sort of parameter this is, where the optimizer treats some differently: parameters of two
        kinds never share a group, and the group says it under `kind`. owners: the modules that hold the parameter."""
        return ""

    @classmethod
    @abstractmethod
    def build(
        cls, config: Any, groups: list[dict[str, Any]], device: torch.device
    ) -> torch.optim.Optimizer:
        """`groups` as `parameter_groups` returns them -> an optimizer whose `param_groups` keep all their keys."""
        raise NotImplementedError


FUSED = ("cpu", "cuda", "xpu", "mps")  # devices for which torch has fused kernels of Adam and SGD


def implementation(groups: list[dict[str, Any]]) -> dict[str, bool]:
    """The keyword that chooses torch's fastest implementation for these parameters: fused where there is a kernel for
    every one of them (torch itself finds out only at the first step), otherwise over lists of tensors."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    if all(p.device.type in FUSED and p.is_floating_point() for p in parameters):
        return {"fused": True}
    return {"foreach": True}


def check_betas(betas: tuple[float, ...]) -> None:
    """ConfigError unless these are the decays of two moments."""
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ConfigError(
            "optimizer.betas", f"expected two numbers in [0, 1), {list(betas)} was given"
        )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group `lr` times its own `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


_NDIM = re.compile(r"ndim\s*<\s*(\d+)")


def without_decay(name: str, parameter: Parameter, rules: Iterable[str]) -> bool:
    """Whether one of the rules of `no_decay` names this parameter."""
    for rule in rules:
        ndim = _NDIM.fullmatch(rule)
        if parameter.ndim < int(ndim.group(1)) if ndim else fnmatchcase(name, rule):
            return True
    return False


def check_patterns(key: str, patterns: Iterable[str], names: Sequence[str]) -> None:
    """ConfigError with the nearest parameter or folder of parameters for a pattern that matches nothing."""
    for pattern in patterns:
        if any(fnmatchcase(name, pattern) for name in names):
            continue
        parents = (
            name.split(".")[:depth] for name in names for depth in range(1, name.count(".") + 1)
        )
        folders = {".".join(parent) + ".*" for parent in parents}
        near = did_you_mean(pattern, [*folders, *names], everything_up_to=12)
        raise ConfigError(key, f"'{pattern}' matches no parameter{near}")
