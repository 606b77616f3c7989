"""How far a student is from what it imitates: KL divergence from a teacher's distribution."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from fwk.nn.softmax import token_losses

Targets = Literal["soft", "hard"]


class TeacherTargets:
    """What is imitated: the distribution p that a teacher's logits [..., C] give, without gradient.

    It is computed once for all students. Words count where `counted`, bool [...], and where the likeliest value has at
    least the probability `threshold`.
    """

    def __init__(self, logits: Tensor, counted: Tensor, threshold: float = 0.0) -> None:
        logits = at_least_float32(logits.detach())
        self.p, normalizer, self.best = _softmax(logits)
        self.negative_entropy = _dot(self.p, logits) - normalizer  # [...]
        self.counted = counted & (self.p.amax(-1) >= threshold) if threshold else counted

    def divergence(self, student: Tensor, targets: Targets = "soft") -> Tensor:
        """Return the sum of KL(p || student) over the words that count, 0-d, in float32 or wider.

        student: logits [..., C]. targets: hard replaces p by its likeliest value, that is, returns cross-entropies.
        """
        if targets == "hard":
            losses = token_losses(student, self.best)
        else:
            cross_entropies = _CrossEntropy.apply(at_least_float32(student), self.p)
            losses = cross_entropies + self.negative_entropy
        return losses.masked_fill(~self.counted, 0.0).sum()


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy -sum of p log softmax(logits): logits, p [..., C] -> [...].

    It makes few passes over the logits, because a parser has as many values per word as pairs of words and relations.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, p: Tensor) -> Tensor:  # torch has no public type for ctx
        q, normalizer, _ = _softmax(logits)
        ctx.save_for_backward(q, p)
        return normalizer - _dot(p, logits)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        q, p = ctx.saved_tensors
        return (q - p).mul_(gradient[..., None]), None


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return probabilities [..., C], the logarithm of their normalizer [...] and the likeliest value [...].

    logsumexp would be ten times slower on CPUs where many results of exp are 0, as for impossible pairs of words.
    """
    p = logits.softmax(-1)
    highest, best = logits.max(-1, keepdim=True)
    return p, (highest - p.gather(-1, best).log()).squeeze(-1), best.squeeze(-1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the dot products of two tensors [..., C], [...]."""
    C = a.shape[-1]
    # autocast would round the scores, and those of impossible pairs to infinity
    with torch.autocast(a.device.type, enabled=False):
        return (a.reshape(-1, 1, C) @ b.reshape(-1, C, 1)).view(a.shape[:-1])


def finite_logits(logits: Tensor) -> Tensor:
    """Return logits of `at_least_float32` in which -inf is finite, with a probability of 0 and without gradient.

    Choices that an example lacks have -inf, of which products with their probability of 0 would be NaN.
    """
    logits = at_least_float32(logits)
    return logits.clamp(min=torch.finfo(logits.dtype).min / 4)


def at_least_float32(logits: Tensor) -> Tensor:
    """Return logits in float32, or as they are where they are wider."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
