"""RAdam with decoupled weight decay, in torch's implementation.

Liu et al. 2020, "On the variance of the adaptive learning rate and beyond", algorithm 2:

    m = b1·m + (1-b1)·g         v = b2·v + (1-b2)·g²         m̂ = m/(1-b1^t)
    ρ∞ = 2/(1-b2) - 1           ρ = ρ∞ - 2·t·b2^t/(1-b2^t)
    r = √( (ρ-4)(ρ-2)ρ∞ / ((ρ∞-4)(ρ∞-2)ρ) )
    w = w·(1 - lr·weight_decay) - lr·m̂·r·√(1-b2^t)/(√v + eps)      if ρ > 5
    w = w·(1 - lr·weight_decay) - lr·m̂                             otherwise: momentum alone, for about five updates

Deviations, all torch's: the threshold is 5, not 4, and eps is added to the root of v before its correction. The first
updates are not divided by √v̂, so they step by the raw gradient; `train.clip` bounds them.
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
    check_betas,
)
from fwk.contracts.options import option


@register("optimizer", "radam")
class RAdam(OptimizerFactory["RAdam.Config"]):
    """Adam with steps that grow as the estimate of the second moment improves; decoupled weight decay."""

    @dataclass(frozen=True, kw_only=True)
    class Config(OptimizerConfig):
        betas: tuple[float, float] = option(
            (0.9, 0.999), "decay of the first and second moment", low=0, high=1
        )
        eps: float = option(1e-6, "added to the root of the second moment", low=0, high=LARGE)

        def __post_init__(self) -> None:
            check_betas(self.betas)

    @classmethod
    def build(
        cls, config: Config, groups: list[ParameterGroup], device: torch.device
    ) -> torch.optim.Optimizer:
        """Return RAdam over these groups."""
        return torch.optim.RAdam(
            groups,
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            decoupled_weight_decay=True,
            foreach=True,
        )
