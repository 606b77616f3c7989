"""The contract of optimizers (registry `optimizer`): a config, and a `build` that returns a torch optimizer.

    @register("optimizer", "adamw")
    class AdamW(OptimizerFactory["AdamW.Config"]):
        @dataclass(frozen=True, kw_only=True)
        class Config(OptimizerConfig): ...

        @classmethod
        def build(cls, config, groups, device): ...

The optimizer must keep every key of its groups, and `step` must leave parameters without a gradient alone. A checkpoint
holds its `state` (tensors and numbers per parameter), and every tensor and number that it changes or adds in a group.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from torch.nn import Parameter

from fwk.contracts.options import option
from fwk.errors import ConfigError, did_you_mean

LARGE = 1e6  # above any sensible rate, and far below the largest 32-bit number
FUSED = ("cpu", "cuda", "xpu", "mps")  # devices for which torch has fused kernels of Adam and SGD
_NDIM = re.compile(r"ndim\s*<\s*(\d+)")

# as torch defines it, with the further keys that `OptimizerFactory.build` lists
ParameterGroup = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Options of every optimizer. The engine reads them when it groups parameters and schedules the learning rate."""

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


OptimizerConfigT = TypeVar("OptimizerConfigT", bound=OptimizerConfig)


class OptimizerFactory(Generic[OptimizerConfigT]):
    """Base class of optimizers; never instantiated. A subclass defines `Config` and `build`."""

    Config = OptimizerConfig
    # the widest encoder that the default learning rate suits; None: unknown
    suits: int | None = None
    # the learning rate, where none is stated, of a run whose model starts from weights; None: the default
    trained_rate: float | None = None

    @classmethod
    def advice(cls, config: OptimizerConfigT, width: int) -> str | None:
        """Return a warning where the default learning rate is too large for an encoder of this width."""
        default = type(config).__dataclass_fields__["lr"].default
        if cls.suits is None or width <= cls.suits or config.lr != default:
            return None
        return (
            f"optimizer.lr is {default:g}, the default, which suits encoders up to {cls.suits} wide. This encoder is "
            f"{width} wide and may not learn with it; optimizer.lr={default * cls.suits / width:.1g} is a better start "
            "(docs/small-models.md)"
        )

    @classmethod
    def kind(
        cls,
        config: OptimizerConfigT,
        name: str,
        parameter: nn.Parameter,
        owners: tuple[nn.Module, ...],
    ) -> str:
        """Return a word for the kind of a parameter, for optimizers that treat some parameters differently.

        Parameters of different kinds never share a group; the group holds the word under `kind`. owners: the modules
        that hold the parameter.
        """
        return ""

    @classmethod
    @abstractmethod
    def build(
        cls, config: OptimizerConfigT, groups: list[ParameterGroup], device: torch.device
    ) -> torch.optim.Optimizer:
        """Return an optimizer whose `param_groups` keep all keys of `groups`.

        Each group has `params`, their `names`, `lr`, `lr_scale`, `weight_decay` and `kind`.
        """
        raise NotImplementedError


def implementation(groups: list[ParameterGroup]) -> dict[str, bool]:
    """Return the keyword that selects torch's fastest implementation for these parameters.

    It is the fused one if every parameter has a kernel (torch would check only at the first step), otherwise the one
    over lists of tensors.
    """
    parameters = [parameter for group in groups for parameter in group["params"]]
    if all(p.device.type in FUSED and p.is_floating_point() for p in parameters):
        return {"fused": True}
    return {"foreach": True}


def check_betas(betas: tuple[float, ...]) -> None:
    """Raise ConfigError unless these are the decays of two moments."""
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ConfigError("optimizer.betas", f"expected two numbers in [0, 1), got {list(betas)}")


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to `lr` times the group's `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def without_decay(name: str, parameter: Parameter, rules: Iterable[str]) -> bool:
    """Return whether one of the rules of `no_decay` matches this parameter."""
    for rule in rules:
        ndim = _NDIM.fullmatch(rule)
        matches = parameter.ndim < int(ndim.group(1)) if ndim else fnmatchcase(name, rule)
        if matches:
            return True
    return False


def check_patterns(key: str, patterns: Iterable[str], names: Sequence[str]) -> None:
    """Raise ConfigError, with the nearest name, for a pattern that matches none of the parameter names."""
    for pattern in patterns:
        if any(fnmatchcase(name, pattern) for name in names):
            continue
        folders = {
            ".".join(name.split(".")[:depth]) + ".*"
            for name in names
            for depth in range(1, name.count(".") + 1)
        }
        near = did_you_mean(pattern, [*folders, *names], everything_up_to=12)
        raise ConfigError(key, f"'{pattern}' matches no parameter{near}")
