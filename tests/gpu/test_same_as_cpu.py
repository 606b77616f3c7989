"""What the CPU computes, a GPU computes: random bits, losses, gradients."""

from __future__ import annotations

import pytest
import torch
from support.cases import CASES, REGISTERED, config_of

from fwk.components.registry import registry
from fwk.config.resolve import build
from fwk.contracts.context import BuildContext
from fwk.contracts.keyed import Key, choose
from fwk.contracts.noiser import LearnedNoiser
from fwk.contracts.views import View
from fwk.engine.evaluate import evaluate
from fwk.engine.ranks.world import World
from fwk.testing import batches_of, trainer_of

GPU = "cuda"


def numbers_of_first_update(config, device: str) -> dict[str, float]:
    """Loss, sums of terms and gradient norm of the first update, and the metrics of an evaluation before it."""
    with trainer_of(config, World(device=torch.device(device))) as trainer:
        metrics = evaluate(trainer.run, "valid")
        trainer.step(next(batches_of(trainer.run)))
        sums = trainer.run.meters.read(World())
        terms = {n: float(x) for n, x in sums.items() if n.startswith(("sum:", "count:", "loss"))}
        return {**terms, "norm": trainer.run.grad_norm, "valid": metrics["loss"]}


@pytest.mark.gpu
@pytest.mark.parametrize("T, ratio", [(1, 0.15), (33, 0.0), (64, 1.0), (512, 0.15), (2048, 0.5)])
def test_keyed_numbers_are_the_cpus_to_the_bit(T, ratio):
    generator = torch.Generator().manual_seed(T)
    draws = torch.randint(0, 2**62, (40,), generator=generator)
    eligible = torch.rand(40, T, generator=generator) < 0.7
    results = []
    for device in ("cpu", GPU):
        key = Key(7, "train/masked", draws.to(device))
        positions, valid = choose(key, eligible.to(device), ratio)
        drawn = [key.bits(T), key.below(positions, 997), key.uniform(T), key.happens(T, 0.15)]
        results.append([tensor.cpu() for tensor in (*drawn, positions, valid)])
    assert all(torch.equal(mine, other) for mine, other in zip(*results))


STATIC = [
    entry.name
    for entry in registry.entries("noiser")
    if not issubclass(entry.cls, LearnedNoiser)
    and not entry.cls.reads_encoding
    and entry.module.startswith("fwk.")
]


@pytest.mark.gpu
@pytest.mark.parametrize("name", STATIC)
def test_a_static_noiser_makes_the_view_that_it_makes_on_the_cpu(name):
    with trainer_of(config_of("masked_lm")) as trainer:
        cls = registry.get("noiser", name).cls
        vocabulary = trainer.run.task.vocabulary()
        noiser = cls(build(cls, {}), BuildContext(name="noised", vocabulary=vocabulary))
        batch = next(batches_of(trainer.run))[0]["batch"]
    made = []
    for device in ("cpu", GPU):
        view = batch.to(torch.device(device))
        made.append(noiser.apply(view, Key(1, "train/noised", view.draws)).to(torch.device("cpu")))
    assert_equal_views(*made)


def assert_equal_views(a: View, b: View) -> None:
    assert torch.equal(a.tokens, b.tokens)
    for field in ("positions", "valid", "mask", "target", "draws", "alignment"):
        mine, other = getattr(a, field), getattr(b, field)
        assert (mine is None) == (other is None), field
        assert mine is None or torch.equal(mine, other), field


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_the_fp32_loss_and_gradient_are_the_cpus(name):
    """Sums in another order: 1e-5 for losses, ten times that for the norm of all gradients. Samples of generators come
    from equal random numbers and nearly equal probabilities: they differ only where a number falls between the two."""
    config = config_of(name, {"train": {"precision": "fp32"}})
    mine, other = (numbers_of_first_update(config, device) for device in ("cpu", GPU))
    assert mine.keys() == other.keys()
    for what, number in mine.items():
        tolerance = 1e-4 if what == "norm" else 1e-5
        assert other[what] == pytest.approx(number, rel=tolerance, abs=1e-6), what


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", REGISTERED)
def test_the_loss_in_half_precision_is_near_that_in_fp32(name, precision):
    """bf16 has 8 significant bits, and other tokens may be sampled; sums stay in fp32, so a tenth is wide."""
    config = config_of(name, {"train": {"precision": "fp32"}})
    half = config_of(name, {"train": {"precision": precision}})
    wide = numbers_of_first_update(config, "cpu")
    narrow = numbers_of_first_update(half, GPU)
    assert narrow["valid"] == pytest.approx(wide["valid"], rel=0.1, abs=0.05)
