"""Measure the order of 10^9 examples: its memory, the time to the first batch, and the time of a random access.

    python -m benchmarks order [--examples 1000000000] [--repetitions 5] [--write]

Every measurement runs in its own process, which imports numpy and `fwk.data.order` before the clock starts:
memory is the growth of the peak from then on, time is wall time. One source, and a mixture of three. A batch is
256 draws.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

from benchmarks.common import table, write

CHILD = """
import json, random, resource, sys, time
import numpy as np
from fwk.data.order import Order
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
examples, mixed = int(sys.argv[1]), sys.argv[2] == "mixture"
before, start = peak(), time.perf_counter()
half, third = examples // 2, examples // 3
sizes = {"a": half, "b": third, "c": examples - half - third} if mixed else {"a": examples}
order = Order(1, sizes, {"a": 0.7, "b": 0.2, "c": 0.1} if mixed else None)
order.locate(np.arange(256))
first = time.perf_counter() - start
seeks = []
for place in random.Random(1).sample(range(100 * examples), 50):
    start = time.perf_counter()
    order.locate(np.arange(place, place + 256))
    seeks.append(time.perf_counter() - start)
print(json.dumps([peak() - before, first, max(seeks)]))
"""


def measure(examples: int, kind: str) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(examples), kind],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--examples", type=int, default=1_000_000_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/benchmarks.md"
    )
    arguments = parser.parse_args()
    rows = []
    for examples in (1_000_000, arguments.examples):
        for kind in ("one source", "mixture"):
            runs = [measure(examples, kind) for _ in range(arguments.repetitions)]
            memory, first, seek = (statistics.median(run[i] for run in runs) for i in range(3))
            rows.append(
                [
                    f"{examples:.0e}",
                    kind,
                    f"{memory:.1f}",
                    f"{first * 1e3:.1f}",
                    f"{seek * 1e3:.1f}",
                ]
            )
    made = table(
        [
            "examples",
            "",
            "memory, MB",
            "to the first batch, ms",
            "slowest of 50 seeks over 100 epochs, ms",
        ],
        rows,
    )
    print(made)
    if arguments.write:
        write("order", made)
