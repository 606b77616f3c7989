"""Measure the cost of the trainer: an update of `fwk` beside the same update in a loop written by hand.

    python -m benchmarks trainer_tax [--repetitions 30] [--write]

The same BERT-mini (4 x 256), length 128, batch 32, masked LM at the masked positions, fused AdamW, clipping,
constant schedule, in one process. They take turns; the median of the ratios of neighboring measurements is
reported. Times are CPU times of the process on one thread (`--wall`: wall time, for more threads). A toy model
(1 layer x 16, 8 sequences of 16, no dropout) shows the cost of an update beside the arithmetic, and a second
table breaks it down.

One loop by hand reads batches that were masked before the clock starts; another takes rows of one tensor in a shuffled
order and masks them itself, in a dozen operations without keys. `fwk`'s update includes reading, masking and counting
(`--workers 1`: in another process, whose time is not counted), and calls its hooks, as in a run.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from benchmarks.common import ratio, table, taking_turns, write
from fwk.engine.update import Update
from fwk.testing import batches_of, begin_update, tiny_config, trainer_of

COMMON = {"criterion": {"masked_lm": {}}, "schedule": {"name": "constant", "warmup": 0}}
MINI = {
    **COMMON,
    "task": {
        "name": "synthetic",
        "sequences": 4096,
        "length": 128,
        "shortest": None,
        "vocabulary": 4096,
        "second_source": 0.0,
    },
    "model": {
        "size": "mini",
        "layers": None,
        "width": None,
        "heads": None,
        "positions": "learned",
        "dropout": 0.1,
        "attention_dropout": 0.1,
    },
    "train": {
        "updates": 10_000_000,
        "batch": 32,
        "precision": "fp32",
        "log_every": 10_000_000,
        "validate_every": 0,
        "save_every": 0,
    },
}
TOY = {
    **COMMON,
    "task": {
        "name": "synthetic",
        "sequences": 512,
        "length": 16,
        "shortest": None,
        "vocabulary": 32,
        "second_source": 0.0,
    },
    "model": {"layers": 1, "width": 16, "heads": 2, "positions": "learned"},
    "train": {
        "updates": 10_000_000,
        "batch": 8,
        "precision": "fp32",
        "log_every": 10_000_000,
        "validate_every": 0,
        "save_every": 0,
    },
}


def loss_by_hand(
    encoder, head, tokens: torch.Tensor, positions: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """Return the mean cross-entropy at the masked positions. tokens [B, T]; positions and target [B, K]."""
    features = encoder({"tokens": tokens}, None).features  # [B, T, D]
    index = positions.unsqueeze(-1).expand(-1, -1, features.shape[-1])
    logits = head(features.gather(1, index))  # [B, K, V]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())


def optimizer_by_hand(parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-4, eps=1e-6, fused=True)


def by_hand(
    trainer, batch: Callable[[], Sequence[torch.Tensor]]
) -> tuple[Callable[[], None], dict[str, Callable[[], Any]]]:
    """Return a complete training loop that uses the encoder and head of `fwk` as plain modules, and its parts."""
    run = trainer.run
    encoder, head = run.module.networks["main"], run.module.criteria["masked_lm"].head
    parameters = [p for name, p in run.module.named_parameters() if name != "anchor"]
    optimizer = optimizer_by_hand(parameters)

    def forward() -> torch.Tensor:
        return loss_by_hand(encoder, head, *batch())

    def apply() -> None:
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    def step() -> None:
        loss = forward()
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
        apply()
        loss.item()  # a loop that logs reads its loss

    return step, {"forward": forward, "apply": apply}


def by_fwk(trainer) -> Callable[[], None]:
    """Return a function that does what `Trainer.train` does for every update."""
    run, updates = trainer.run, trainer.updates()

    def step() -> None:
        run.world.enter("local work", update=run.update + 1)
        trainer.enter_phase(run.hooks.hook.fwk_phase(run=run))
        run.hooks.hook.fwk_update_begin(run=run)
        trainer.step(next(updates))
        run.hooks.hook.fwk_update_end(run=run)
        trainer.bookkeeping.after_update()

    return step


def masked(trainer, batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return tokens [B, T], positions [B, K] and targets [B, K] of a micro-batch of sequences of equal length."""
    view = trainer.run.module.begin(batch, 0, Update()).views["masked"]
    positions = view.positions[view.valid].view(len(view), -1)
    return view.tokens, positions, view.target.gather(1, positions)


def masked_before(trainer) -> Callable[[], Sequence[torch.Tensor]]:
    """Yield the batches of the first updates repeatedly."""
    return itertools.cycle(
        [masked(trainer, batches[0]) for _, batches in zip(range(16), batches_of(trainer.run))]
    ).__next__


def masking(trainer) -> Callable[[], Sequence[torch.Tensor]]:
    """Yield batches of the same shape and share of masks from a tensor of all sequences of the first updates."""
    run, vocabulary = trainer.run, trainer.run.task.vocabulary()
    rows = torch.cat(
        [batches[0]["batch"].inputs["tokens"] for _, batches in zip(range(16), batches_of(run))]
    )  # [N, T]
    B, K = masked(trainer, next(batches_of(run))[0])[1].shape
    lowest = max(vocabulary.special) + 1

    def shuffled() -> Iterator[torch.Tensor]:
        while True:
            yield from torch.randperm(len(rows)).split(B)

    order = shuffled()

    def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        tokens = rows[next(order)]
        positions = (
            torch.rand(B, tokens.shape[1] - 2).topk(K).indices.add_(1)
        )  # neither the first nor the last
        target, chance = tokens.gather(1, positions), torch.rand(B, K)
        put = torch.where(chance < 0.9, torch.randint(lowest, vocabulary.size, (B, K)), target)
        put.masked_fill_(chance < 0.8, vocabulary.mask)
        return tokens.scatter_(1, positions, put), positions, target

    return batch


def compare(
    changes: dict,
    repetitions: int,
    updates: int,
    clock: Callable[[], float] = time.process_time,
    workers: int = 0,
) -> dict[str, list[float]]:
    """Return seconds per update, one per repetition, of `fwk` and of the loops by hand.

    One loop reads batches that were masked before, the other masks them itself.
    """
    config = tiny_config({**changes, "train": {**changes["train"], "workers": workers}})
    with trainer_of(config) as ours, trainer_of(config) as before, trainer_of(config) as inside:
        contenders = {
            "fwk": by_fwk(ours),
            "masked before": by_hand(before, masked_before(before))[0],
            "masking": by_hand(inside, masking(inside))[0],
        }
        for step in contenders.values():
            for _ in range(max(3, 2 * updates)):
                step()
        return dict(
            zip(contenders, taking_turns([*contenders.values()], repetitions, updates, clock))
        )


def parts(rounds: int) -> list[tuple[str, float, float]]:
    """Return the microseconds of each part of the toy's update, in `fwk` and by hand.

    Every part runs by itself, repeatedly and in turns; the fastest call of each turn counts, and the lower decile of
    those, which is what a quiet machine would show.
    """
    config = tiny_config(TOY)
    with trainer_of(config) as trainer, trainer_of(config) as other:
        run, module = trainer.run, trainer.run.module
        updates, step = trainer.updates(), Update(number=1)
        _, hand = by_hand(other, masked_before(other))
        hand["forward"]().backward()
        batches = next(updates)
        micros = begin_update(trainer, batches, step)
        trainer.differentiate(micros, step)
        output = module(micros[0], step)
        run.update = 1  # not one at which something is logged

        def backward(forward: Callable[[], torch.Tensor]) -> Callable[[], float]:
            def timed() -> float:
                loss = forward()
                start = time.process_time()
                loss.backward()
                return time.process_time() - start

            return timed

        def timed(call: Callable[[], Any]) -> Callable[[], float]:
            def once() -> float:
                start = time.process_time()
                call()
                return time.process_time() - start

            return once

        def hooks() -> None:
            run.world.enter("local work", update=run.update + 1)
            trainer.enter_phase(run.hooks.hook.fwk_phase(run=run))
            run.hooks.hook.fwk_update_begin(run=run)
            run.hooks.hook.fwk_update_end(run=run)
            trainer.bookkeeping.after_update()

        def record() -> None:
            run.meters.record(output, output.loss.detach())
            run.meters.commit()

        made = [
            (
                "examples, masking and cutting, shared by 64 updates",
                lambda: [next(updates) for _ in range(64)],
                64,
                None,
            ),
            ("hooks without listeners", hooks, 1, None),
            ("schedule and progress", lambda: (run.learning_rate_factor(), run.progress), 1, None),
            (
                "micro-batch begun and counted",
                lambda: begin_update(trainer, batches, step),
                1,
                None,
            ),
            (
                "forward (`fwk`: also accuracy, terms, contexts)",
                lambda: module(micros[0], step),
                1,
                hand["forward"],
            ),
            (
                "clipping, optimizer (`fwk`: also finite check)",
                lambda: trainer.apply(1.0, micros, step),
                1,
                hand["apply"],
            ),
            ("meters", record, 1, None),
        ]
        calls = {
            (name, who): (timed(call), share)
            for name, ours, share, theirs in made
            for who, call in (("fwk", ours), ("hand", theirs))
            if call is not None
        }
        calls["backward", "fwk"] = backward(lambda: module(micros[0], step).loss), 1
        calls["backward", "hand"] = backward(hand["forward"]), 1
        fastest: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
        for _ in range(rounds):
            for key, (call, share) in calls.items():
                fastest[key].append(min(call() for _ in range(2 if share > 1 else 5)) / share)
    micros_of = {key: sorted(times)[len(times) // 10] * 1e6 for key, times in fastest.items()}
    return [
        (name, micros_of[name, "fwk"], micros_of.get((name, "hand"), 0.0))
        for name in dict.fromkeys(n for n, _ in calls)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="data-loading processes of `fwk`")
    parser.add_argument("--wall", action="store_true", help="time on the wall instead of CPU time")
    parser.add_argument(
        "--only", choices=("mini", "toy", "parts"), help="one of the three measurements"
    )
    parser.add_argument(
        "--write", action="store_true", help="put the tables into docs/benchmarks.md"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.perf_counter if arguments.wall else time.process_time
    made = []
    rows = []
    for name, key, changes, updates in (
        ("BERT-mini, 32 x 128", "mini", MINI, 1),
        ("toy, 8 x 16", "toy", TOY, 50),
    ):
        if arguments.only in (None, key):
            times = compare(changes, arguments.repetitions, updates, clock, arguments.workers)
            for loop in ("masked before", "masking"):
                ours, theirs = statistics.median(times["fwk"]), statistics.median(times[loop])
                middle, low, high = ratio(times["fwk"], times[loop])
                rows.append(
                    [
                        name,
                        loop,
                        f"{ours * 1e3:.2f}",
                        f"{theirs * 1e3:.2f}",
                        f"{middle:.3f} ({low:.3f} to {high:.3f})",
                        f"{(middle - 1) * theirs * 1e3:.2f}",
                    ]
                )
    if rows:
        made.append(
            table(
                [
                    "model, batch",
                    "loop by hand",
                    "`fwk`, ms per update",
                    "by hand, ms",
                    "ratio (quartiles)",
                    "overhead, ms",
                ],
                rows,
            )
        )
    if arguments.only in (None, "parts"):
        found = parts(10 * arguments.repetitions)
        rows = [
            [name, f"{ours:.0f}", f"{theirs:.0f}" if theirs else "", f"{ours - theirs:+.0f}"]
            for name, ours, theirs in found
        ]
        rows.append(
            [
                "together",
                *(f"{sum(part[i] for part in found):.0f}" for i in (1, 2)),
                f"{sum(ours - theirs for _, ours, theirs in found):+.0f}",
            ]
        )
        made.append(
            table(["part of the toy's update", "`fwk`, µs", "by hand, µs", "difference"], rows)
        )
    print("\n\n".join(made))
    if arguments.write:
        write(
            "trainer_tax",
            "\n\n".join(made),
            facts={"threads": arguments.threads, "workers": arguments.workers},
        )
