"""Stochastic gradient descent with momentum (Sutskever et al. 2013).

Weight decay is the classical L2 term, added to the gradient before the momentum, not decoupled as in AdamW.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
        momentum: float = option(
            0.9, "share of the last step that is added to the next one", low=0, high=1
        )
        nesterov: bool = option(False, "look ahead along the momentum before the gradient is taken")

        def __post_init__(self) -> None:
            if self.nesterov and not self.momentum > 0:
                raise ConfigError("optimizer.nesterov", "needs optimizer.momentum above 0")

    @classmethod
    def build(
        cls, config: Config, groups: list[ParameterGroup], device: torch.device
    ) -> torch.optim.Optimizer:
        """Return SGD over these groups."""
        # torch's fused kernel needs the momentum of all parameters or of none, and a parameter has no momentum until a
        # loss term reaches it
        keywords: dict[str, Any] = {"foreach": True} if config.momentum else implementation(groups)
        return torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, **keywords
        )
