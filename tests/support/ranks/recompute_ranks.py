"""What test_recompute.py runs on two ranks: `torchrun ... recompute_ranks.py OUT`. Rank 0 writes what it saw."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from support.cases import config_of

from fwk import testing
from fwk.engine.ranks.joining import process_group
from fwk.engine.speed import compiling


def main(out: str) -> None:
    torch.set_num_threads(1)
    compiling.BACKEND = "aot_eager"
    name = "generator with tied embeddings"
    with process_group("cpu", 300) as world:
        alone, found = testing.gradients(config_of(name)), {}
        for what, compiled in (("plain", False), ("compiled", True)):
            train = {"micro_batch": 2, "activation_checkpointing": True, "compile": compiled}
            together = testing.gradients(config_of(name, {"train": train}), world)
            found[what] = max(world.gather_objects(min(1e300, testing.difference(alone, together))))
        if world.main:
            Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
