"""Stochastic gradient descent with momentum (Sutskever et al. 2013). Weight decay is the classical L2 term, added to
the gradient before the momentum, not AdamW's decoupled one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fwk.components.registry import register
from fwk.contracts.optimizer import (
    LARGE,
    OptimizerConfig,
    OptimizerFactory,
    ParameterGroup,
    implementation,
)
from fwk.contracts.options import option
from fwk.errors import ConfigError


@register("optimizer", "sgd")
class SGD(OptimizerFactory["SGD.Config"]):
    """Stochastic gradient descent with momentum and L2 weight decay."""

    @dataclass(frozen=True, kw_only=True)
    class Config(OptimizerConfig):
        lr: float = option(
            0.1, "peak learning rate, reached when the warm-up ends", low=0, high=LARGE
        )
        momentum: float = option(0.9, "share of the last step kept in the next one", low=0, high=1)
        nesterov: bool = option(False, "look ahead along the momentum before the gradient is taken")

        def __post_init__(self) -> None:
            if self.nesterov and not self.momentum > 0:
                raise ConfigError("optimizer.nesterov", "needs optimizer.momentum above 0")

    @classmethod
    def build(
        cls, config: Config, groups: list[ParameterGroup], device: torch.device
    ) -> torch.optim.Optimizer:
        settings = {"lr": config.lr, "momentum": config.momentum, "nesterov": config.nesterov}
        # torch's fused kernel wants momentum of all parameters or of none, and one whose loss terms had no example has none yet
        how = {"foreach": True} if config.momentum else implementation(groups)
        return torch.optim.SGD(groups, **settings, **how)
