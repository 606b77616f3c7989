"""Compare two ranks of one thread each with one process of two threads that accumulates two micro-batches.

Both compute the same update.

    python -m benchmarks ddp [--repetitions 10] [--updates 3] [--size mini] [--batch 32] [--write]

BERT-mini, length 128, masked LM, 32 sequences per update, two cores. `fwk` does both, and so does a loop
written by hand (`DistributedDataParallel`, `no_sync` until the last micro-batch, fused AdamW, clipping, batches
masked beforehand). All four take turns in one job of two processes; while one process computes alone, the other
waits. Times are wall times of the first rank between two barriers. A ratio below 1 means that two ranks are
faster than two threads.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.common import ratio, table, taking_turns, write
from benchmarks.speed.trainer_tax import MINI, by_fwk, loss_by_hand, masked, optimizer_by_hand
from fwk.engine.ranks.joining import process_group
from fwk.engine.ranks.world import World
from fwk.testing import batches_of, tiny_config, trainer_of

RANKS = 2


class ByHand(torch.nn.Module):
    """The module that DistributedDataParallel wraps: one forward pass to the loss."""

    def __init__(self, encoder: torch.nn.Module, head: torch.nn.Module):
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, *micro: torch.Tensor) -> torch.Tensor:
        return loss_by_hand(self.encoder, self.head, *micro)


def by_hand(trainer, world: World) -> Callable[[], None]:
    """Return a function that runs an update by hand on the module of `trainer` and the batches of this rank."""
    run = trainer.run
    updates = [
        [masked(trainer, batch) for batch in batches]
        for _, batches in zip(range(8), batches_of(run))
    ]
    module = ByHand(run.module.networks["main"], run.module.criteria["masked_lm"].head)
    parameters = list(module.parameters())
    optimizer = optimizer_by_hand(parameters)
    wrapped = torch.nn.parallel.DistributedDataParallel(module) if world.size > 1 else module
    number = 0

    def step() -> None:
        nonlocal number
        micros = updates[number % len(updates)]
        number += 1
        for parameter in parameters:
            parameter.grad = None
        for micro in micros:
            with nullcontext() if world.size == 1 or micro is micros[-1] else wrapped.no_sync():
                loss = wrapped(*micro) / len(micros)
                loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        loss.item()

    return step


def work(arguments: argparse.Namespace, world: World) -> dict[str, list[float]]:
    """Return seconds per update by contender, measured on rank 0."""
    config = tiny_config(
        {
            **MINI,
            "model": {**MINI["model"], "size": arguments.size},
            "train": {
                **MINI["train"],
                "batch": arguments.batch,
                "micro_batch": arguments.batch // RANKS,
            },
        }
    )
    with ExitStack() as stack:

        def trainer(own: World):
            return stack.enter_context(trainer_of(config, own))

        steps = {
            "ranks, fwk": by_fwk(trainer(world)),
            "ranks, by hand": by_hand(trainer(world), world),
        }
        if world.main:
            alone = World()
            steps |= {
                "threads, fwk": by_fwk(trainer(alone)),
                "threads, by hand": by_hand(trainer(alone), alone),
            }

        def turn(name: str) -> Callable[[], None]:
            def updates() -> None:
                dist.barrier()
                if name in steps:
                    torch.set_num_threads(1 if name.startswith("ranks") else RANKS)
                    for _ in range(arguments.updates):
                        steps[name]()
                dist.barrier()

            return updates

        names = ["ranks, fwk", "threads, fwk", "ranks, by hand", "threads, by hand"]
        contenders = [turn(name) for name in names]
        for contender in contenders:
            contender()
        times = taking_turns(contenders, arguments.repetitions, clock=time.perf_counter)
    return {
        name: [seconds / arguments.updates for seconds in own] for name, own in zip(names, times)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--updates", type=int, default=3, help="timed as one")
    parser.add_argument(
        "--size", default="mini", help="of the model: tiny, mini, small, medium, base"
    )
    parser.add_argument(
        "--batch", type=int, default=32, help="sequences per update, of both ranks together"
    )
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/benchmarks.md"
    )
    parser.add_argument(
        "--out", help=argparse.SUPPRESS
    )  # of a rank: where the first one leaves its times
    arguments = parser.parse_args()
    if arguments.out:
        with process_group("cpu", 120) as world:
            times = work(arguments, world)
            if world.main:
                Path(arguments.out).write_text(json.dumps(times))
        return
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "times.json"
        subprocess.run(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                f"--nproc-per-node={RANKS}",
                "-m",
                "benchmarks",
                "ddp",
                *sys.argv[1:],
                "--out",
                str(out),
            ],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"},
        )
        times = json.loads(out.read_text())
    rows = []
    for who, name in (("fwk", "`fwk`"), ("by hand", "by hand, DistributedDataParallel")):
        ranks, threads = times[f"ranks, {who}"], times[f"threads, {who}"]
        rows.append(
            [
                name,
                *(f"{statistics.median(own) * 1e3:.0f}" for own in (ranks, threads)),
                "{:.3f} ({:.3f} to {:.3f})".format(*ratio(ranks, threads)),
            ]
        )
    made = table(
        [
            "update",
            "2 ranks x 1 thread, ms",
            "1 process x 2 threads x 2 micro-batches, ms",
            "ratio (quartiles)",
        ],
        rows,
    )
    print(made)
    if arguments.write:
        write(
            "ddp",
            made,
            facts={
                "model": f"BERT-{arguments.size}",
                "batch": f"{arguments.batch} x 128",
                "repetitions": f"{arguments.repetitions} of {arguments.updates} updates",
            },
        )
