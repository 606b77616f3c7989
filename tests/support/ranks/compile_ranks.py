"""What test_compile.py runs on two ranks: `torchrun ... compile_ranks.py OUT`. Rank 0 writes what it saw."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from support.cases import LSTM, REGISTERED, config_of

from fwk import testing
from fwk.engine.ranks.joining import process_group
from fwk.engine.ranks.world import World
from fwk.engine.speed import compiling
from fwk.testing import batches_of, trainer_of

NAMES = (
    *(name for name in REGISTERED if name not in LSTM),
    "generator with tied embeddings",
    "teacher view with averaged weights",
    "virtual adversarial noise",
)


def look(name: str, world: World) -> dict:
    alone = testing.gradients(config_of(name))
    split = {"train": {"compile": True, "micro_batch": 2}}
    together = testing.gradients(config_of(name, split), world)
    with trainer_of(config_of(name, split), world) as trainer:
        batches = batches_of(trainer.run)
        for _ in range(
            compiling.WARM_UP
        ):  # a lone or a cropped sequence comes by after some updates, and is a graph of its own
            trainer.step(next(batches))
        before = compiling.count_graphs()
        for _ in range(3):
            trainer.step(next(batches))
    worst = max(world.gather_objects(min(1e300, testing.difference(alone, together))))
    return {
        "difference": worst,
        "new": max(world.gather_objects(compiling.count_graphs() - before)),
        "breaks": compiling.graph_breaks(),
    }


def main(out: str) -> None:
    torch.set_num_threads(1)
    compiling.BACKEND = "aot_eager"
    with process_group("cpu", 300) as world:
        seen = {name: look(name, world) for name in NAMES}
        if world.main:
            Path(out).write_text(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1])
