"""Measure the cost of a second view.

An update with two masked views of N sequences is compared with one view, and with the same two views encoded by two
separate calls.

    python -m benchmarks two_views [--repetitions 15] [--write]

BERT-mini (4 x 256), length 128, Semantic-Augment against masked LM, in one process, in turns; CPU time of one thread.
Two separate calls: the same update with one encoder call per view.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch

from benchmarks.common import ratio, table, taking_turns, write
from benchmarks.speed.trainer_tax import MINI
from fwk.engine.plan import Encode, Plan
from fwk.testing import batches_of, tiny_config, trainer_of

SHAPE = {
    "task": MINI["task"],
    "model": MINI["model"],
    "train": {"updates": 100_000, "batch": 16, "precision": "fp32"},
    "schedule": MINI["schedule"],
}


def apart(plan: Plan) -> Plan:
    """Return the same plan with one call per view."""
    actions = [
        part
        for action in plan.actions
        for part in (
            [Encode((view,)) for view in action.views] if isinstance(action, Encode) else [action]
        )
    ]
    return Plan(plan.static, tuple(actions), plan.dynamic)


def updater(trainer) -> Callable[[], None]:
    batches = batches_of(trainer.run)
    return lambda: trainer.step(next(batches))


def compare(N: int, repetitions: int) -> list[list[str]]:
    shape = {**SHAPE, "train": {**SHAPE["train"], "batch": N}}
    one, two = (
        tiny_config({**shape, "criterion": {name: {}}})
        for name in ("masked_lm", "semantic_augment")
    )
    with trainer_of(two) as ours, trainer_of(one) as single, trainer_of(two) as separate:
        separate.run.module.plan = apart(separate.run.module.plan)
        trainers = [ours, single, separate]
        contenders = [updater(trainer) for trainer in trainers]
        for update in contenders:
            update()
        before = [trainer.run.module.encoding.calls for trainer in trainers]
        times = taking_turns(contenders, repetitions)
        calls = [
            (trainer.run.module.encoding.calls - start) / repetitions
            for trainer, start in zip(trainers, before)
        ]
    if calls != [1, 1, 2]:
        raise SystemExit(f"the encoder was called {calls} times per update, expected 1, 1 and 2")
    return [
        [
            str(N),
            name,
            f"{statistics.median(own) * 1e3:.0f}",
            "1" if own is times[0] else "{:.3f} ({:.3f} to {:.3f})".format(*ratio(times[0], own)),
        ]
        for name, own in zip(("two views in one call", "one view", "two views, two calls"), times)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--sequences", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for N in arguments.sequences for row in compare(N, arguments.repetitions)]
    made = table(["sequences", "update", "ms", "two views in one call ÷ this (quartiles)"], rows)
    print(made)
    if arguments.write:
        write("two_views", made)
