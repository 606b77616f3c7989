"""Exponential moving average of the weights, a service any view (`ema: true`) or evaluation may use.

    average <- d * average + (1 - d) * weights        after every update
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Average:
    """The averages of a module's parameters by name; they start as a copy of the weights."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.parameters = dict(module.named_parameters())
        self.values = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        torch._foreach_lerp_(list(self.values.values()), list(self.parameters.values()), 1.0 - self.decay)

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        for name, value in self.values.items():
            value.copy_(values[name])
