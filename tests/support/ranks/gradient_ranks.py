"""What test_distributed.py runs on several ranks: `torchrun ... ranks.py OUT`. Rank 0 writes what it saw to OUT as
JSON; the tests read it. One start of four processes serves many tests, because starting them is what costs."""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from support.cases import CASES, LSTM, REGISTERED, config_of

from fwk import testing
from fwk.engine.ranks.joining import process_group
from fwk.engine.ranks.world import World

SPLIT = {"train": {"micro_batch": 2}}  # 12 sequences: 4 ranks of 3, in micro-batches of 2 and 1


def geometry(name: str, world: World) -> float:
    """Largest relative difference of the fp64 gradient between one process and all ranks with accumulation."""
    alone = testing.gradients(config_of(name))
    together = testing.gradients(config_of(name, SPLIT), world)
    return max(world.gather_objects(min(1e300, testing.difference(alone, together))))


def gathered(world: World) -> float:
    """As `geometry`, of negatives that come from all ranks, where each rank has one micro-batch."""
    config = config_of("COCO-LM", {"criterion": {"sequence_contrastive": {"negatives": "ranks"}}})
    return max(
        world.gather_objects(
            testing.difference(testing.gradients(config), testing.gradients(config, world))
        )
    )


def weights_after(name: str, world: World, updates: int) -> dict[str, torch.Tensor]:
    config = config_of(
        name,
        {
            "train": {
                "updates": updates,
                "precision": "fp32",
                **(SPLIT["train"] if world.size > 1 else {}),
            }
        },
    )
    with testing.trainer_of(config, world) as trainer:
        batches = testing.batches_of(trainer.run)
        for _ in range(updates):
            trainer.enter_phase(trainer.run.hooks.hook.fwk_phase(run=trainer.run))
            trainer.step(next(batches))
        return {n: p.detach().clone() for n, p in trainer.run.named_trainable()}


def twenty_updates(name: str, world: World) -> float:
    """Largest difference of any weight after 20 fp32 updates, relative to the largest weight."""
    alone, together = weights_after(name, World(), 20), weights_after(name, world, 20)
    return max(world.gather_objects(testing.difference(alone, together)))


def same_on_all_ranks(name: str, world: World) -> bool:
    weights = weights_after(name, world, 5)
    words = [float(sum((i + 1) * w.double().sum() for i, w in enumerate(weights.values())))]
    return len({tuple(other) for other in world.gather_objects(words)}) == 1


def resume(name: str, folder: Path, stop_at: int) -> dict:
    """Bit-identity of weights and metrics of a run that was stopped and went on, on all ranks."""
    changes = {
        "train": {"precision": "fp32", "micro_batch": 2, "updates": 6},
        "hooks": {"jsonl": {"name": "jsonl"}},
    }
    if name != "batch that is not text":
        changes["model"] = {"dropout": 0.1, **({} if name in LSTM else {"attention_dropout": 0.1})}
    config = config_of(name, changes)
    one = testing.train_briefly(config, folder / "one")
    with testing.stopped_at(stop_at):
        testing.train_briefly(config, folder / "two")
    two = testing.train_briefly(config, folder / "two")
    timings = ("seconds", "tokens_per_second")
    lines = []
    for run in ("one", "two"):
        text = (folder / run / "metrics.jsonl").read_text().splitlines()
        lines.append(
            [{k: v for k, v in json.loads(line).items() if k not in timings} for line in text]
        )
    lines = [[line for line in of if line.get("event") != "stopped"] for of in lines]
    return {
        "weights": all(torch.equal(one[n], two[n]) for n in one),
        "metrics": lines[0] == lines[1],
        "lines": len(lines[0]),
    }


def main(out: str) -> None:
    torch.set_num_threads(1)
    results: dict[str, dict] = {}

    def attempt(what: str, name: str, run) -> None:
        try:
            results.setdefault(what, {})[name] = run()
        except Exception:
            results.setdefault(what, {})[name] = traceback.format_exc()
            raise

    with process_group("cpu", 120) as world:
        for name in CASES:
            attempt("geometry", name, partial(geometry, name, world))
        for name in (
            *REGISTERED,
            "head without examples here and there",
            "virtual adversarial noise",
            "contrast over the whole update",
            "change of phase",
            "batch that is not text",
        ):
            attempt("twenty", name, partial(twenty_updates, name, world))
        attempt("gathered", "sequence_contrastive", partial(gathered, world))
        attempt(
            "same",
            "several objectives at once",
            lambda: same_on_all_ranks("several objectives at once", world),
        )
        world.enter(
            "runs with a watch of their own"
        )  # the last gradient above left it waiting, and these take minutes
        folder = world.gather_objects(tempfile.mkdtemp() if world.main else None)[0]
        for number, name in enumerate(CASES):
            attempt("resume", name, partial(resume, name, Path(folder) / str(number), 3))
        if world.main:
            Path(out).write_text(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1])
