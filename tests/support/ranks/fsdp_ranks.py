"""What test_fsdp.py runs on two ranks: `torchrun ... fsdp_ranks.py OUT`. Rank 0 writes what it saw. The engine has no
option for this; it shows what of an objective works when its weights are sharded."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from support.cases import REGISTERED, config_of

from fwk import testing
from fwk.engine.ranks.joining import process_group
from fwk.engine.ranks.world import World
from fwk.engine.update import Update
from fwk.testing import batches_of, trainer_of

NAMES = (
    *REGISTERED,
    "generator with tied embeddings",
    "teacher view",
    "targets that only a network knows",
    "several objectives at once",
)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_gradients(name: str, world: World) -> tuple[dict, float]:
    """The gradient of the first update with weights in shards, one encoder layer at a time; the share of them held."""
    mesh = init_device_mesh("cpu", (world.size,))
    with trainer_of(
        config_of(name, {"train": {"micro_batch": 2, "check_ranks_every": 0}}), world
    ) as trainer:
        run, module = trainer.run, trainer.run.module
        for layer in module.networks["main"].layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(module, mesh=mesh, ignored_params={module.anchor})  # a scalar cannot be cut
        register_fsdp_forward_method(module, "prepare")
        trainer.optimisation.wrapped = module
        batches = next(batches_of(run))
        step = Update(number=1, progress=0.0, micro_batches=len(batches))
        micros = testing.begin_update(trainer, batches, step)
        for micro in micros:
            module.set_requires_gradient_sync(micro is micros[-1])
            module(micro, step).loss.backward()
        held = sum(p.to_local().numel() for p in run.trainable) / sum(
            p.numel() for p in run.trainable
        )
        return {
            n: None if p.grad is None else whole(p.grad) for n, p in run.named_trainable()
        }, held


def look(name: str, world: World) -> dict:
    alone = {n: g for n, g in testing.gradients(config_of(name)).items()}
    together, held = sharded_gradients(name, world)
    return {
        "difference": max(world.gather_objects(min(1e300, testing.difference(alone, together)))),
        "held": held,
    }


def main(out: str) -> None:
    torch.set_num_threads(1)
    with process_group("cpu", 120) as world:
        seen = {name: look(name, world) for name in NAMES}
        if world.main:
            Path(out).write_text(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1])
