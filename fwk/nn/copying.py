"""A distribution over tokens that may copy its input, for criteria on corrupted views.

p(x) = c 1(x~ = x) + (1 - c) s(x)        c: the chance that the token x~ was left as it is; s: a softmax
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def copy_losses(nll: Tensor, copy_logit: Tensor, same: Tensor) -> Tensor:
    """-log p(x) of the original token x, in nats, all of one shape: nll = -log s(x), copy_logit of c, bool same, where x~ = x.

    Neither the loss nor its gradient loses digits where c or s is near 0 or 1. Differentiable once.
    """
    return _CopyLosses.apply(nll, copy_logit, same)


def copies(copy_logit: Tensor, log_input: Tensor, log_best: Tensor) -> Tensor:
    """bool: whether the likeliest token under p is the input rather than the softmax's likeliest, of which log_input =
    log s(x~) and log_best are the log-probabilities; all of one shape."""
    left = F.logsigmoid(-copy_logit)
    return torch.logaddexp(F.logsigmoid(copy_logit), left + log_input) >= left + log_best


class _CopyLosses(torch.autograd.Function):
    """With n = -log s, a the logit of c, and L = -log p:

    x~ = x    L = -log1p(-u), u = (1 - c)(1 - s), where u is below one half, else -logaddexp(log c, log(1 - c) - n)
              dL/dn = (1 - c) s / p        dL/da = -c (1 - c)(1 - s) / p
    else      L = n - log(1 - c)           dL/dn = 1        dL/da = c
    """

    @staticmethod
    def forward(ctx, nll, copy_logit, same):
        left, copied, rest = _parts(nll, copy_logit)
        lost = (left + rest).exp()
        near, far = -torch.log1p(-lost.clamp(max=0.5)), -torch.logaddexp(copied, left - nll)
        losses = torch.where(same, torch.where(lost < 0.5, near, far), nll - left)
        ctx.save_for_backward(nll, copy_logit, same, losses)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        nll, copy_logit, same, losses = ctx.saved_tensors
        left, copied, rest = _parts(nll, copy_logit)
        by_nll = torch.where(
            same, (left - nll + losses).exp(), 1.0
        )  # products of shares, as sums of logarithms
        by_logit = torch.where(same, -(copied + left + rest + losses).exp(), copied.exp())
        return grad * by_nll, grad * by_logit, None


def _parts(nll: Tensor, copy_logit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log(1 - c), log c and log(1 - s); a softmax that is certain may be rounded to a little more than that."""
    return (
        F.logsigmoid(-copy_logit),
        F.logsigmoid(copy_logit),
        (-torch.expm1(-nll.clamp(min=0))).log(),
    )
