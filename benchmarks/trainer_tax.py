"""What the trainer costs: an update of `fwk` beside the same update in a loop written by hand.

    python benchmarks/trainer_tax.py [--repetitions 30] [--write]

The same BERT-mini (4 x 256), length 128, batch 32, masked LM at the masked positions, fused AdamW, clipping, constant
schedule, in one process. The two take turns, so that whatever else the machine does hits both; the median of the ratios
of neighbours is reported. Times are CPU time of the process on one thread, which other processes on the same cores do
not enter (`--wall`: time on the wall, for more threads). A toy model (1 layer x 16, 8 sequences of 16) shows the absolute overhead per update, where it is not hidden
behind arithmetic. --write puts the table into docs/benchmarks.md.

The loop by hand reads batches that were masked before the clock starts; `fwk`'s update makes, masks and counts its own.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from fwk.engine.module import Step
from fwk.testing import batches_of, tiny_config, trainer_of

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
COMMON = {"criterion": {"masked_lm": {}}, "schedule": {"name": "constant", "warmup": 0}}
MINI = {
    **COMMON,
    "task": {"name": "synthetic", "sequences": 4096, "length": 128, "shortest": None, "vocabulary": 4096,
             "second_source": 0.0},
    "model": {"size": "mini", "layers": None, "width": None, "heads": None, "positions": "learned", "dropout": 0.1,
              "attention_dropout": 0.1},
    "train": {"updates": 100_000, "batch": 32, "precision": "fp32"},
}
TOY = {
    **COMMON,
    "task": {"name": "synthetic", "sequences": 512, "length": 16, "shortest": None, "vocabulary": 32,
             "second_source": 0.0},
    "model": {"layers": 1, "width": 16, "heads": 2, "positions": "learned"},
    "train": {"updates": 100_000, "batch": 8, "precision": "fp32"},
}


def by_hand(trainer, batches: Sequence) -> Callable[[], None]:
    """The whole of a training loop without `fwk`: its encoder and head are used as plain modules."""
    run = trainer.run
    encoder, head = run.module.networks["main"], run.module.criteria["masked_lm"].head
    parameters = [p for name, p in run.module.named_parameters() if name != "anchor"]
    groups = [{"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.01},
              {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, eps=1e-6, fused=True)
    number = 0

    def step() -> None:
        nonlocal number
        tokens, positions, target = batches[number % len(batches)]
        number += 1
        features = encoder({"tokens": tokens}, None).features  # [B, T, D]
        index = positions.unsqueeze(-1).expand(-1, -1, features.shape[-1])
        logits = head(features.gather(1, index))  # [B, K, V]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        loss.item()  # a loop that logs reads its loss

    return step


def by_fwk(trainer) -> Callable[[], None]:
    updates = trainer.updates()

    def step() -> None:
        trainer.step(next(updates))

    return step


def compare(changes: dict, repetitions: int, updates: int,
            clock: Callable[[], float] = time.process_time) -> tuple[float, float, float]:
    """Median seconds per update of `fwk` and by hand, and the median of the ratios of neighbours in time."""
    config = tiny_config(changes)
    with trainer_of(config) as ours, trainer_of(config) as theirs:
        masked = []
        for _, batches in zip(range(16), batches_of(theirs.run)):
            view = theirs.run.module.begin(batches[0], 0, Step(), torch.device("cpu")).views["masked"]
            positions = view.positions[view.valid].view(len(view), -1)  # [B, K]: sequences of one length, so one K
            masked.append((view.tokens, positions, view.target.gather(1, positions)))
        contenders = [by_fwk(ours), by_hand(theirs, masked)]
        for step in contenders:
            for _ in range(max(3, updates // 2)):
                step()
        times: list[list[float]] = [[], []]
        for repetition in range(repetitions):
            for which in (0, 1) if repetition % 2 else (1, 0):
                start = clock()
                for _ in range(updates):
                    contenders[which]()
                times[which].append((clock() - start) / updates)
    ratio = statistics.median(a / b for a, b in zip(*times))
    return statistics.median(times[0]), statistics.median(times[1]), ratio


def table(repetitions: int, clock: Callable[[], float]) -> str:
    mini = compare(MINI, repetitions, 1, clock)
    toy = compare(TOY, repetitions, 50, clock)
    rows = [("BERT-mini, 32 x 128", mini), ("toy, 8 x 16", toy)]
    lines = ["| model, batch | `fwk`, ms per update | loop by hand, ms | ratio | overhead, ms |", "|---|---|---|---|---|"]
    for name, (ours, theirs, ratio) in rows:
        lines.append(f"| {name} | {ours * 1e3:.2f} | {theirs * 1e3:.2f} | {ratio:.3f} | {(ratio - 1) * theirs * 1e3:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wall", action="store_true", help="time on the wall instead of CPU time")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    made = table(arguments.repetitions, time.perf_counter if arguments.wall else time.process_time)
    print(made)
    if arguments.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition("<!-- trainer_tax -->\n")
        after = rest.partition("<!-- end -->")[2]
        PAGE.write_text(f"{before}<!-- trainer_tax -->\n{made}\n<!-- end -->{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
