"""PCGrad (Yu et al. 2020, "Gradient surgery for multi-task learning", algorithm 1).

    for each term i, for the other terms j in random order, where  g_i . g_j < 0  (the terms conflict):
        g_i <- g_i - (g_i . g_j) / (g_j . g_j) g_j
    g = sum over i of g_i

g_i    `projected`: the gradient of a loss term, times the term's weight, over all parameters that are trained
g_j    `others`: the gradients of the other terms as they were, before any projection

Deviations: the paper's tasks are loss terms here. A parameter that a term does not reach counts as zero in its
gradient. The random order is drawn from the seed and the update, so that all ranks and a resumed run use the same one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fwk import hookimpl, register

Gradient = list[Tensor | None]  # along the trained parameters; None: not reached


@register("hook", "pcgrad")
class PCGrad:
    """Remove the parts of loss terms' gradients that work against each other."""

    def __init__(self, config):
        self.config = config

    @hookimpl
    def fwk_combine_gradients(self, run, gradients):
        return combine(gradients, random.Random(f"{run.config.seed} pcgrad {run.update}"))


def combine(gradients: Mapping[str, Gradient], order: random.Random) -> Gradient:
    """Return the sum of all gradients, each projected onto the normal planes of those it conflicts with."""
    total: Gradient | None = None
    for term, projected in gradients.items():
        others = [gradient for name, gradient in gradients.items() if name != term]
        for other in order.sample(others, len(others)):
            overlap = dot(projected, other)
            if overlap < 0:
                projected = added(projected, other, -overlap / dot(other, other))
        total = projected if total is None else added(total, projected, 1.0)
    return total or []


def dot(a: Sequence[Tensor | None], b: Sequence[Tensor | None]) -> float:
    """Return the inner product over the parameters that both terms reach."""
    products = [
        (x * y).sum(dtype=torch.float64) for x, y in zip(a, b) if x is not None and y is not None
    ]
    return float(sum(products))


def added(a: Gradient, b: Gradient, factor: float) -> Gradient:
    """Return a + factor * b, parameter by parameter."""
    total = list(a)
    for number, gradient in enumerate(b):
        if gradient is not None:
            before, change = total[number], factor * gradient
            total[number] = change if before is None else before + change
    return total
