"""A softmax that may copy its input: against the equation in 60 digits, values and derivatives."""

from __future__ import annotations

import itertools
from decimal import Decimal, getcontext

import pytest
import torch

from fwk.nn.copying import copies, copy_losses

LOGITS = [-80.0, -30.0, -9.0, -1.0, -1e-3, 0.0, 0.7, 5.0, 17.0, 40.0, 80.0]
NLLS = [0.0, 1e-12, 1e-6, 1e-3, 0.1, 0.69, 0.7, 2.0, 9.0, 40.0]


def exactly(nll: float, logit: float, same: bool) -> tuple[float, float, float]:
    """-log [c 1(same) + (1 - c) exp(-nll)], and its derivatives by nll and the logit of c."""
    getcontext().prec = 60
    n, a = Decimal(nll), Decimal(logit)
    c = 1 / (1 + (-a).exp())
    s = (-n).exp()
    p = (c if same else 0) + (1 - c) * s
    by_logit = -c * (1 - c) * ((1 if same else 0) - s) / p
    return float(-p.ln()), float((1 - c) * s / p), float(by_logit)


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-13), (torch.float32, 2e-5)])
def test_values_and_derivatives_keep_their_digits_where_the_chance_of_a_copy_is_near_0_or_1(
    dtype, tolerance, same
):
    """Relative, however small the number: no digits are lost to a difference of numbers near each other. What
    is lost is an exponent's rounding: up to 120 nats are added up, in units of 2^-53 or 2^-24."""
    pairs = torch.tensor(list(itertools.product(NLLS, LOGITS)), dtype=dtype)
    nll, logit = (column.clone().requires_grad_() for column in pairs.unbind(1))
    losses = copy_losses(nll, logit, torch.full(nll.shape, same))
    slopes = torch.autograd.grad(losses.sum(), (nll, logit))
    wanted = torch.tensor([exactly(n, a, same) for n, a in pairs.tolist()], dtype=torch.float64)
    for found, expected in zip((losses, *slopes), wanted.unbind(1)):
        tiny = torch.finfo(dtype).tiny * 1e8  # below that numbers have fewer digits
        torch.testing.assert_close(found.detach().double(), expected, rtol=tolerance, atol=tiny)


@pytest.mark.parametrize("logit", [-40.0, -1.0, 0.0, 1.0, 40.0])
def test_a_softmax_that_is_rounded_to_more_than_certain_keeps_gradients_finite(logit):
    nll, a = (
        torch.tensor([-3e-5, -1e-7, 0.0]).requires_grad_(),
        torch.full((3,), logit).requires_grad_(),
    )
    for same in (True, False):
        losses = copy_losses(nll, a, torch.full((3,), same))
        assert all(
            torch.isfinite(part).all()
            for part in (losses, *torch.autograd.grad(losses.sum(), (nll, a)))
        )


def test_the_gradient_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    nll = (3 * torch.rand(40, generator=generator, dtype=torch.float64)).requires_grad_()
    logit = (4 * torch.randn(40, generator=generator, dtype=torch.float64)).requires_grad_()
    same = torch.rand(40, generator=generator) < 0.5
    assert torch.autograd.gradcheck(lambda n, a: copy_losses(n, a, same), (nll, logit))


def test_the_likeliest_token_is_that_of_the_whole_distribution():
    generator = torch.Generator().manual_seed(1)
    V, N = 7, 500
    soft = torch.randn(N, V, generator=generator, dtype=torch.float64).mul(2).log_softmax(-1)
    given = torch.randint(0, V, (N,), generator=generator)
    logit = torch.randn(N, generator=generator, dtype=torch.float64)
    c = torch.sigmoid(logit)[:, None]
    whole = (1 - c) * soft.exp()
    whole[torch.arange(N), given] += c[:, 0]
    best = soft.argmax(-1)
    take = copies(logit, soft.gather(1, given[:, None])[:, 0], soft.gather(1, best[:, None])[:, 0])
    assert torch.equal(torch.where(take, given, best), whole.argmax(-1)) and 0 < take.sum() < N
