"""LAMB (You et al. 2020, "Large batch optimization for deep learning: training BERT in 76 minutes", algorithm 2).

    m = b1·m + (1-b1)·g         v = b2·v + (1-b2)·g²         m̂ = m/(1-b1^t), v̂ = v/(1-b2^t)
    u = m̂ / (√v̂ + eps) + weight_decay·w
    w = w - lr·ratio·u          ratio = min(‖w‖ / ‖u‖, largest_ratio); 1 where either norm is 0

Norms are taken per parameter (one matrix, one table), and each parameter counts its own t. Parameters that `no_decay`
names (biases, norms) are not adapted, ratio = 1, as in the authors' released optimizer; matrices are adapted even with
`weight_decay=0`.

Deviations: the paper bounds ‖w‖ by a function φ that is the identity in its experiments; here the ratio itself
is bounded (`largest_ratio=0`: not at all, as published). `bias_correction=false` leaves m̂ = m, v̂ = v, as
released. Gradients are clipped beforehand by `train.clip`, not here. apex's FusedLAMB counts t per group, has
no bound, and adapts parameters with weight decay, so `weight_decay=0` turns its adaptation off.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fwk.components.registry import register
from fwk.contracts.optimizer import (
    LARGE,
    OptimizerConfig,
    OptimizerFactory,
    ParameterGroup,
    check_betas,
    without_decay,
)
from fwk.contracts.options import option
from fwk.errors import ConfigError
from fwk.nn.apex import apex_optimizer


@register("optimizer", "lamb")
class LAMB(OptimizerFactory["LAMB.Config"]):
    """Adam with steps in proportion to the norm of each matrix, for batches of thousands of sequences."""

    @dataclass(frozen=True, kw_only=True)
    class Config(OptimizerConfig):
        lr: float = option(
            0.02,
            "peak learning rate (default for tiny encoders; BERT-large, batch 512: 1.25e-3)",
            low=0,
            high=LARGE,
        )
        betas: tuple[float, float] = option(
            (0.9, 0.999), "decay of the first and second moment (paper: 0.9, 0.999)", low=0, high=1
        )
        eps: float = option(
            1e-6, "added to the root of the second moment (paper: 1e-6)", low=0, high=LARGE
        )
        largest_ratio: float = option(
            10.0,
            "upper bound of the trust ratio |w|/|u| (0: none, as published)",
            low=0,
            high=LARGE,
        )
        bias_correction: bool = option(
            True, "correct the moments for their start at zero (paper: yes)"
        )
        implementation: Literal["own", "apex"] = option(
            "own",
            "this project's, over lists of tensors, or NVIDIA apex's FusedLAMB (CUDA only, where apex is installed)",
        )

        def __post_init__(self) -> None:
            check_betas(self.betas)
            if self.implementation == "apex" and self.largest_ratio:
                raise ConfigError(
                    "optimizer.largest_ratio",
                    "apex's FusedLAMB has no bound on the ratio; set this to 0",
                )

    @classmethod
    def kind(
        cls, config: Config, name: str, parameter: nn.Parameter, owners: tuple[nn.Module, ...]
    ) -> str:
        """Return "spared" for parameters that `no_decay` names, else "adapted"."""
        return "spared" if without_decay(name, parameter, config.no_decay) else "adapted"

    @classmethod
    def build(
        cls, config: Config, groups: list[ParameterGroup], device: torch.device
    ) -> torch.optim.Optimizer:
        """Return LAMB over these groups."""
        settings: dict[str, Any] = {  # keyword arguments
            "lr": config.lr,
            "betas": config.betas,
            "eps": config.eps,
            "weight_decay": config.weight_decay,
            "bias_correction": config.bias_correction,
        }
        if config.implementation == "apex":
            return apex_optimizer(
                "FusedLAMB",
                groups,
                "own",
                **settings,
                adam_w_mode=True,
                use_nvlamb=False,
                max_grad_norm=math.inf,
            )
        return Lamb(groups, {**settings, "largest_ratio": config.largest_ratio})


class Lamb(torch.optim.Optimizer):
    """The equations of this module. The `kind` of a group is "adapted" (by the ratio) or "spared"."""

    @torch.no_grad()
    def step(  # type: ignore[override]  # torch declares two overloads
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Step all parameters that have a gradient. Return the result of `closure`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._step_group(group, parameters)
        return loss

    def _step_group(self, group: ParameterGroup, parameters: list[Tensor]) -> None:
        b1, b2 = group["betas"]
        gradients = [p.grad for p in parameters if p.grad is not None]  # all have one
        for p in parameters:
            if not self.state[p]:
                self.state[p] = {
                    "step": torch.zeros(()),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        states = [self.state[p] for p in parameters]
        m, v = ([state[key] for state in states] for key in ("exp_avg", "exp_avg_sq"))

        torch._foreach_add_([state["step"] for state in states], 1)
        torch._foreach_lerp_(m, gradients, 1 - b1)
        torch._foreach_mul_(v, b2)
        torch._foreach_addcmul_(v, gradients, gradients, 1 - b2)

        root = torch._foreach_sqrt(v)
        if group["bias_correction"]:
            counts = [float(state["step"]) for state in states]
            torch._foreach_div_(root, [math.sqrt(1 - b2**t) for t in counts])
            torch._foreach_add_(root, group["eps"])
            torch._foreach_mul_(root, [1 - b1**t for t in counts])
        else:
            torch._foreach_add_(root, group["eps"])
        update = torch._foreach_div(m, root)
        if group["weight_decay"]:
            torch._foreach_add_(update, parameters, alpha=group["weight_decay"])
        if group["kind"] == "adapted":
            ratios = trust_ratios(parameters, list(update), group["largest_ratio"])
            torch._foreach_mul_(update, ratios)
        torch._foreach_add_(parameters, update, alpha=-group["lr"])


def trust_ratios(weights: list[Tensor], updates: list[Tensor], largest: float) -> list[Tensor]:
    """Return ‖w‖/‖u‖ of each pair, 0-d on its device: at most `largest` unless that is 0, and 1 where a norm is 0."""
    w, u = torch.stack(torch._foreach_norm(weights)), torch.stack(torch._foreach_norm(updates))
    ratios = torch.where((w > 0) & (u > 0), w / u, 1.0)
    return list((ratios.clamp(max=largest) if largest else ratios).unbind())
