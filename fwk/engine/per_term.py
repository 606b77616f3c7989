"""Gradients per loss term, for hooks that combine them otherwise than by a sum (`fwk_combine_gradients`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fwk.engine.run import Run
from fwk.engine.update import MicroBatch, Update

Gradients = list[Tensor | None]  # along the trained parameters; None: the term does not reach it


def differentiate_per_term(
    run: Run, parameters: Sequence[nn.Parameter], micros: Sequence[MicroBatch], update: Update
) -> None:
    """Fill `.grad` of the parameters with what a hook makes of the gradients of each loss term.

    One backward pass per term and micro-batch; each term's gradients are then summed over ranks. Terms whose count is 0
    have none.
    """
    gradients: dict[str, Gradients] = {
        term: [None] * len(parameters) for term in sorted(update.counts) if update.counts[term] > 0
    }
    for micro in micros:
        _add_gradients(run, parameters, micro, update, gradients)
    run.module.mark.reduce(run.world)
    for of_term in gradients.values():
        _sum_over_ranks(run, parameters, of_term)
        run.precision.unscale([gradient for gradient in of_term if gradient is not None])

    combined = run.hooks.hook.fwk_combine_gradients(run=run, gradients=gradients)
    for parameter, gradient in zip(parameters, combined):
        parameter.grad = gradient


def _add_gradients(
    run: Run,
    parameters: Sequence[nn.Parameter],
    micro: MicroBatch,
    update: Update,
    gradients: dict[str, Gradients],
) -> None:
    """Add one micro-batch's gradients, and record its sums."""
    with run.precision.autocast():
        output = run.module(micro, update, per_term=True)
    for number, (term, loss) in enumerate(output.terms.items(), start=1):
        if not loss.requires_grad:
            continue
        new = torch.autograd.grad(
            loss * run.precision.scale,
            parameters,
            allow_unused=True,
            retain_graph=number < len(output.terms),
        )
        gradients[term] = [_added(old, more) for old, more in zip(gradients[term], new)]
    zero = torch.zeros((), device=run.device)
    total = sum((loss.detach() for loss in output.terms.values()), zero)
    run.module.mark.add(total)
    run.meters.record(output, total / run.world_size)


def _added(old: Tensor | None, more: Tensor | None) -> Tensor | None:
    if old is None:
        return more
    return old if more is None else old + more


def _sum_over_ranks(run: Run, parameters: Sequence[nn.Parameter], gradients: Gradients) -> None:
    """Replace gradients by their sums over ranks, where any rank has one.

    Losses are multiplied by the world size (`ObjectiveModule.weighted_loss`), which is divided away here.
    """
    present = [gradient is not None for gradient in gradients]
    reached = run.world.sum(torch.tensor(present, dtype=torch.float32, device=run.device)).tolist()
    for number, parameter in enumerate(parameters):
        if reached[number]:
            gradient = gradients[number]
            gradient = torch.zeros_like(parameter) if gradient is None else gradient.contiguous()
            gradients[number] = run.world.sum(gradient / run.world_size)
