"""Exponential moving average of the weights, a service any view (`ema: true`) or evaluation may use.

    average <- d * average + (1 - d) * weights        after every update

An update that fp16 skips leaves the averages alone. Buffers (running statistics, counts) are not averaged: the averaged
weights work with the module's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The averages of a module's parameters by name, tied ones once; they start as a copy of the weights."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.module = module
        self.parameters = {
            name: p for name, p in module.named_parameters() if name != "anchor"
        }  # no weight
        self.values = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        torch._foreach_lerp_(
            list(self.values.values()), list(self.parameters.values()), 1.0 - self.decay
        )

    @torch.no_grad()
    def restart(self, prefixes: Iterable[str]) -> None:
        """Parameters under these prefixes were given new values: their averages start from there. Tied ones are found
        under each of their names."""
        first = {id(parameter): name for name, parameter in self.parameters.items()}
        for name, parameter in self.module.named_parameters(remove_duplicate=False):
            if name.startswith(tuple(prefixes)) and name != "anchor":
                self.values[first[id(parameter)]].copy_(parameter)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The module holds the averages while inside, and its own weights again afterwards."""
        own = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._put(self.values)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        for name, value in self.values.items():
            value.copy_(values[name])
