"""Compare cross-entropy over a vocabulary, forward and backward, with torch's `linear_cross_entropy`.

    python -m benchmarks softmax [--repetitions 20] [--write]

One thread, one process, in turns, CPU time, fp32. N hidden vectors of width E, V ids: the masked positions of a batch,
and all positions of one. `fwk.nn.softmax.cross_entropy` also returns the most likely id of each position; torch's
function does not. torch's function, since 2.13, has a chunked path (over positions) and a reference path, which
computes all logits at once. The last column compares losses and gradients.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import ratio, table, taking_turns, write
from fwk.nn.softmax import cross_entropy

# positions N, vocabulary V, width E
SHAPES = ((640, 8192, 256), (640, 30522, 128), (640, 30522, 768), (4096, 30522, 128))


def differentiated(loss: Callable[..., Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the losses and the gradients of hidden vectors, weight and bias."""
    inputs = [tensor.detach().requires_grad_() for tensor in tensors]
    losses = loss(*inputs)
    return [losses.detach(), *torch.autograd.grad(losses.sum(), inputs)]


def compare(N: int, V: int, E: int, repetitions: int) -> list[str]:
    """Return one row of the table."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(N, E, generator=generator)
    weight = torch.randn(V, E, generator=generator) * E**-0.5
    tensors = (hidden, weight, torch.zeros(V))
    target = torch.randint(V, (N,), generator=generator)

    def ours(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return cross_entropy(hidden, weight, bias, target)[0]

    def torchs(options: object) -> Callable[..., Tensor]:
        def loss(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return F.linear_cross_entropy(
                hidden, weight, target, linear_bias=bias, reduction="none", options=options
            )

        return loss

    chunked, reference = torchs(torch.nn.LinearCrossEntropyOptions()), torchs(None)
    calls = [lambda loss=loss: differentiated(loss, tensors) for loss in (ours, chunked, reference)]
    results = [call() for call in calls]
    pairs = list(zip(results[0], results[1], strict=True))
    equal = all(torch.equal(a, b) for a, b in pairs)
    largest = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)

    times = taking_turns(calls, repetitions)
    medians = [f"{1e3 * statistics.median(seconds):.0f}" for seconds in times]
    middle, low, high = ratio(times[1], times[0])
    return [
        f"{N} x {V} x {E}",
        *medians,
        f"{middle:.2f} ({low:.2f} to {high:.2f})",
        "equal bits" if equal else f"{largest:.0e} of the largest number",
    ]


def main() -> None:
    """Print the table, and write it into docs/benchmarks.md with --write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/benchmarks.md"
    )
    arguments = parser.parse_args()
    if not hasattr(F, "linear_cross_entropy"):
        raise SystemExit(f"torch {torch.__version__} has no linear_cross_entropy; install 2.13")
    torch.set_num_threads(1)
    made = table(
        [
            *("N x V x E", "`fwk`, ms", "torch chunked, ms", "torch reference, ms"),
            *("chunked / `fwk` (quartiles)", "difference"),
        ],
        [compare(*shape, arguments.repetitions) for shape in SHAPES],
    )
    print(made)
    if arguments.write:
        write("softmax", made, facts={"repetitions": arguments.repetitions, "threads": 1})
