"""Activation checkpointing: of every layer that an encoder lists as its part `layers` only the input is kept, and the
layer runs again in the backward pass (Chen et al. 2016, "Training deep nets with sublinear memory cost"). Memory of
activations falls to about one tensor per layer, for about a third more arithmetic. Dropout falls the same way in the
second run, so gradients are the same to the bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fwk.contracts.encoder import Encoder
from fwk.errors import ConfigError

_paused = False


class Recomputed:
    """Goes in front of a layer's class."""

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        run, training = super().forward, self.training
        if _paused or not torch.is_grad_enabled():
            return run(*arguments, **keywords)

        def in_its_mode(*arguments: Any, **keywords: Any) -> Any:
            now = self.training
            if now == training:
                return run(*arguments, **keywords)
            self.train(training)  # an encoder may have been without dropout for one call
            try:
                return run(*arguments, **keywords)
            finally:
                self.train(now)

        return checkpoint(in_its_mode, *arguments, use_reentrant=False, **keywords)


def recompute_layers(networks: Mapping[str, Encoder]) -> None:
    """Changes every layer in place. ConfigError when no network lists any; one that lists none is left as it is."""
    found = False
    for network in networks.values():
        path = network.parts().get("layers")
        if path is None:
            continue
        part = network.get_submodule(path)
        for layer in (
            part.children() if isinstance(part, (nn.ModuleList, nn.Sequential)) else [part]
        ):
            found = True
            if not isinstance(layer, Recomputed):  # a tied layer comes by more than once
                cls = type(layer)
                layer.__class__ = type(
                    cls.__name__, (Recomputed, cls), {"__module__": cls.__module__}
                )
    if not found:
        names = ", ".join(sorted({type(network).__name__ for network in networks.values()}))
        raise ConfigError(
            "train.activation_checkpointing",
            f"{names} lists no part 'layers' that could be run again (`Encoder.parts`)",
        )


@contextmanager
def keep_activations() -> Iterator[None]:
    """Inside, activations are kept: weights that are there for one call only would be others in the backward pass."""
    global _paused
    before, _paused = _paused, True
    try:
        yield
    finally:
        _paused = before
