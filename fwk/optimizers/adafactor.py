"""Adafactor, in torch's implementation. The second moment of a matrix [n, m] is stored as n + m numbers.

Shazeer and Stern 2018, "Adafactor: adaptive learning rates with sublinear memory cost", algorithm 4:

    β = 1 - t^-decay_rate
    R = β·R + (1-β)·mean over columns of g²        C = β·C + (1-β)·mean over rows of g²        V = R·C / mean(R)
    (fewer than two dimensions: V = β·V + (1-β)·g²)
    U = g / √V                                     Û = U / max(1, RMS(U)/clip_rms)
    w = w·(1 - lr·weight_decay) - max(floor, RMS(w))·min(lr, 1/√t)·Û

`lr` is relative: the size of a step as a share of the size of the parameter, at most 1/√t. Deviations, all torch's: the
paper's constant 0.01 is `lr`; V and √V are bounded from below, instead of adding 1e-30 to g²; there is no momentum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fwk.components.registry import register
from fwk.contracts.optimizer import LARGE, OptimizerConfig, OptimizerFactory, ParameterGroup
from fwk.contracts.options import option


@register("optimizer", "adafactor")
class Adafactor(OptimizerFactory["Adafactor.Config"]):
    """Second moments factored into rows and columns, steps relative to each parameter's size."""

    @dataclass(frozen=True, kw_only=True)
    class Config(OptimizerConfig):
        lr: float = option(
            0.05,
            "peak learning rate, relative to each parameter's root mean square (paper: 0.01)",
            low=0,
            high=LARGE,
        )
        decay_rate: float = option(
            0.8, "the second moment's decay is 1 - t^-decay_rate (paper: 0.8)", above=0, high=1
        )
        clip_rms: float = option(
            1.0,
            "largest root mean square of the update before it is scaled (paper: 1)",
            low=1,
            high=LARGE,
        )
        floor: float = option(
            1e-3, "a parameter counts as at least this large (paper: 1e-3)", low=0, high=LARGE
        )

    @classmethod
    def build(
        cls, config: Config, groups: list[ParameterGroup], device: torch.device
    ) -> torch.optim.Optimizer:
        """Return Adafactor over these groups."""
        return torch.optim.Adafactor(
            groups,
            lr=config.lr,
            beta2_decay=-config.decay_rate,
            eps=(None, config.floor),
            d=config.clip_rms,
            weight_decay=config.weight_decay,
            foreach=True,
        )
