"""Exponential moving average of the weights, for views with `ema: true` and for evaluation.

    average <- d * average + (1 - d) * weights        after every update

An update that fp16 skips leaves the averages as they are. Buffers (running statistics, counts) are not averaged: the
averaged weights work with the module's buffers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The averages of a module's parameters by name; they start as a copy of the weights.

    A tied parameter has one average, under its first name.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = module
        self.parameters = {
            name: parameter for name, parameter in module.named_parameters() if name != "anchor"
        }
        self.values = {
            name: parameter.detach().clone() for name, parameter in self.parameters.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Move every average towards its weight."""
        torch._foreach_lerp_(
            list(self.values.values()), list(self.parameters.values()), 1.0 - self.decay
        )

    @torch.no_grad()
    def restart(self, prefixes: Iterable[str]) -> None:
        """Set the averages of parameters under these prefixes to their present values.

        Every name of a tied parameter counts.
        """
        first_name = {id(parameter): name for name, parameter in self.parameters.items()}
        for name, parameter in self.module.named_parameters(remove_duplicate=False):
            if name.startswith(tuple(prefixes)) and name != "anchor":
                self.values[first_name[id(parameter)]].copy_(parameter)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the averages into the module inside the block, and its weights back afterwards."""
        weights = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._put(self.values)
        try:
            yield
        finally:
            self._put(weights)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Set all averages to these values, by name."""
        for name, value in self.values.items():
            value.copy_(values[name])
