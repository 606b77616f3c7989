"""What test_fine_tuning_on_ranks.py runs on two ranks: fine-tuning of each kind, beside the same by one process.

`torchrun ... fine_tuning_ranks.py OUT`: rank 0 writes the weights' difference and both evaluations to OUT as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from support.cases import FINE_TUNING, NEEDS

from fwk import testing
from fwk.engine.evaluate import evaluate_and_count
from fwk.engine.ranks.joining import process_group
from fwk.engine.ranks.world import World

UPDATES = 20
WINDOWS = FINE_TUNING["joint answers in windows"]
KINDS = {
    "classification": NEEDS["classification"],
    "answers in windows": WINDOWS,
    "multiple choice": NEEDS["multiple_choice"],
}


def trained(name: str, world: World) -> tuple[dict[str, torch.Tensor], dict[str, float], int]:
    """Return the weights after some updates, the metrics of the split valid, and its examples."""
    train = {"updates": UPDATES, "precision": "fp32", "batch": 10}  # 2 ranks of 5
    config = testing.tiny_config(testing.merge_settings(KINDS[name], {"train": train}))
    with testing.trainer_of(config, world) as trainer:
        batches = testing.batches_of(trainer.run)
        for _ in range(UPDATES):
            trainer.enter_phase(trainer.run.hooks.hook.fwk_phase(run=trainer.run))
            trainer.step(next(batches))
        weights = {n: p.detach().clone() for n, p in trainer.run.named_trainable()}
        evaluation = evaluate_and_count(trainer.run, "valid")
        assert evaluation is not None
        return weights, evaluation.metrics, evaluation.examples


def main(out: str) -> None:
    torch.set_num_threads(1)
    results = {}
    with process_group("cpu", 120) as world:
        for name in KINDS:
            alone, together = trained(name, World()), trained(name, world)
            differences = world.gather_objects(testing.difference(alone[0], together[0]))
            results[name] = {
                "weights": max(differences),
                "alone": alone[1:],
                "together": together[1:],
            }
        if world.main:
            Path(out).write_text(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1])
