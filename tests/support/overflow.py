"""Updates whose loss or gradient is not finite."""

from __future__ import annotations

import torch

from fwk.testing import merge_settings, tiny_config


def tiny(changes: dict | None = None):
    return tiny_config(
        merge_settings(
            {"criterion": {"masked_lm": {}}, "train": {"precision": "fp32"}}, changes or {}
        )
    )


def overflowing(trainer, *updates: int) -> None:
    """The loss of these updates is too large for any gradient."""
    forward = trainer.run.module.forward

    def larger(micro, step, per_term=False):
        output = forward(micro, step, per_term)
        if step.number in updates and step.split == "train" and micro.index == 0:
            output = output._replace(loss=output.loss * 1e38)
        return output

    trainer.run.module.forward = larger


class Poisoned(torch.autograd.Function):
    """The identity, with a gradient that is not finite."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")
