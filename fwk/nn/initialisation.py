"""Initial weights of heads."""

from __future__ import annotations

from torch import nn


def initialise_dense(module: nn.Module, deviation: float = 0.02) -> None:
    """Draw the weights of every dense layer in a module from a normal distribution (BERT: 0.02), with biases of 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=deviation)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
