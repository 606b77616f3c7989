"""The contract of optimizers (registry `optimizer`): a config and a `build` that returns a torch optimizer.

    @register("optimizer", "adamw")
    class AdamW(OptimizerFactory):
        @dataclass(frozen=True, kw_only=True)
        class Config(OptimizerConfig): ...

        @classmethod
        def build(cls, config, groups, device): ...

`groups` comes from `fwk.optim.groups.parameter_groups`; the optimizer must keep every key of a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from fwk.config import option


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """What every optimizer has. The fields are read by `parameter_groups` and by the trainer."""

    lr: float = option(3e-3, "peak learning rate, reached when the warm-up ends (default for tiny encoders; BERT-base: 1e-4)", low=0)
    weight_decay: float = option(0.01, "weight decay of the parameters that `no_decay` does not name", low=0)
    no_decay: tuple[str, ...] = option(
        ("ndim<2", "*.bias", "*_bias*", "*norm.*", "*.relative.*"),
        "rules for parameters without weight decay: 'ndim<N', or a glob pattern over parameter names",
    )
    layer_decay: float = option(
        1.0, "each layer's learning rate is this times that of the layer above; the embedding is lowest (1: off)",
        low=0, high=1,
    )
    lr_scales: dict[str, float] = option(
        {}, "glob pattern over parameter names -> factor on the learning rate ('networks.generator.*': 0.5); "
        "the factors of all patterns that match a parameter multiply", low=0,
    )


class OptimizerFactory:
    """Base class of what is registered under `optimizer`; never instantiated."""

    Config = OptimizerConfig

    @classmethod
    def build(cls, config: Any, groups: list[dict[str, Any]], device: torch.device) -> torch.optim.Optimizer:
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


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group `lr` times its own `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
