"""AdamW (Loshchilov and Hutter 2019, "Decoupled weight decay regularization", algorithm 2).

    m = b1·m + (1-b1)·g         v = b2·v + (1-b2)·g²
    w = w - lr·( m̂ / (√v̂ + eps) + weight_decay·w )        m̂ = m/(1-b1^t), v̂ = v/(1-b2^t)

Deviations: the decay is multiplied by the scheduled learning rate, as in torch. BERT's released optimizer lacks the two
corrections m̂ and v̂; this one has them. apex counts t per group, not per parameter: a parameter without a gradient in
an update is not stepped, but its corrections advance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from fwk.components.registry import register
from fwk.contracts.optimizer import (
    LARGE,
    OptimizerConfig,
    OptimizerFactory,
    ParameterGroup,
    check_betas,
    implementation,
)
from fwk.contracts.options import option
from fwk.nn.apex import apex_optimizer


@register("optimizer", "adamw")
class AdamW(OptimizerFactory["AdamW.Config"]):
    """Adam with decoupled weight decay; fused where torch has a kernel."""

    suits = 128
    trained_rate = (
        5e-5  # the usual one for fine-tuning (Devlin et al. 2019, appendix A.3: 2e-5 to 5e-5)
    )

    @dataclass(frozen=True, kw_only=True)
    class Config(OptimizerConfig):
        betas: tuple[float, float] = option(
            (0.9, 0.999),
            "decay of the first and second moment (BERT: 0.9, 0.999; RoBERTa: 0.9, 0.98)",
            low=0,
            high=1,
        )
        eps: float = option(
            1e-6,
            "added to the root of the second moment (BERT, RoBERTa, ELECTRA: 1e-6)",
            low=0,
            high=LARGE,
        )
        implementation: Literal["torch", "apex"] = option(
            "torch", "torch's own, or NVIDIA apex's FusedAdam (CUDA only, where apex is installed)"
        )

        def __post_init__(self) -> None:
            check_betas(self.betas)

    @classmethod
    def build(
        cls, config: Config, groups: list[ParameterGroup], device: torch.device
    ) -> torch.optim.Optimizer:
        """Return AdamW over these groups."""
        settings: dict[str, Any] = {  # keyword arguments
            "lr": config.lr,
            "betas": config.betas,
            "eps": config.eps,
            "weight_decay": config.weight_decay,
        }
        if config.implementation == "apex":
            return apex_optimizer("FusedAdam", groups, "torch", **settings, adam_w_mode=True)
        settings.update(implementation(groups))
        return torch.optim.AdamW(groups, **settings)
