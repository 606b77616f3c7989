"""A distribution over tokens that may copy its input, for criteria on corrupted views.

p(x) = c 1(x~ = x) + (1 - c) s(x)        c: the probability that the token x~ was left as it is; s: a softmax
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


def copy_losses(nll: Tensor, copy_logit: Tensor, same: Tensor) -> Tensor:
    """Return -log p(x) of the original token x, in nats, of the shape of the arguments.

    nll: -log s(x). copy_logit: the logit of c. same: bool, True where x~ = x. Neither the loss nor its gradient loses
    digits where c or s is near 0 or 1. Differentiable once.
    """
    return _CopyLosses.apply(nll, copy_logit, same)


def copies(copy_logit: Tensor, log_input: Tensor, log_best: Tensor) -> Tensor:
    """Return whether the most likely token under p is the input, rather than the most likely token of the softmax.

    log_input: log s(x~). log_best: the largest log-probability of the softmax. All have one shape; the result is bool.
    """
    left = F.logsigmoid(-copy_logit)
    return torch.logaddexp(F.logsigmoid(copy_logit), left + log_input) >= left + log_best


class _CopyLosses(torch.autograd.Function):
    """The loss and its gradient.

    With n = -log s, a the logit of c, and L = -log p:

    x~ = x    L = -log1p(-u), u = (1 - c)(1 - s), where u is below one half, else -logaddexp(log c, log(1 - c) - n)
              dL/dn = (1 - c) s / p        dL/da = -c (1 - c)(1 - s) / p
    else      L = n - log(1 - c)           dL/dn = 1        dL/da = c
    """

    @staticmethod
    def forward(ctx: FunctionCtx, nll: Tensor, copy_logit: Tensor, same: Tensor) -> Tensor:
        left, copied, rest = _log_parts(nll, copy_logit)
        lost = (left + rest).exp()  # u
        near = -torch.log1p(-lost.clamp(max=0.5))
        far = -torch.logaddexp(copied, left - nll)
        losses = torch.where(same, torch.where(lost < 0.5, near, far), nll - left)
        ctx.save_for_backward(nll, copy_logit, same, losses)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        nll, copy_logit, same, losses = ctx.saved_tensors  # type: ignore[attr-defined]
        left, copied, rest = _log_parts(nll, copy_logit)
        # products of probabilities, computed as sums of logarithms
        by_nll = torch.where(same, (left - nll + losses).exp(), 1.0)
        by_logit = torch.where(same, -(copied + left + rest + losses).exp(), copied.exp())
        return grad * by_nll, grad * by_logit, None


def _log_parts(nll: Tensor, copy_logit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log(1 - c), log c and log(1 - s). A certain softmax may have nll slightly below 0 from rounding."""
    return (
        F.logsigmoid(-copy_logit),
        F.logsigmoid(copy_logit),
        (-torch.expm1(-nll.clamp(min=0))).log(),
    )
