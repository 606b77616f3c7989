"""Consistency (R-Drop) and virtual adversarial training: criteria that use the head of another criterion."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from support.cases import NEEDS
from torch import nn

from fwk.contracts.context import BuildContext
from fwk.contracts.views import Encoded, View
from fwk.criteria.consistency import Consistency, binary_divergence, symmetric_divergence
from fwk.criteria.virtual_adversarial import VirtualAdversarial
from fwk.engine.update import Update
from fwk.errors import ConfigError
from fwk.nn import adversarial
from fwk.nn.adversarial import perturbation
from fwk.nn.imitation import TeacherTargets, finite_logits
from fwk.testing import batches_of, merge_settings, tiny_config, trainer_of

DROPOUT = {"model": {"dropout": 0.2}}


def terms_of(settings, update=1):
    """Return the loss terms of an update, and the gradient of the network, with the counts."""
    with trainer_of(tiny_config(settings)) as trainer:
        totals = {}
        run = trainer.run
        run.module.train()
        views = next(batches_of(run))
        step = Update(number=update, progress=0.0, micro_batches=len(views))
        micros = run.module.ready(views, step)
        step.counts = {
            name: float(value) for name, value in trainer.sum_counts(micros, step).items()
        }
        for micro in micros:
            views = run.module.run_actions(run.module.plan.actions, micro, step)
            for label, output in run.module.outputs(micro, step, views).items():
                for name, term in output.terms.items():
                    path = f"{label}/{name}"
                    totals[path] = totals.get(path, 0) + term.sum / step.counts[path]
        return totals


def test_the_divergence_is_that_of_its_definition_in_float64():
    torch.manual_seed(0)
    a, b = (torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    p, q = a.softmax(-1), b.softmax(-1)
    expected = ((p * (p / q).log()).sum(-1) + (q * (q / p).log()).sum(-1)) / 2
    found = symmetric_divergence(a, b)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    for one, other in zip(
        torch.autograd.grad(found.sum(), (a, b), retain_graph=True),
        torch.autograd.grad(expected.sum(), (a, b)),
    ):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


def test_the_divergence_of_independent_classes_is_that_of_two_classes_each():
    torch.manual_seed(0)
    a, b = torch.randn(2, 5, 4, dtype=torch.float64)
    pairs = (torch.stack([logit, torch.zeros_like(logit)], -1) for logit in (a, b))
    torch.testing.assert_close(
        binary_divergence(a, b), symmetric_divergence(*pairs), rtol=1e-12, atol=1e-14
    )


def test_extreme_logits_have_a_finite_divergence():
    a = torch.tensor([[1e4, -1e4], [0.0, 0.0]], requires_grad=True)
    found = symmetric_divergence(a, -a)
    assert found.tolist() == [2e4, 0.0]
    assert torch.autograd.grad(found.sum(), a)[0].isfinite().all()


def test_passes_with_dropout_differ_and_passes_without_agree():
    settings = {**NEEDS["consistency"], "views": {}}
    assert terms_of(settings)["consistency/consistency"] == 0
    assert terms_of(merge_settings(settings, DROPOUT))["consistency/consistency"] > 0


class Linear(nn.Module):
    """A stand-in for a head: view -> logits [R, 3]."""

    def __init__(self, outputs=3):
        super().__init__()
        torch.manual_seed(1)
        self.dense = nn.Linear(4, outputs).double()

    def forward(self, view):
        return self.dense(view.encoded.features[:, 0])


class Heads:
    """A stand-in for the context: the head, whatever its mode."""

    def __init__(self, head):
        self.module = head

    def head(self, path, mode="train", ema=False):
        return self.module


def test_a_head_without_classes_needs_the_squared_distance():
    torch.manual_seed(0)
    features = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    views = {
        name: View(name=name, draws=torch.arange(3), inputs={}, encoded=Encoded(features=x))
        for name, x in zip(("text", "text_again"), features)
    }

    def loss(distance):
        criterion = Consistency(
            Consistency.Config(distance=distance), BuildContext(key="criterion.x")
        )
        return criterion(views, Heads(head)).terms["consistency"].sum.item()

    head = Linear(1)
    a, b = (head(view) for view in views.values())
    assert loss("squared") == pytest.approx((a - b).square().sum().item(), rel=1e-12)
    with pytest.raises(
        ConfigError, match=r"criterion.x.distance: expected a head with logits of at"
    ):
        loss("divergence")


def test_choices_that_are_missing_change_no_divergence():
    torch.manual_seed(0)
    a, b = (torch.randn(2, 3, dtype=torch.float64) for _ in range(2))
    a[1, 2] = b[1, 2] = -torch.inf
    a, b = a.requires_grad_(), b.requires_grad_()
    found = symmetric_divergence(finite_logits(a), finite_logits(b))
    expected = symmetric_divergence(a[1:, :2], b[1:, :2])
    assert found[1].item() == pytest.approx(expected.item(), rel=1e-12)
    everything = torch.ones(2, dtype=torch.bool)
    targets = TeacherTargets(finite_logits(a), everything)
    parts = [
        TeacherTargets(a[row : row + 1, :size], everything[:1]).divergence(b[row : row + 1, :size])
        for row, size in enumerate((3, 2))
    ]
    imitated = targets.divergence(finite_logits(b))
    assert imitated.item() == pytest.approx(sum(parts).item(), rel=1e-12)
    for gradient in torch.autograd.grad(found.sum() + imitated, (a, b)):
        assert gradient.isfinite().all() and gradient[1, 2] == 0


def test_the_adversarial_noise_hurts_more_than_noise_of_its_length():
    """The direction is the gradient's, so the divergence exceeds that under random changes of the same length."""
    settings = merge_settings(
        NEEDS["virtual_adversarial"], {"criterion": {"virtual_adversarial": {"norm": 3.0}}}
    )
    worst = terms_of(settings)["virtual_adversarial/virtual_adversarial"].item()

    def anything(view, start, *rest):
        return torch.randn_like(start)

    torch.manual_seed(0)
    with mock.patch.object(adversarial, "_worst_direction", anything):
        at_random = terms_of(settings)["virtual_adversarial/virtual_adversarial"].item()
    assert worst > 1.5 * at_random > 0


def test_an_encoder_without_token_vectors_is_refused():
    class Silent(nn.Module):
        def embedding(self):
            return None

    with pytest.raises(
        ConfigError, match=r"criterion.v: changes token vectors, and this encoder ha"
    ):
        VirtualAdversarial(
            VirtualAdversarial.Config(), BuildContext(key="criterion.v", encoder=Silent())
        )


def test_a_perturbation_has_its_length_on_every_row():
    noise = perturbation(torch.randn(3, 5, 2, dtype=torch.float64), 2.5)
    torch.testing.assert_close(noise.flatten(1).norm(dim=1), torch.full((3,), 2.5).double())
