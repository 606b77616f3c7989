"""Compare `fwk-train` with Hugging Face `Trainer` on the same masked-LM training.

Shape, tokens, optimizer and allocator are equal.

    python -m benchmarks hf_trainer [--repetitions 3] [--write]

Every measurement runs in its own process (`contenders`), the two take turns, and the ratio is the median of the
ratios of neighboring measurements. CPU seconds of one thread, which exclude other processes on the same cores.
Each shape is measured with the allocator's defaults and with MALLOC_* set so that freed memory is kept (both
contenders alike).
"""

from __future__ import annotations

import argparse
import os
import statistics

from benchmarks.common import own_process, ratio, table, write

SHAPES = {
    "4 layers x 256, 32 x 128": [
        "--layers",
        "4",
        "--width",
        "256",
        "--batch",
        "32",
        "--updates",
        "5",
        "--warm",
        "2",
    ],
    "12 layers x 256, 32 x 128": [
        "--layers",
        "12",
        "--width",
        "256",
        "--batch",
        "32",
        "--updates",
        "3",
        "--warm",
        "2",
    ],
    "12 layers x 768, 8 x 128": [
        "--layers",
        "12",
        "--width",
        "768",
        "--batch",
        "8",
        "--updates",
        "2",
        "--warm",
        "1",
    ],
}
ALLOCATORS = {
    "defaults": {},
    "memory kept": {
        "MALLOC_TRIM_THRESHOLD_": "4294967296",
        "MALLOC_MMAP_THRESHOLD_": "4294967296",
        "MALLOC_TOP_PAD_": "268435456",
    },
}


def measure(contender: str, flags: list[str], allocator: dict[str, str]) -> dict[str, float]:
    """Return the output of `contenders`, run in its own process."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    return own_process(
        ["-m", "benchmarks", "contenders", contender, *flags], {**inherited, **allocator}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", choices=list(SHAPES))
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    rows = []
    for shape, flags in SHAPES.items():
        if arguments.only not in (None, shape):
            continue
        for allocator, setting in ALLOCATORS.items():
            times: dict[str, list[float]] = {"fwk": [], "hf": []}
            for repetition in range(arguments.repetitions):
                for contender in ("fwk", "hf") if repetition % 2 else ("hf", "fwk"):
                    times[contender].append(measure(contender, flags, setting)["cpu"])
            middle, low, high = ratio(times["hf"], times["fwk"])
            ours, theirs = (statistics.median(times[contender]) for contender in ("fwk", "hf"))
            rows.append(
                [
                    shape,
                    allocator,
                    f"{ours:.2f}",
                    f"{theirs:.2f}",
                    f"{middle:.2f} ({low:.2f} to {high:.2f})",
                ]
            )
            print(*rows[-1], sep=" | ", flush=True)
    made = table(
        [
            "model, batch",
            "allocator",
            "`fwk-train`, s per update",
            "HF `Trainer`, s",
            "`Trainer` ÷ `fwk`",
        ],
        rows,
    )
    print(made)
    if arguments.write:
        write("hf_trainer", made)
