"""Muon for hidden matrices, AdamW for all other parameters; both are torch's implementations.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks":

    B = μ·B + (1-μ)·G           M = μ·B + (1-μ)·G with nesterov, else B
    O ≈ U·Vᵀ of M = U·S·Vᵀ      by `iterations` of the quintic X <- aX + (bA + cA²)X, A = X·Xᵀ, from M/‖M‖, in bfloat16
    W = W·(1 - lr·weight_decay) - lr·size·O
    size = 0.2·√max(rows, columns) (Liu et al. 2025, "Muon is scalable for LLM training", equation 4: steps as large as
           AdamW's, so one learning rate serves both), or √max(1, rows/columns) (`original`)

A hidden matrix has two dimensions, matches `hidden`, and belongs to no embedding, tied or not. AdamW steps all
others, at `adamw_lr` times the learning rate: biases, norms, tables of relative positions, embeddings and their
projections, and the heads of criteria and learned noisers.

Deviations: torch averages (1-μ)·G into B where Jordan et al. add G; the direction O is the same. `bert` holds
query, key and value in one matrix, which is made orthogonal as a whole. O is computed in bfloat16 whatever the
type of the weights: cutting a batch differently leaves gradients as exact as with other optimizers, but weights
agree only to bfloat16's precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import nn

from fwk.components.registry import register
from fwk.contracts.optimizer import (
    LARGE,
    OptimizerConfig,
    OptimizerFactory,
    ParameterGroup,
    check_betas,
    check_patterns,
    implementation,
)
from fwk.contracts.options import option
from fwk.errors import ConfigError

LAYERS = ("networks.*.layers.*",)


@register("optimizer", "muon")
class Muon(OptimizerFactory["Muon.Config"]):
    """Orthogonalised momentum for the matrices of the layers, AdamW for all others; needs torch 2.9."""

    @dataclass(frozen=True, kw_only=True)
    class Config(OptimizerConfig):
        hidden: tuple[str, ...] = option(
            LAYERS,
            "glob patterns over names of parameters that Muon steps if they are matrices and not embeddings",
        )
        momentum: float = option(
            0.95, "μ, share of the average kept in the next one (paper: 0.95)", low=0, high=1
        )
        nesterov: bool = option(True, "look ahead along the momentum (paper: yes)")
        iterations: int = option(5, "Newton-Schulz iterations (paper: 5)", low=1, high=99)
        size: Literal["match_rms_adamw", "original"] = option(
            "match_rms_adamw",
            "a step's size: like AdamW's (Liu et al.), or for learning rates like 0.02 (Jordan et al.)",
        )
        adamw_lr: float = option(
            1.0,
            "factor on the learning rate of parameters that AdamW steps (with size=original: 0.02 to 0.1)",
            low=0,
            high=LARGE,
        )
        betas: tuple[float, float] = option(
            (0.9, 0.999), "AdamW's decay of the first and second moment", low=0, high=1
        )
        eps: float = option(
            1e-6, "AdamW's number added to the root of the second moment", low=0, high=LARGE
        )

        def __post_init__(self) -> None:
            check_betas(self.betas)
            if not hasattr(torch.optim, "Muon"):
                raise ConfigError(
                    "optimizer",
                    f"'muon' is torch.optim.Muon, which came with torch 2.9, and this is torch "
                    f"{torch.__version__}; install a newer torch or choose another optimizer",
                )

    @classmethod
    def kind(
        cls, config: Config, name: str, parameter: nn.Parameter, owners: tuple[nn.Module, ...]
    ) -> str:
        """Return "muon" for hidden matrices, else "adamw"."""
        embedding = any(isinstance(owner, (nn.Embedding, nn.EmbeddingBag)) for owner in owners)
        named = any(fnmatchcase(name, pattern) for pattern in config.hidden)
        return "muon" if parameter.ndim == 2 and named and not embedding else "adamw"

    @classmethod
    def build(
        cls, config: Config, groups: list[ParameterGroup], device: torch.device
    ) -> torch.optim.Optimizer:
        """Return Muon and AdamW as one optimizer. Raises ConfigError for a pattern that matches no parameter."""
        names = [name for group in groups for name in group["names"]]
        if config.hidden != LAYERS:
            check_patterns("optimizer.hidden", config.hidden, names)
        hidden = [group for group in groups if group["kind"] == "muon"]
        others = [group for group in groups if group["kind"] != "muon"]
        for group in others:
            group["lr_scale"] *= config.adamw_lr
            group["lr"] *= config.adamw_lr
        parts: list[torch.optim.Optimizer] = []
        if hidden:
            parts.append(
                torch.optim.Muon(
                    hidden,
                    lr=config.lr,
                    weight_decay=config.weight_decay,
                    momentum=config.momentum,
                    nesterov=config.nesterov,
                    ns_steps=config.iterations,
                    adjust_lr_fn=config.size,
                )
            )
        if others:
            parts.append(
                torch.optim.AdamW(
                    others,
                    lr=config.lr,
                    betas=config.betas,
                    eps=config.eps,
                    weight_decay=config.weight_decay,
                    **implementation(others),
                )
            )
        return Together(parts)


class Together(torch.optim.Optimizer):
    """Several optimizers as one, with the groups of all of them and one state."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts

    @torch.no_grad()
    def step(  # type: ignore[override]  # torch declares two overloads
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Step all parameters that have a gradient. Return the result of `closure`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        start = 0
        # groups and state are passed on at every step, because loading a state replaces both
        for part in self.parts:
            stop = start + len(part.param_groups)
            part.param_groups, part.state = self.param_groups[start:stop], self.state
            part.step()
            start = stop
        return loss
