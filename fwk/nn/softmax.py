"""Cross-entropy over a vocabulary, with the logits made piece by piece.

    loss_n = log sum_v exp z_nv - (1 - eps) z_n,target - eps / V sum_v z_nv          z_nv = weight_v . hidden_n + bias_v

The usual way writes N x V numbers four times (logits, their log-softmax, its gradient, that of the logits) and reads them
back from memory each time. Here a piece of the vocabulary stays in the cache while all is done to it that can be; the
logits are written once and read once, in the backward pass. The same logits can be sampled from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# logits in a piece: what a core's cache holds, or what a GPU is busy with for much longer than it takes to ask for it. Fewer
# in all are not cut up, where calls cost more than they save
PIECE, PIECE_OF_GPU = 1 << 20, 1 << 26
BLOCK = 256  # ids whose probabilities are added up before a sample is looked for among them
NARROWEST = 2 * BLOCK  # ids in a piece, however many positions there are


def token_losses(logits: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
    """Negative log-likelihood in nats per position: logits [..., V], target int64 [...] -> [...] in fp32 or wider."""
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
    """Losses in nats, in fp32 or wider, and the likeliest id of each position.

    hidden: [N, E]. weight: [V, E]. bias: [V]. target: int64 [N]. smoothing: share of the target's mass spread evenly
    over the vocabulary. piece: logits that are made at once (None: what suits the device). Returns [N] and int64 [N].
    Differentiable once.
    """
    piece = piece or (PIECE if hidden.device.type == "cpu" else PIECE_OF_GPU)
    if torch.compiler.is_compiling() or hidden.shape[0] * weight.shape[0] <= piece:
        logits = F.linear(hidden, weight, bias)
        return token_losses(logits, target, smoothing), logits.detach().argmax(-1)
    softmax = Softmax(hidden, weight, bias, piece)
    return softmax.losses(target, smoothing), softmax.best


class Softmax:
    """Distributions over a vocabulary at N positions, of which the logits are kept, once, or not at all.

    hidden: [N, E]. weight: [V, E]. bias: [V]. Under autocast the products are in its type. best: int64 [N], the likeliest
    ids. log_sum: [N], log sum_v exp z_nv, in fp32 or wider. pieces: the logits of successive ids, [ids, N] each, without
    gradient: sums over the vocabulary then run along the rows, N of them side by side. keep: False where N x V numbers are too
    many, as at every position of a batch: pieces are made again for the backward pass, which costs a third more.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        piece: int | None = None,
        keep: bool = True,
    ):
        device = hidden.device.type
        piece = piece or (PIECE if device == "cpu" else PIECE_OF_GPU)
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
        size = len(self.weight)
        return ((start, min(start + self.width, size)) for start in range(0, size, self.width))

    @property
    def pieces(self) -> Iterable[Tensor]:
        return self._kept or _pieces(self.hidden, self.weight, self.bias, self.cuts())

    def losses(self, target: Tensor, smoothing: float = 0.0) -> Tensor:
        """-log p(target) in nats, [N] for int64 [N]. May be asked for several targets; differentiable once."""
        with torch.autocast(self.hidden.device.type, enabled=False):
            return _CrossEntropy.apply(self.hidden, self.weight, self.bias, target, smoothing, self)

    @torch.no_grad()
    def log_probs(self, ids: Tensor, temperature: float = 1.0) -> Tensor:
        """log p(ids) at a temperature, without gradient: [N] for int64 [N]."""
        shares = self._shares if temperature == 1 else self._sums(temperature)[1]
        return self._at(ids) / temperature - shares.logsumexp(0)

    @torch.no_grad()
    def sample(
        self, uniform: Tensor, temperature: float = 1.0, never: Tensor | None = None
    ) -> Tensor:
        """An id per position by inverting the distribution's cumulative sum, int64 [N].

        uniform: float64 [N] in [0, 1). never: int64 [N], one id of each position that is not drawn. First a block of the
        vocabulary is chosen, then the id in it; the sums over both run in float64, where rounding flips no sample.
        """
        shares = (
            self._shares
            if temperature == 1 and never is None
            else self._sums(temperature, never)[1]
        ).double()
        block, rest = _first_above((shares - shares.amax(0)).exp_(), uniform)
        index = block * BLOCK + torch.arange(BLOCK, device=block.device)[:, None]  # [ids, N]
        outside = index >= len(self.weight)
        logits = self.hidden.new_empty(index.shape)
        for (start, stop), piece in zip(
            self.cuts(), self.pieces, strict=True
        ):  # a block lies in one piece
            here = piece.gather(0, (index - start).clamp_(0, stop - start - 1))
            logits = torch.where((block * BLOCK >= start) & (block * BLOCK < stop), here, logits)
        logits = logits.double() / temperature
        logits.masked_fill_(outside if never is None else outside | (index == never), -torch.inf)
        inside, _ = _first_above((logits - logits.amax(0)).exp_(), rest)
        return (block * BLOCK + inside).clamp_(
            max=len(self.weight) - 1
        )  # more than that only of numbers that are none

    def _at(self, ids: Tensor) -> Tensor:
        """The logits of ids, [N]."""
        if (
            not self._kept
        ):  # in the type of a piece of logits, whose products are added up in another order
            products = (self.hidden.to(self.dtype) * self.weight[ids].to(self.dtype)).sum(-1)
            return (products + self.bias[ids]).to(self.hidden.dtype).to(self.dtype)
        found = self.log_sum
        for (start, stop), logits in zip(self.cuts(), self.pieces, strict=True):
            inside, where = _place(ids, start, stop)
            found = torch.where(inside, logits.gather(0, where)[0].to(self.dtype), found)
        return found

    def _sums(
        self, temperature: float = 1.0, never: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The largest logit of each piece, [P, N]; log sum exp of each block, [M, N]; the place of the largest, [P, N].
        Makes the logits where that is yet to be done: each piece is added up while it is in the cache."""
        tops, shares, bests = [], [], []
        keep = self.keep and not self._kept
        scratch = self.hidden.new_empty(
            self.width, len(self.hidden), dtype=self.dtype
        )  # new memory for each piece costs more
        for (start, stop), made in zip(self.cuts(), self.pieces, strict=True):
            if keep:
                self._kept.append(made)
            logits = made.to(self.dtype)
            if temperature != 1:
                logits = logits / temperature
            if never is not None:
                inside, where = _place(never, start, stop)
                logits = logits.scatter(
                    0,
                    where,
                    logits.gather(0, where).masked_fill(inside, torch.finfo(self.dtype).min),
                )
            top, best = logits.max(0)
            tops.append(top)
            bests.append(best)
            mass = torch.sub(logits, top, out=scratch[: stop - start]).exp_()
            whole = len(mass) // BLOCK * BLOCK
            shares.append(
                mass[:whole].view(whole // BLOCK, BLOCK, len(self.hidden)).sum(1).log_().add_(top)
            )
            if whole < len(mass):  # the end of the vocabulary
                shares.append(mass[whole:].sum(0, keepdim=True).log_().add_(top))
        return torch.stack(tops), torch.cat(shares), torch.stack(bests)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, target, smoothing, softmax):
        losses = softmax.log_sum - softmax._at(target)
        if smoothing:
            total = sum(logits.to(losses.dtype).sum(0) for logits in softmax.pieces)
            losses = (1 - smoothing) * losses + smoothing * (softmax.log_sum - total / len(weight))
        if not softmax._kept:  # the target's logit was rounded otherwise than those in the sum
            losses = losses.clamp(min=0)
        ctx.save_for_backward(hidden, weight, bias, target, softmax.log_sum, *softmax._kept)
        ctx.smoothing, ctx.cuts = smoothing, tuple(softmax.cuts())
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        hidden, weight, bias, target, log_sum, *pieces = ctx.saved_tensors
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        d_hidden = (
            torch.zeros_like(hidden, dtype=grad.dtype) if for_hidden else None
        )  # a sum over many pieces
        d_weight = torch.empty_like(weight) if for_weight else None
        d_bias = weight.new_empty(len(weight)) if for_bias else None
        share, spread = grad * (1 - ctx.smoothing), grad * (ctx.smoothing / len(weight))
        scratch = grad.new_empty(max(stop - start for start, stop in ctx.cuts), len(hidden))
        for (start, stop), logits in zip(
            ctx.cuts, pieces or _pieces(hidden, weight, bias, ctx.cuts), strict=True
        ):
            delta = (
                torch.sub(logits, log_sum, out=scratch[: stop - start]).exp_().mul_(grad)
            )  # [ids, N]
            if ctx.smoothing:
                delta -= spread
            inside, where = _place(target, start, stop)
            delta.scatter_(0, where, delta.gather(0, where) - torch.where(inside, share, 0.0))
            delta = delta.to(hidden.dtype)
            if for_hidden and hidden.dtype == grad.dtype:
                d_hidden.addmm_(delta.t(), weight[start:stop])
            elif for_hidden:
                d_hidden += delta.t() @ weight[start:stop]
            if for_weight:
                torch.mm(delta, hidden, out=d_weight[start:stop])
            if for_bias:
                torch.sum(delta, 1, out=d_bias[start:stop])
        return d_hidden.to(hidden.dtype) if for_hidden else None, d_weight, d_bias, None, None, None


def _pieces(
    hidden: Tensor, weight: Tensor, bias: Tensor, cuts: Iterable[tuple[int, int]]
) -> Iterator[Tensor]:
    """The logits of one piece of the vocabulary after the other, [ids, N]."""
    return (
        torch.addmm(bias[start:stop, None], weight[start:stop], hidden.t()) for start, stop in cuts
    )


def _place(target: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Which targets are ids of a piece, bool [N], and the row of each in it, int64 [1, N] (any row for the others)."""
    inside = (target >= start) & (target < stop)
    return inside, torch.where(inside, target - start, 0)[None]


def _first_above(masses: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Of masses float64 [M, N], the one on which each uniform [N] falls, int64 [N], and how far into it, in [0, 1)."""
    cumulative = masses.cumsum(0)
    total = cumulative[-1]
    threshold = torch.minimum(
        uniform * total, total.nextafter(torch.zeros_like(total))
    )  # below the total, in spite of rounding
    found = torch.searchsorted(cumulative.t().contiguous(), threshold[:, None], right=True)[:, 0]
    found = found.clamp_(max=len(masses) - 1)  # of numbers that are none; the loss says so
    mass = masses.gather(0, found[None])[0]
    before = cumulative.gather(0, found[None])[0] - mass
    return found, ((threshold - before) / mass).clamp_(0, 1 - 2**-53)
