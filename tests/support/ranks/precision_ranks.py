"""What test_precision.py runs on two ranks: `torchrun ... precision_ranks.py OUT`. Rank 0 writes what each rank saw."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from support.overflow import Poisoned, overflowing, tiny

from fwk.engine.ranks.joining import process_group
from fwk.engine.ranks.world import World
from fwk.errors import RunError
from fwk.testing import batches_of, trainer_of


class Spoils(nn.LayerNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Poisoned.apply(super().forward(x))


def weights(trainer) -> list[float]:
    return [float(value.double().sum()) for value in trainer.run.module.state_dict().values()]


def failure(trainer) -> str:
    try:
        trainer.step(next(batches_of(trainer.run, trainer.run.update)))
    except RunError as error:
        return str(error)
    return "no failure"


def look(world: World) -> dict:
    found: dict = {"skipped": []}
    with trainer_of(tiny({"train": {"precision": "fp16", "micro_batch": 3}}), world) as trainer:
        if world.rank == 1:
            overflowing(trainer, 2)  # on this rank alone
        batches, states = batches_of(trainer.run), []
        for _ in range(3):
            trainer.step(next(batches))
            states.append(weights(trainer))
            found["skipped"].append(trainer.run.skipped)
        found["scale"] = trainer.run.precision.scale
        found["weights"] = [
            len({tuple(other) for other in world.gather_objects(states[2])}) == 1,
            states[0] == states[1],
        ]
        trainer.run.precision.scale = 2.0**-14
        main = trainer.run.module.networks["main"]
        if world.rank == 1:
            main.layers[1].inner.register_forward_hook(lambda m, i, out: out + 1e30)
        found["forward"] = failure(trainer)
    with trainer_of(tiny({"train": {"micro_batch": 3}}), world) as trainer:
        if world.rank == 0:
            trainer.run.module.criteria["masked_lm"].head.norm = Spoils(16, eps=1e-12)
        found["backward"] = failure(trainer)
    return found


def main(out: str) -> None:
    torch.set_num_threads(1)
    with process_group("cpu", 60) as world:
        seen = world.gather_objects(look(world))
        if world.main:
            Path(out).write_text(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1])
