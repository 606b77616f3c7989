"""Time updates of an objective at a size of the papers and print JSON; the GPU session starts it.

    python -m benchmarks updates electra_small [--device cuda] [--precision bf16] [--compile] [--toy]

Synthetic sequences of full length, the whole path of an update: reading, keyed masking, counts, forward, backward,
clipping, optimizer, meters. Blocks of updates are timed, the host waits for the device only at their ends. The rate
counts matrix products and softmaxes as executed (`fwk.flops`, free embedding lookups), the backward pass as two
forward passes. Peak memory is that of the allocator, weights and optimizer included.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from benchmarks.common import ROOT
from benchmarks.speed.contenders import Measured, Stopwatch

VOCABULARY = 30_522
PAPERS = ROOT / "configs" / "papers"
BERT = {"name": "bert", "positions": "learned", "dropout": 0.1, "attention_dropout": 0.1}
TOY = {"layers": 1, "width": 32, "heads": 2, "inner": 64, "embedding": 16}

# objective: (paper's config or None, changes of it, sequences, their length)
OBJECTIVES: dict[str, tuple[str | None, dict[str, Any], int, int]] = {
    "bert_base": (None, {"model": {"size": "base"}, "criterion": {"masked_lm": {}}}, 256, 128),
    "electra_small": ("electra_small.yaml", {}, 128, 128),
    "electra_base": ("electra_base.yaml", {}, 64, 512),
    "one_view": (None, {"model": {"size": "base"}, "criterion": {"masked_lm": {}}}, 128, 128),
    "two_views": (
        None,
        {"model": {"size": "base"}, "criterion": {"semantic_augment": {}}},
        128,
        128,
    ),
    "five_objectives": (None, {"model": {"size": "base"}}, 64, 128),
    "union_of_their_views": (None, {"model": {"size": "base"}}, 64, 128),
}


def of_paper(file: str | None) -> dict[str, Any]:
    """Return model, criteria, views and optimizer of a paper's config, or BERT's."""
    if file is None:
        return {"model": BERT, "optimizer": {"name": "adamw", "lr": 1e-4}}
    from fwk.config.resolve import resolve

    mapping = resolve([str(PAPERS / file)], overrides=["task.data=any"]).config.to_mapping()
    return {key: mapping[key] for key in ("model", "criterion", "views", "optimizer")}


def of_combined(name: str) -> dict[str, Any]:
    """Return criteria and views of the benchmark of five objectives in one config, where `name` asks for them."""
    if name not in ("five_objectives", "union_of_their_views"):
        return {}
    from benchmarks.methods.combined import (
        FIVE,
        VIEWS,
    )  # registers the criterion that reads all views

    criteria = list(FIVE) if name == "five_objectives" else ["four_views_of_the_benchmark"]
    return {"criterion": {criterion: {} for criterion in criteria}, "views": VIEWS}


def config_of(name: str, arguments: argparse.Namespace) -> Any:
    """Return the config of an objective, at its paper's size or as a toy."""
    from fwk.components.discovery import load_plugins
    from fwk.config.resolve import from_mapping
    from fwk.testing import merge_settings

    load_plugins()
    file, changes, batch, length = OBJECTIVES[name]
    if arguments.toy:
        batch, length = 4, 16
    settings = merge_settings(merge_settings(of_paper(file), of_combined(name)), changes)
    if arguments.toy:
        settings["model"] = {**settings["model"], **TOY, "length": None}
    return from_mapping(
        {
            **settings,
            "task": {
                "name": "synthetic",
                "sequences": 16 * batch,
                "length": length,
                "vocabulary": 512 if arguments.toy else VOCABULARY,
            },
            "schedule": {"name": "constant", "warmup": 0},
            "hooks": dict.fromkeys(("terminal", "jsonl", "tensorboard", "summary")),
            "train": {
                "updates": 1_000_000,
                "batch": batch,
                "precision": arguments.precision,
                "compile": arguments.compile,
                "workers": arguments.workers,
                "device": arguments.device,
                "deterministic": not arguments.device.startswith("cuda"),
            },
        }
    )


@contextmanager
def trained(config: Any) -> Iterator[tuple[Any, Iterator[Any]]]:
    """Yield a trainer on the config's device, and its updates: the micro-batches of one after another."""
    import torch

    from fwk.engine.ranks.world import World
    from fwk.testing import trainer_of

    device = torch.device(config.train.device)
    with trainer_of(config, World(device=device)) as trainer, closing(trainer.updates()) as updates:
        yield trainer, updates


def operations_of(trainer: Any) -> float | None:
    """Return the floating-point operations of an update, with a backward pass of two forward passes.

    None where a component does not count its own.
    """
    from fwk.flops import count

    run = trainer.run
    counted = count(run.config, run.task.length(), run.task.vocabulary().size, products=False)
    if counted is None or counted.uncounted:
        return None
    return 3.0 * counted.sequences * sum(counted.parts.values())


def measure(config: Any, watch: Stopwatch) -> dict[str, Any]:
    """Return times, rates and peak memory of the updates of a config."""
    import torch

    with trained(config) as (trainer, updates):
        operations, train = operations_of(trainer), config.train
        try:
            while True:
                trainer.step(next(updates))
                watch.lap()
        except Measured:
            found = watch.result()
        found["tokens_per_second"] = train.batch * trainer.run.task.length() / found["wall"]
    if operations is not None:
        found["flops_per_second"] = operations / found["wall"]
    if watch.cuda:
        found["peak_bytes"] = torch.cuda.max_memory_allocated()
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how an objective is trained."""
    parser.add_argument("objective", choices=list(OBJECTIVES))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--toy", action="store_true", help="toy shapes: tries the program")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_options(parser)
    parser.add_argument("--updates", type=int, default=24, help="timed updates")
    parser.add_argument("--block", type=int, default=8, help="updates that are timed as one")
    parser.add_argument("--warm", type=int, default=6, help="updates before the clock counts")
    arguments = parser.parse_args()
    watch = Stopwatch(arguments.warm, arguments.updates, arguments.device, arguments.block)
    print(json.dumps(measure(config_of(arguments.objective, arguments), watch)))
