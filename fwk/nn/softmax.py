"""Cross-entropy over a vocabulary, with the logits computed piece by piece.

    loss_n = log sum_v exp z_nv - (1 - eps) z_n,target - eps / V sum_v z_nv          z_nv = weight_v . hidden_n + bias_v

The usual implementation writes N x V numbers four times (logits, their log-softmax, its gradient, the gradient of the
logits) and reads them back from memory each time. Here a piece of the vocabulary stays in the cache while everything is
done with it; the logits are written once and read once, in the backward pass. The same logits can be sampled from.

Letters: N positions, V vocabulary, E width of the hidden vectors, P pieces, M blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# logits in a piece: as many as a core's cache holds, or as keep a GPU busy for much longer than the call takes. Fewer
# logits than that are not cut, because calls would cost more than they save
PIECE, PIECE_OF_GPU = 1 << 20, 1 << 26
BLOCK = 256  # ids whose probabilities are added up before a sample is searched among them
NARROWEST = 2 * BLOCK  # least ids in a piece, however many positions there are


def token_losses(logits: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the negative log-likelihood in nats at each position, [...] in fp32 or wider.

    logits: [..., V]. target: int64 [...]. smoothing: share of the target's mass spread evenly over the vocabulary.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    flat = F.cross_entropy(
        wide.flatten(0, -2), target.flatten(), reduction="none", label_smoothing=smoothing
    )
    return flat.view(target.shape)


def cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    target: Tensor,
    smoothing: float = 0.0,
    piece: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the losses in nats, [N] in fp32 or wider, and the most likely id at each position, int64 [N].

    hidden: [N, E]. weight: [V, E]. bias: [V]. target: int64 [N]. smoothing: share of the target's mass spread evenly
    over the vocabulary. piece: logits computed at a time; None: what suits the device. Differentiable once.
    """
    piece = piece or _piece_for(hidden.device)
    if torch.compiler.is_compiling() or hidden.shape[0] * weight.shape[0] <= piece:
        logits = F.linear(hidden, weight, bias)
        return token_losses(logits, target, smoothing), logits.detach().argmax(-1)
    softmax = Softmax(hidden, weight, bias, piece)
    return softmax.losses(target, smoothing), softmax.best


class Softmax:
    """Distributions over a vocabulary at N positions.

    hidden: [N, E]. weight: [V, E]. bias: [V]. Under autocast, products are computed in its type. piece: logits
    computed at a time; None: what suits the device. keep: False where N x V numbers are too many to hold, as
    for every position of a batch; the logits are then computed again for the backward pass, which costs a third
    more.
    """

    best: Tensor  # int64 [N], the most likely ids
    log_sum: Tensor  # [N], log sum_v exp z_nv, in fp32 or wider

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        piece: int | None = None,
        keep: bool = True,
    ) -> None:
        device = hidden.device.type
        piece = piece or _piece_for(hidden.device)
        if torch.is_autocast_enabled(device):
            narrow = torch.get_autocast_dtype(device)
            hidden, weight, bias = hidden.to(narrow), weight.to(narrow), bias.to(narrow)
        self.hidden, self.weight, self.bias, self.keep = hidden, weight, bias, keep
        self.dtype = torch.promote_types(hidden.dtype, torch.float32)
        self.width = max(NARROWEST, piece // max(len(hidden), 1) // BLOCK * BLOCK)  # ids in a piece
        with torch.no_grad(), torch.autocast(device, enabled=False):
            self._kept: list[Tensor] = []
            tops, self._shares, bests = self._sums()
            self.log_sum = self._shares.logsumexp(0)
            first = tops.argmax(0, keepdim=True)  # [1, N]
            self.best = (bests.gather(0, first) + self.width * first)[0]

    def cuts(self) -> Iterator[tuple[int, int]]:
        """Return the first id and the end of each piece of the vocabulary."""
        size = len(self.weight)
        return ((start, min(start + self.width, size)) for start in range(0, size, self.width))

    @property
    def pieces(self) -> Iterable[Tensor]:
        """The logits of successive ids, [ids, N] each, without gradient.

        Sums over the vocabulary run along the rows, N of them side by side.
        """
        return self._kept or _pieces(self.hidden, self.weight, self.bias, self.cuts())

    def losses(self, target: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return -log p(target) in nats, [N] for int64 [N]. Several targets may be asked for. Differentiable once."""
        with torch.autocast(self.hidden.device.type, enabled=False):
            return _CrossEntropy.apply(self.hidden, self.weight, self.bias, target, smoothing, self)

    @torch.no_grad()
    def log_probs(self, ids: Tensor, temperature: float = 1.0) -> Tensor:
        """Return log p(ids) at a temperature, without gradient, [N] for int64 [N]."""
        shares = self._shares if temperature == 1 else self._sums(temperature)[1]
        return self.logits_at(ids) / temperature - shares.logsumexp(0)

    @torch.no_grad()
    def sample(
        self, uniform: Tensor, temperature: float = 1.0, never: Tensor | None = None
    ) -> Tensor:
        """Return one id per position, drawn by inverting the cumulative sum of the distribution, int64 [N].

        uniform: float64 [N] in [0, 1). never: int64 [N], an id of each position that is not drawn. First a block of the
        vocabulary is chosen, then the id in it. Both sums run in float64, in which rounding changes no sample.
        """
        shares = self._shares
        if temperature != 1 or never is not None:
            shares = self._sums(temperature, never)[1]
        shares = shares.double()
        block, rest = _first_above((shares - shares.amax(0)).exp_(), uniform)

        index = block * BLOCK + torch.arange(BLOCK, device=block.device)[:, None]  # [ids, N]
        excluded = index >= len(self.weight)
        if never is not None:
            excluded = excluded | (index == never)
        logits = self.hidden.new_empty(index.shape)
        for (start, stop), piece in zip(self.cuts(), self.pieces, strict=True):
            inside = (block * BLOCK >= start) & (block * BLOCK < stop)  # a block lies in one piece
            in_piece = piece.gather(0, (index - start).clamp_(0, stop - start - 1))
            logits = torch.where(inside, in_piece, logits)
        logits = logits.double() / temperature
        logits.masked_fill_(excluded, -torch.inf)
        offset, _ = _first_above((logits - logits.amax(0)).exp_(), rest)
        # beyond the last id only if logits are NaN
        return (block * BLOCK + offset).clamp_(max=len(self.weight) - 1)

    def logits_at(self, ids: Tensor) -> Tensor:
        """Return the logits of one id per position, [N] for int64 [N]."""
        if not self._kept:
            # rounded to the type of the pieces, whose products are added up in another order
            products = (self.hidden.to(self.dtype) * self.weight[ids].to(self.dtype)).sum(-1)
            return (products + self.bias[ids]).to(self.hidden.dtype).to(self.dtype)
        result = self.log_sum
        for (start, stop), logits in zip(self.cuts(), self.pieces, strict=True):
            inside, row = _rows_of(ids, start, stop)
            result = torch.where(inside, logits.gather(0, row)[0].to(self.dtype), result)
        return result

    def _sums(
        self, temperature: float = 1.0, never: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the largest logit of each piece and its row, [P, N] each, and log sum exp of each block, [M, N].

        The order is (largest, log sums, rows). Logits that are to be kept are computed here, and each piece is added up
        while it is in the cache.
        """
        tops, shares, bests = [], [], []
        keep = self.keep and not self._kept
        # allocating memory for each piece would cost more
        scratch = self.hidden.new_empty(self.width, len(self.hidden), dtype=self.dtype)
        for (start, stop), piece in zip(self.cuts(), self.pieces, strict=True):
            if keep:
                self._kept.append(piece)
            logits = piece.to(self.dtype)
            if temperature != 1:
                logits = logits / temperature
            if never is not None:
                logits = _without(logits, never, start, stop)
            top, best = logits.max(0)
            tops.append(top)
            bests.append(best)
            mass = torch.sub(logits, top, out=scratch[: stop - start]).exp_()
            whole = len(mass) // BLOCK * BLOCK
            blocks = mass[:whole].view(whole // BLOCK, BLOCK, len(self.hidden))
            shares.append(blocks.sum(1).log_().add_(top))
            if whole < len(mass):  # the end of the vocabulary
                shares.append(mass[whole:].sum(0, keepdim=True).log_().add_(top))
        return torch.stack(tops), torch.cat(shares), torch.stack(bests)


class _CrossEntropy(torch.autograd.Function):
    """The losses of a `Softmax`; the backward pass turns one piece of logits after the other into its gradient."""

    @staticmethod
    def forward(
        ctx: Any,  # torch's context takes any attribute
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        target: Tensor,
        smoothing: float,
        softmax: Softmax,
    ) -> Tensor:
        losses = softmax.log_sum - softmax.logits_at(target)
        if smoothing:
            total = sum(logits.to(losses.dtype).sum(0) for logits in softmax.pieces)
            losses = (1 - smoothing) * losses + smoothing * (softmax.log_sum - total / len(weight))
        if not softmax._kept:
            # the target's logit was rounded differently from the logits in the sum
            losses = losses.clamp(min=0)
        ctx.save_for_backward(hidden, weight, bias, target, softmax.log_sum, *softmax._kept)
        ctx.smoothing, ctx.cuts = smoothing, tuple(softmax.cuts())
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, target, log_sum, *kept = ctx.saved_tensors
        gradients = _Gradients(hidden, weight, ctx.needs_input_grad[:3], grad.dtype)
        share, spread = grad * (1 - ctx.smoothing), grad * (ctx.smoothing / len(weight))
        scratch = grad.new_empty(max(stop - start for start, stop in ctx.cuts), len(hidden))
        pieces = kept or _pieces(hidden, weight, bias, ctx.cuts)
        for (start, stop), logits in zip(ctx.cuts, pieces, strict=True):
            delta = torch.sub(logits, log_sum, out=scratch[: stop - start]).exp_().mul_(grad)
            if ctx.smoothing:
                delta -= spread
            inside, row = _rows_of(target, start, stop)
            delta.scatter_(0, row, delta.gather(0, row) - torch.where(inside, share, 0.0))
            gradients.add(delta.to(hidden.dtype), start, stop)
        return (*gradients.of_inputs(), None, None, None)


class _Gradients:
    """The gradients of hidden vectors, weight and bias, from the gradients of one piece of logits after the other."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, needed: tuple[bool, bool, bool], dtype: torch.dtype
    ) -> None:
        self.inputs = hidden, weight
        # a sum over many pieces, therefore in the wide type
        self.hidden = torch.zeros_like(hidden, dtype=dtype) if needed[0] else None
        self.weight = torch.empty_like(weight) if needed[1] else None
        self.bias = weight.new_empty(len(weight)) if needed[2] else None

    def add(self, delta: Tensor, start: int, stop: int) -> None:
        """Add the piece of ids [start, stop). delta: [ids, N], the gradient of its logits."""
        hidden, weight = self.inputs
        if self.hidden is not None and self.hidden.dtype == hidden.dtype:
            self.hidden.addmm_(delta.t(), weight[start:stop])
        elif self.hidden is not None:
            self.hidden += delta.t() @ weight[start:stop]
        if self.weight is not None:
            torch.mm(delta, hidden, out=self.weight[start:stop])
        if self.bias is not None:
            torch.sum(delta, 1, out=self.bias[start:stop])

    def of_inputs(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients in the types of the inputs; None for inputs that need none."""
        hidden = None if self.hidden is None else self.hidden.to(self.inputs[0].dtype)
        return hidden, self.weight, self.bias


def _piece_for(device: torch.device) -> int:
    return PIECE if device.type == "cpu" else PIECE_OF_GPU


def _pieces(
    hidden: Tensor, weight: Tensor, bias: Tensor, cuts: Iterable[tuple[int, int]]
) -> Iterator[Tensor]:
    """Return the logits of one piece of the vocabulary after the other, [ids, N] each."""
    return (
        torch.addmm(bias[start:stop, None], weight[start:stop], hidden.t()) for start, stop in cuts
    )


def _rows_of(ids: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Return which ids lie in a piece, bool [N], and the row of each in it, int64 [1, N]; 0 for the others."""
    inside = (ids >= start) & (ids < stop)
    return inside, torch.where(inside, ids - start, 0)[None]


def _without(logits: Tensor, ids: Tensor, start: int, stop: int) -> Tensor:
    """Return the logits of a piece, [ids, N], with the lowest number at one id per position, int64 [N]."""
    inside, row = _rows_of(ids, start, stop)
    lowest = torch.finfo(logits.dtype).min
    return logits.scatter(0, row, logits.gather(0, row).masked_fill(inside, lowest))


def _first_above(masses: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mass on which each uniform number falls, int64 [N], and how far into it, in [0, 1).

    masses: float64 [M, N]. uniform: [N].
    """
    cumulative = masses.cumsum(0)
    total = cumulative[-1]
    # below the total in spite of rounding
    threshold = torch.minimum(uniform * total, total.nextafter(torch.zeros_like(total)))
    index = torch.searchsorted(cumulative.t().contiguous(), threshold[:, None], right=True)[:, 0]
    # out of range only if logits are NaN, which the finite check of the loss reports
    index = index.clamp_(max=len(masses) - 1)
    mass = masses.gather(0, index[None])[0]
    before = cumulative.gather(0, index[None])[0] - mass
    return index, ((threshold - before) / mass).clamp_(0, 1 - 2**-53)
