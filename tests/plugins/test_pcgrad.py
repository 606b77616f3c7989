"""The PCGrad example: the hook `fwk_combine_gradients` against the algorithm written out in numpy."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from support.paths import ROOT

from fwk.testing import (
    assert_conforms,
    batches_of,
    difference,
    differentiate_once,
    gradients,
    rule_resume,
    tiny_config,
    trainer_of,
)

FOLDER = str(ROOT / "user_dir_examples" / "pcgrad")
TERMS = {"criterion": {"semantic_augment": {"tied_weight": 5.0}}}  # three terms on two views


def config_with(hooks: dict | None = None):
    return tiny_config({**TERMS, **({"hooks": hooks} if hooks else {})}, [FOLDER])


def reference(terms: dict[str, np.ndarray], order: random.Random) -> np.ndarray:
    """Algorithm 1 on flat float64 vectors."""
    total = 0.0
    for term, gradient in terms.items():
        projected = gradient.copy()
        others = [other for name, other in terms.items() if name != term]
        for other in order.sample(others, len(others)):
            overlap = projected @ other
            if overlap < 0:
                projected -= overlap / (other @ other) * other
        total = total + projected
    return total


def flat(gradient, sizes) -> np.ndarray:
    """One vector; zeros for parameters that a term does not reach."""
    parts = [np.zeros(n) if g is None else g.numpy().ravel() for g, n in zip(gradient, sizes)]
    return np.concatenate(parts)


@pytest.fixture
def combine():
    with trainer_of(config_with({"pcgrad": {}})) as trainer:
        hook = trainer.run.hooks.get_plugin("pcgrad")
        yield hook.fwk_combine_gradients.__globals__["combine"]


def test_gradients_are_combined_as_algorithm_1_says(combine):
    generator = torch.Generator().manual_seed(1)
    sizes = (3, 4, 2)
    for seed in range(50):
        terms = {
            name: [torch.randn(n, generator=generator, dtype=torch.float64) for n in sizes]
            for name in ("a/x", "a/y", "b/z")
        }
        terms["a/x"][0] = terms["a/y"][0] = terms["b/z"][1] = None
        expected = reference(
            {name: flat(own, sizes) for name, own in terms.items()}, random.Random(seed)
        )
        found = flat(combine(terms, random.Random(seed)), sizes)
        assert np.allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_a_parameter_that_no_term_reaches_stays_without_gradient(combine):
    ones = torch.ones(2, dtype=torch.float64)
    assert combine({"a/x": [ones, None], "a/y": [-ones, None]}, random.Random(0))[1] is None


def test_two_opposite_terms_cancel_and_two_that_agree_add_up(combine):
    a = torch.tensor([1.0, 2.0], dtype=torch.float64)
    (against,) = combine({"x": [a], "y": [-3 * a]}, random.Random(0))
    (together,) = combine({"x": [a], "y": [3 * a]}, random.Random(0))
    assert not against.any() and torch.equal(together, 4 * a)


def test_the_engine_steps_with_the_projected_gradients():
    """The gradient of each term alone, projected by hand, is the gradient of the run."""
    with trainer_of(config_with({"pcgrad": {}})) as trainer:
        seen = {}
        trainer.run.hooks.get_plugin("pcgrad")
        combine = trainer.run.hooks.hook.fwk_combine_gradients.get_hookimpls()[0]
        plain = combine.function

        def noted(run, gradients):
            seen.update({term: list(own) for term, own in gradients.items()})
            return plain(run, gradients)

        combine.function = noted
        differentiate_once(trainer)
        run = trainer.run
        sizes = [parameter.numel() for parameter in run.trainable]
        order = random.Random(f"{run.config.seed} pcgrad {run.update}")
        expected = reference({term: flat(own, sizes) for term, own in seen.items()}, order)
        found = flat([parameter.grad for parameter in run.trainable], sizes)
    assert len(seen) == 3 and np.allclose(found, expected, rtol=1e-9, atol=1e-15)


def test_without_conflicts_it_is_the_sum():
    """One criterion of one term has nothing to conflict with."""
    changes = {"criterion": {"masked_lm": {}}, "train": {"micro_batch": 5}}
    plain = gradients(tiny_config(changes))
    combined = gradients(tiny_config({**changes, "hooks": {"pcgrad": {}}}, [FOLDER]))
    assert difference(plain, combined) < 1e-12


def test_a_resumed_run_draws_the_same_order():
    assert rule_resume(config_with({"pcgrad": {}})) == ""


def test_it_keeps_the_rules_and_its_name():
    assert_conforms("hook", "pcgrad", user_dirs=[FOLDER])


def test_updates_are_applied():
    with trainer_of(config_with({"pcgrad": {}})) as trainer:
        before = [parameter.detach().clone() for parameter in trainer.run.trainable]
        assert trainer.step(next(batches_of(trainer.run)))
        assert any(
            not torch.equal(old, new.detach()) for old, new in zip(before, trainer.run.trainable)
        )
