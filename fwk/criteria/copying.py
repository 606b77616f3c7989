"""A distribution over tokens that may copy its input, for criteria on corrupted views.

    p(x) = c 1(x~ = x) + (1 - c) s(x)        c: the chance that the token x~ was left as it is; s: a softmax
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def copy_losses(nll: Tensor, copy_logit: Tensor, same: Tensor) -> Tensor:
    """-log p(x) of the original token x, in nats, all of one shape: nll = -log s(x), copy_logit of c, bool same, where x~ = x.

    Where x~ = x this is -log1p(-u) with u = (1 - c)(1 - s(x)), which neither c nor s near 1 takes digits from; where u is near
    1 it is -logaddexp(log c, log(1 - c) + log s(x)). Gradients are as exact.
    """
    left = F.logsigmoid(-copy_logit)  # log (1 - c)
    other = left - nll  # log (1 - c) s(x)
    lost = left.exp() * -torch.expm1(-nll)  # u; the derivative of a sigmoid, y (1 - y), would lose digits where y is near 1
    small = lost < 0.5
    near = -torch.log1p(-torch.where(small, lost, 0.0))  # the branch that is not taken must have finite gradients
    far = -torch.logaddexp(F.logsigmoid(copy_logit), other)
    return torch.where(same, torch.where(small, near, far), -other)


def copies(copy_logit: Tensor, log_input: Tensor, log_best: Tensor) -> Tensor:
    """bool: whether the likeliest token under p is the input rather than the softmax's likeliest, of which log_input =
    log s(x~) and log_best are the log-probabilities; all of one shape."""
    left = F.logsigmoid(-copy_logit)
    return torch.logaddexp(F.logsigmoid(copy_logit), left + log_input) >= left + log_best
