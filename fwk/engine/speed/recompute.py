"""Activation checkpointing (Chen et al. 2016, "Training deep nets with sublinear memory cost").

Of every layer that an encoder lists as its part `layers` only the input is kept, and the layer runs again in the
backward pass. The memory of activations falls to about one tensor per layer, for about a third more arithmetic. Dropout
falls the same way in the second run, so gradients are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fwk.contracts.encoder import Encoder
from fwk.errors import ConfigError

_keeps_activations = False


class Recomputed(nn.Module):
    """A class that is put before a layer's class in the order of inheritance."""

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        """Call the layer, and again in the backward pass."""
        run, training = super().forward, self.training
        if _keeps_activations or not torch.is_grad_enabled():
            return run(*arguments, **keywords)

        def run_in_same_mode(*arguments: Any, **keywords: Any) -> Any:
            mode = self.training
            if mode == training:
                return run(*arguments, **keywords)
            self.train(training)  # the encoder may have been without dropout for one call
            try:
                return run(*arguments, **keywords)
            finally:
                self.train(mode)

        return checkpoint(run_in_same_mode, *arguments, use_reentrant=False, **keywords)


def recompute_layers(networks: Mapping[str, nn.Module]) -> None:
    """Change the layers of every network in place; a network that lists no `layers` stays as it is.

    Raises ConfigError where no network lists any.
    """
    layers = [layer for network in networks.values() for layer in _layers(network)]
    if not layers:
        names = ", ".join(sorted({type(network).__name__ for network in networks.values()}))
        raise ConfigError(
            "train.activation_checkpointing",
            f"{names} lists no part 'layers' that could be run again (`Encoder.parts`)",
        )
    for layer in layers:
        if not isinstance(layer, Recomputed):  # a tied layer occurs more than once
            cls = type(layer)
            layer.__class__ = type(cls.__name__, (Recomputed, cls), {"__module__": cls.__module__})


def _layers(network: nn.Module) -> Iterable[nn.Module]:
    path = cast(Encoder, network).parts().get("layers")
    if path is None:
        return ()
    part = network.get_submodule(path)
    return part.children() if isinstance(part, (nn.ModuleList, nn.Sequential)) else (part,)


@contextmanager
def keep_activations() -> Iterator[None]:
    """Keep activations inside: weights that are in place for one call only would be others in the backward pass."""
    global _keeps_activations
    before, _keeps_activations = _keeps_activations, True
    try:
        yield
    finally:
        _keeps_activations = before
