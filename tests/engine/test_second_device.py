"""Training on a device other than the host, without a GPU: see `support.second_device`."""

from __future__ import annotations

import pytest
from support.cases import CASES, config_of
from support.second_device import DEVICE, second_device

from fwk.engine.evaluate import evaluate
from fwk.engine.ranks.world import World
from fwk.testing import batches_of, trainer_of

# of an update: counts and tokens together; whether the gradient is finite; its norm; two views: whether they align
WAITS = {"masked_lm": 3, "semantic_augment": 4, "replaced_token_detection": 3}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.mostly_slow(
    "=masked_lm", "=replaced_token_detection", "=COCO-LM", "contrast over the whole update"
)
def test_no_operation_has_tensors_of_host_and_device(name):
    """Two updates, an evaluation and a log line; the first gradient is the CPU's to the bit."""
    config = config_of(name, {"train": {"precision": "fp32"}})
    with trainer_of(config) as trainer:
        trainer.step(next(batches_of(trainer.run)))
        norm = trainer.run.grad_norm
    with second_device() as seen, trainer_of(config, World(device=DEVICE)) as trainer:
        run, batches = trainer.run, batches_of(trainer.run)
        trainer.step(next(batches))
        assert run.grad_norm == norm
        trainer.enter_phase(run.hooks.hook.fwk_phase(run=run))
        trainer.step(next(batches))
        evaluate(run, "valid")
        run.meters.read(run.world)
        assert not seen.mixed


@pytest.mark.parametrize("name", WAITS)
@pytest.mark.mostly_slow("=masked_lm")
def test_the_host_waits_for_the_device_a_few_times_in_an_update(name):
    config = config_of(name, {"train": {"precision": "fp32"}})
    with second_device() as seen, trainer_of(config, World(device=DEVICE)) as trainer:
        batches = batches_of(trainer.run)
        trainer.step(next(batches))
        batch = next(batches)
        seen.waits.clear()
        trainer.step(batch)
        assert sum(seen.waits.values()) <= WAITS[name], seen.waits
