"""Virtual adversarial noise on the vectors of tokens.

Miyato et al. 2017, "Adversarial training methods for semi-supervised text classification", equations 3 to 6 and 11:

    r = eps g / |g|,     g = gradient at d of KL( p(y | x) || p(y | v + d) ),     d random with |d| = xi
    L_VAT = mean of KL( p(y | x) || p(y | v + r) )        over sequences, or over the words of a tagger

v are the vectors of a sequence's tokens, r has the length eps over all of them, and g is computed without dropout.
Lengths are in units of the root mean square of the table of vectors, which has the effect of normalising them: large
vectors do not escape the noise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fwk.contracts.context import Context
from fwk.contracts.keyed import Key
from fwk.contracts.views import View
from fwk.nn.imitation import TeacherTargets

STEP = 0.1  # xi, as a share of the length of a random vector of one token
SMALLEST = 2.0**-54  # a uniform number of 0 would give a normal one of -infinity


def adversarial_view(
    view: View,
    targets: TeacherTargets,
    module: Callable[[View], Tensor],
    embedding: nn.Embedding,
    adversarial_norm: float,
    context: Context,
    quiet_module: Callable[[View], Tensor] | None = None,
) -> View:
    """Return the view encoded with the noise that, to first order, moves the module's predictions most.

    targets: what the module predicts without noise. module: encoded view -> logits [B, T, C] or [B, C].
    adversarial_norm: eps, the length of the noise on one sequence. quiet_module: the module without dropout, where it
    has some.
    """
    words = view.content[..., None]  # [B, T, 1]
    unit = embedding.weight.detach().square().mean().sqrt()
    start = _random_change(view, words, embedding, unit, context).requires_grad_()
    direction = _worst_direction(view, start, targets, quiet_module or module, context)
    noise = perturbation(direction.masked_fill(~words, 0.0), adversarial_norm * unit)
    changed = view.replace(embedding_change=noise)
    return changed.replace(encoded=context.encode(changed))


def _random_change(
    view: View, words: Tensor, embedding: nn.Embedding, unit: Tensor, context: Context
) -> Tensor:
    """Return d, [B, T, E], drawn from the key of each sequence."""
    (B, T), E = view.content.shape, embedding.embedding_dim
    uniform = Key(context.seed, "adversary", view.draws).uniform(T * E).clamp(min=SMALLEST)
    normal = torch.special.ndtri(uniform).view(B, T, E).to(embedding.weight)
    return perturbation(normal.masked_fill(~words, 0.0), STEP * unit * E**0.5)


def _worst_direction(
    view: View,
    start: Tensor,
    targets: TeacherTargets,
    module: Callable[[View], Tensor],
    context: Context,
) -> Tensor:
    """Return g, [B, T, E].

    It is computed in full precision, because half precision loses the effect of a small step.
    """
    device = start.device.type
    half_precision = torch.is_autocast_enabled(device)
    with torch.enable_grad(), torch.autocast(device, enabled=False):
        if half_precision:
            with torch.no_grad():
                plain = view.replace(encoded=context.encode(view, mode="teacher"))
                targets = TeacherTargets(module(plain), targets.counted)
        changed = view.replace(embedding_change=start)
        encoded = changed.replace(encoded=context.encode(changed, mode="quiet"))
        divergence = targets.divergence(module(encoded))
        return torch.autograd.grad(divergence, start)[0]


def perturbation(direction: Tensor, length: Tensor | float) -> Tensor:
    """Return [B, T, E] scaled to a length, taken over all tokens of a sequence; zero stays zero."""
    norm = torch.linalg.vector_norm(direction, dim=(1, 2), keepdim=True)
    return direction * (length / norm.clamp(min=torch.finfo(direction.dtype).tiny))
