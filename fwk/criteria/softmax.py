"""Cross-entropy over a vocabulary, with the logits made piece by piece.

    loss_n = log sum_v exp z_nv - (1 - eps) z_n,target - eps / V sum_v z_nv          z_nv = weight_v . hidden_n + bias_v

The usual way writes N x V numbers four times (logits, their log-softmax, its gradient, that of the logits) and reads them
back from memory each time. Here a piece of the vocabulary stays in the cache while all is done to it that can be; the
logits are written once and read once, in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# logits in a piece: what a core's cache holds, or what a GPU is busy with for much longer than it takes to ask for it. Fewer
# in all are not cut up, where calls cost more than they save
PIECE, PIECE_OF_GPU = 1 << 20, 1 << 26
NARROWEST = 512  # ids in a piece, however many positions there are


def token_losses(logits: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
    """Negative log-likelihood in nats per position: logits [..., V], target int64 [...] -> [...] in fp32 or wider."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    flat = F.cross_entropy(wide.flatten(0, -2), target.flatten(), reduction="none", label_smoothing=smoothing)
    return flat.view(target.shape)


def cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor, target: Tensor, smoothing: float = 0.0,
                  piece: int | None = None) -> tuple[Tensor, Tensor]:
    """Losses in nats, in fp32 or wider, and the likeliest id of each position.

    hidden: [N, E]. weight: [V, E]. bias: [V]. target: int64 [N]. smoothing: share of the target's mass spread evenly
    over the vocabulary. piece: logits that are made at once (None: what suits the device). Returns [N] and int64 [N].
    Differentiable once.
    """
    piece = piece or (PIECE if hidden.device.type == "cpu" else PIECE_OF_GPU)
    if torch.compiler.is_compiling() or hidden.shape[0] * weight.shape[0] <= piece:
        logits = F.linear(hidden, weight, bias)
        return token_losses(logits, target, smoothing), logits.detach().argmax(-1)
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        narrow = torch.get_autocast_dtype(device)
        hidden, weight, bias = hidden.to(narrow), weight.to(narrow), bias.to(narrow)
    with torch.autocast(device, enabled=False):
        return _CrossEntropy.apply(hidden, weight, bias, target, smoothing, max(NARROWEST, piece // max(len(hidden), 1)))


class _CrossEntropy(torch.autograd.Function):
    """Pieces are [ids, N]: sums over the vocabulary then run along the rows, N of them side by side."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, target, smoothing, width):
        wide = torch.promote_types(hidden.dtype, torch.float32)
        kept = any(ctx.needs_input_grad)
        pieces, columns = [], hidden.t()
        top = best = mass = at = total = None
        for start, stop in _cuts(len(weight), width):
            logits = torch.addmm(bias[start:stop, None], weight[start:stop], columns)  # [ids, N]
            if kept:
                pieces.append(logits)
            logits = logits.to(wide)
            inside, where = _place(target, start, stop)
            here, arg = logits.max(0)
            if top is None:
                top, best, mass = here, arg, (logits - here).exp_().sum(0)
                at, total = logits.gather(0, where)[0], logits.sum(0) if smoothing else None
                continue
            at = torch.where(inside, logits.gather(0, where)[0], at)
            best = torch.where(here > top, arg + start, best)
            higher = torch.maximum(top, here)
            mass = mass * (top - higher).exp_() + (logits - higher).exp_().sum(0)
            top = higher
            if smoothing:
                total = total + logits.sum(0)
        log_sum = mass.log() + top  # [N]
        losses = log_sum - at
        if smoothing:
            losses = (1 - smoothing) * losses + smoothing * (log_sum - total / len(weight))
        ctx.save_for_backward(hidden, weight, target, log_sum, *pieces)
        ctx.smoothing, ctx.width = smoothing, width
        ctx.mark_non_differentiable(best)
        return losses, best

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _):
        hidden, weight, target, log_sum, *pieces = ctx.saved_tensors
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        d_hidden = torch.zeros_like(hidden) if for_hidden else None
        d_weight = torch.empty_like(weight) if for_weight else None
        d_bias = weight.new_empty(len(weight)) if for_bias else None
        share, spread = grad * (1 - ctx.smoothing), grad * (ctx.smoothing / len(weight))
        for (start, stop), logits in zip(_cuts(len(weight), ctx.width), pieces, strict=True):
            delta = (logits.to(grad.dtype) - log_sum).exp_().mul_(grad)  # [ids, N]
            if ctx.smoothing:
                delta -= spread
            inside, where = _place(target, start, stop)
            delta.scatter_(0, where, delta.gather(0, where) - torch.where(inside, share, 0.0))
            delta = delta.to(hidden.dtype)
            if for_hidden:
                d_hidden.addmm_(delta.t(), weight[start:stop])
            if for_weight:
                torch.mm(delta, hidden, out=d_weight[start:stop])
            if for_bias:
                torch.sum(delta, 1, out=d_bias[start:stop])
        return d_hidden, d_weight, d_bias, None, None, None


def _cuts(size: int, width: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + width, size)) for start in range(0, size, width))


def _place(target: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Which targets are ids of a piece, bool [N], and the row of each in it, int64 [1, N] (any row for the others)."""
    inside = (target >= start) & (target < stop)
    return inside, torch.where(inside, target - start, 0)[None]
