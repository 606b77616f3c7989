"""Measure the cost of a checkpoint, written synchronously and in the background.

Reported are the time for which `save()` blocks the training, and its share of the training time when a run
saves every 100 updates.

    python -m benchmarks save [--size mini] [--repetitions 10] [--batch 32] [--threads 1] [--folder DIR] [--write]

One process. A repetition times, in turns: updates alone; a synchronous save; and a save in the background with
the updates that run until it is on the disk. `until whole` is the time to the last rename. `all in all` is the
total cost of a save: its stall, and the slowdown of the updates beside the writing thread. The share is that
cost over the time of 100 updates. Times are wall times, because a disk is involved; --folder chooses the folder
(on a disk, not in memory).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.common import table, write
from fwk.engine.saving import checkpoint
from fwk.testing import batches_of, tiny_config, trainer_of

EVERY = 100


def config_of(size: str, batch: int):
    return tiny_config(
        {
            "criterion": {"masked_lm": {}},
            "schedule": {"name": "constant", "warmup": 0},
            "task": {
                "name": "synthetic",
                "sequences": 4096,
                "length": 128,
                "shortest": None,
                "vocabulary": 30_522,
                "second_source": 0.0,
            },
            "model": {
                "size": size,
                "layers": None,
                "width": None,
                "heads": None,
                "positions": "learned",
                "dropout": 0.1,
                "attention_dropout": 0.1,
            },
            "train": {"updates": 1_000_000, "batch": batch, "precision": "fp32"},
        }
    )


def measure(
    size: str, batch: int, repetitions: int, folder: str | None
) -> tuple[dict[str, list[float]], float]:
    """Return seconds by name, one per repetition, and the megabytes of a checkpoint."""
    found: dict[str, list[float]] = {
        name: [] for name in ("update", "at once", "stall", "until whole", "beside")
    }
    with (
        trainer_of(config_of(size, batch)) as trainer,
        tempfile.TemporaryDirectory(dir=folder) as place,
    ):
        batches, saver = batches_of(trainer.run), trainer.bookkeeping.saver
        saver.folder = Path(place)
        trainer.step(next(batches))

        def timed(work) -> float:
            start = time.perf_counter()
            work()
            return time.perf_counter() - start

        def save(background: bool) -> float:
            trainer.bookkeeping.saved_at, saver.background = -1, background
            return timed(trainer.bookkeeping.save)

        save(False)
        save(True)  # the buffers are made once
        saver.wait()
        size_on_disk = (
            sum(
                path.stat().st_size
                for path in checkpoint.list_checkpoints(saver.folder)[-1].iterdir()
            )
            / 1e6
        )
        for _ in range(repetitions):
            alone = statistics.median(timed(lambda: trainer.step(next(batches))) for _ in range(3))
            found["update"].append(alone)
            found["at once"].append(save(False))
            start = time.perf_counter()
            found["stall"].append(save(True))
            updates = 0
            while saver.busy:
                trainer.step(next(batches))
                updates += 1
            spent = time.perf_counter() - start
            found["until whole"].append(spent)  # to the end of the update in which it became whole
            found["beside"].append(max(0.0, spent - found["stall"][-1] - updates * alone))
    return found, size_on_disk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--size", default="mini", help="of the model: tiny, mini, small, medium, base, large"
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--folder",
        help="where the checkpoints are written (default: the system's for temporary files)",
    )
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/benchmarks.md"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found, megabytes = measure(
        arguments.size, arguments.batch, arguments.repetitions, arguments.folder
    )
    middle = {name: statistics.median(values) for name, values in found.items()}
    whole = statistics.median(a + b for a, b in zip(found["stall"], found["beside"], strict=True))

    def row(name: str, stall: float, all_in_all: float, until: float) -> list[str]:
        share = all_in_all / (EVERY * middle["update"] + all_in_all)
        return [
            name,
            f"{stall * 1e3:.1f}",
            f"{until * 1e3:.0f}",
            f"{all_in_all * 1e3:.1f}",
            f"{share:.2%}",
        ]

    made = table(
        [
            "save",
            "stall, ms",
            "until whole, ms",
            "all in all, ms",
            f"share, saving every {EVERY} updates",
        ],
        [
            row("in the background", middle["stall"], whole, middle["until whole"]),
            row("at once", middle["at once"], middle["at once"], middle["at once"]),
        ],
    )
    print(made)
    facts = {
        "model": f"BERT-{arguments.size} ({megabytes:.0f} MB per checkpoint)",
        "batch": f"{arguments.batch} x 128",
        "update": f"{middle['update'] * 1e3:.0f} ms",
        "threads": arguments.threads,
        "repetitions": arguments.repetitions,
    }
    print(facts)
    if arguments.write:
        write("save", made, facts=facts)
