"""The piecewise cross-entropy, against its equation and against the usual way."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from fwk import invert_cdf
from fwk.nn.softmax import NARROWEST, Softmax, cross_entropy

N, E, V = 37, 6, 3 * NARROWEST + 11  # three whole pieces and a rest


def inputs(dtype=torch.float64, scale=1.0, rows=N):
    generator = torch.Generator().manual_seed(3)
    hidden, weight, bias = (
        scale * torch.randn(size, generator=generator, dtype=torch.float64)
        for size in ((rows, E), (V, E), (V,))
    )
    target = torch.randint(0, V, (rows,), generator=generator)
    target[:4] = torch.tensor([0, NARROWEST - 1, NARROWEST, V - 1])  # at the edges of pieces
    return [part.to(dtype).requires_grad_() for part in (hidden, weight, bias)], target


def usual(hidden, weight, bias, target, smoothing=0.0):
    logits = F.linear(hidden, weight, bias)
    return F.cross_entropy(
        logits, target, reduction="none", label_smoothing=smoothing
    ), logits.argmax(-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_equation_in_plain_python(smoothing):
    (hidden, weight, bias), target = inputs(rows=5)
    losses, _ = cross_entropy(hidden, weight, bias, target, smoothing, piece=1)
    for row in range(5):
        logits = [
            sum(w * h for w, h in zip(vector, hidden[row].tolist())) + b
            for vector, b in zip(weight.tolist(), bias.tolist())
        ]
        log_sum = math.log(math.fsum(math.exp(z) for z in logits))
        expected = (
            log_sum - (1 - smoothing) * logits[target[row]] - smoothing / V * math.fsum(logits)
        )
        assert losses[row].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_gradients_and_the_likeliest_ids_are_those_of_the_usual_way(smoothing):
    parts, target = inputs()
    factor = torch.linspace(-1, 2, N, dtype=torch.float64)  # another one for each position
    found, best = cross_entropy(*parts, target, smoothing, piece=1)
    wanted, likeliest = usual(*parts, target, smoothing)
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)
    assert torch.equal(best, likeliest)
    mine = torch.autograd.grad((found * factor).sum(), parts)
    theirs = torch.autograd.grad((wanted * factor).sum(), parts)
    for a, b in zip(mine, theirs):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_logits_of_any_size_stay_finite():
    parts, target = inputs(torch.float32, scale=60.0)
    losses, _ = cross_entropy(*parts, target, piece=1)
    torch.testing.assert_close(losses, usual(*parts, target)[0], rtol=1e-5, atol=1e-2)
    assert losses.max() > 1000 and all(
        torch.isfinite(grad).all() for grad in torch.autograd.grad(losses.sum(), parts)
    )


def test_what_needs_no_gradient_gets_none_and_keeps_nothing():
    (hidden, weight, bias), target = inputs()
    frozen = weight.detach(), bias.detach()
    losses, _ = cross_entropy(hidden, *frozen, target, piece=1)
    wanted = torch.autograd.grad(usual(hidden, *frozen, target)[0].sum(), hidden)[0]
    torch.testing.assert_close(
        torch.autograd.grad(losses.sum(), hidden)[0], wanted, rtol=1e-11, atol=1e-13
    )
    assert cross_entropy(hidden.detach(), *frozen, target, piece=1)[0].grad_fn is None


def test_the_graph_can_be_gone_through_twice_but_not_differentiated_twice():
    parts, target = inputs()
    losses, _ = cross_entropy(*parts, target, piece=1)
    loss = losses.sum()
    once = torch.autograd.grad(loss, parts, retain_graph=True)
    again = torch.autograd.grad(2 * loss, parts, retain_graph=True)
    assert all(torch.equal(2 * a, b) for a, b in zip(once, again))
    slope = torch.autograd.grad(losses.square().sum(), parts[0], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_the_logits_are_kept_once():
    parts, target = inputs(torch.float32)

    def kept(function) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda saved: sizes.append(saved.numel()) or saved, lambda saved: saved
        ):
            function(*parts, target)
        return sum(sizes)

    assert N * V <= kept(lambda *given: cross_entropy(*given, piece=1)) < 1.2 * N * V


def test_under_autocast_it_is_the_usual_way_under_autocast():
    parts, target = inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, _ = cross_entropy(*parts, target, piece=1)
        wanted = F.cross_entropy(F.linear(*parts).float(), target, reduction="none")
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, wanted, rtol=2e-2, atol=2e-2)
    for a, b in zip(
        torch.autograd.grad(losses.sum(), parts), torch.autograd.grad(wanted.sum(), parts)
    ):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=5e-2, atol=5e-2 * float(b.abs().max()))


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("never", [False, True])
def test_samples_are_those_of_the_whole_cumulative_sum(temperature, never):
    (hidden, weight, bias), target = inputs(rows=4000)
    softmax = Softmax(hidden, weight, bias, piece=1)
    logits = F.linear(hidden, weight, bias).detach() / temperature
    if never:
        logits.scatter_(1, target[:, None], -torch.inf)
    uniform = torch.rand(4000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = invert_cdf(logits.softmax(-1), uniform)
    found = softmax.sample(uniform, temperature, target if never else None)
    assert (found != wanted).sum() == 0
    assert not never or not (found == target).any()


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_the_ends_of_the_cumulative_sum_fall_on_ids_there_are(uniform):
    (hidden, weight, bias), _target = inputs(scale=30.0)
    ends = torch.full((N,), uniform, dtype=torch.float64)
    softmax = Softmax(hidden, weight, bias, piece=1)
    found = softmax.sample(ends, never=softmax.best)
    assert (found < V).all() and (found != softmax.best).all()


def test_log_probabilities_are_those_of_the_distribution_that_is_sampled():
    (hidden, weight, bias), target = inputs()
    for temperature in (1.0, 2.0):
        found = Softmax(hidden, weight, bias, piece=1).log_probs(target, temperature)
        logits = F.linear(hidden, weight, bias) / temperature
        torch.testing.assert_close(
            found, logits.log_softmax(-1).gather(1, target[:, None])[:, 0], rtol=1e-12, atol=1e-12
        )
        assert not found.requires_grad


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_logits_that_are_not_kept_give_the_same_losses_gradients_and_samples(smoothing):
    parts, target = inputs()
    factor = torch.linspace(-1, 2, N, dtype=torch.float64)
    kept, made_again = (Softmax(*parts, piece=1, keep=keep) for keep in (True, False))
    assert torch.equal(kept.best, made_again.best) and torch.equal(kept.log_sum, made_again.log_sum)
    uniform = torch.rand(N, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    for temperature, never in ((1.0, None), (0.5, target)):
        assert torch.equal(
            kept.sample(uniform, temperature, never), made_again.sample(uniform, temperature, never)
        )
    torch.testing.assert_close(
        kept.log_probs(target, 0.7), made_again.log_probs(target, 0.7), rtol=1e-13, atol=1e-13
    )
    found, wanted = (softmax.losses(target, smoothing) for softmax in (made_again, kept))
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)
    for mine, theirs in zip(
        *(torch.autograd.grad((losses * factor).sum(), parts) for losses in (found, wanted))
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


def test_logits_that_are_not_kept_are_not_kept():
    parts, target = inputs()
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (sizes.append(t.numel()), t)[1], lambda t: t
    ):
        Softmax(*parts, piece=1, keep=False).losses(target)
    assert sum(sizes) < N * V / 2


def test_fp32_losses_of_logits_that_are_not_kept_are_those_of_kept_ones_and_never_negative():
    parts, _target = inputs(torch.float32, scale=20.0)
    kept = Softmax(*parts, piece=1)
    certain = kept.best  # the likeliest: losses near 0
    losses = Softmax(*parts, piece=1, keep=False).losses(certain)
    assert losses.min() >= 0 and losses.min() < 1e-3
    torch.testing.assert_close(
        losses, kept.losses(certain), rtol=1e-5, atol=2e-3
    )  # logits of thousands have so many digits
