"""Measure the start of `fwk-train --help` beside Python itself and beside importing torch.

    python -m benchmarks start [--repetitions 15] [--write]

One process per measurement; the commands take turns, after one round that fills the file cache. `fwk-train
--help` lists every registered component without importing torch, which is checked.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.common import table, taking_turns, write

COMMANDS = {
    "`python -c pass`": ["-c", "pass"],
    "`fwk-train --help`": ["-m", "fwk.cli.train", "--help"],
    "`fwk-train --criterion masked_lm --help`": [
        "-m",
        "fwk.cli.train",
        "--criterion",
        "masked_lm",
        "--help",
    ],
    "`fwk-preprocess --help`": ["-m", "fwk.cli.preprocess", "--help"],
    "`python -c 'import torch'`": ["-c", "import torch"],
}
CHECK = (
    "import sys; from fwk.cli.train import main; main(['--help']); sys.exit('torch' in sys.modules)"
)


def started(arguments: list[str], used: list[float]) -> Callable[[], None]:
    """Return a function that runs Python to its end and appends its CPU time to `used`."""

    def call() -> None:
        before = os.times()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        used.append(
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/benchmarks.md"
    )
    arguments = parser.parse_args()
    if subprocess.run([sys.executable, "-c", CHECK], stdout=subprocess.DEVNULL).returncode:
        raise SystemExit("fwk-train --help imports torch")
    used: list[list[float]] = [[] for _ in COMMANDS]
    contenders = [started(command, own) for command, own in zip(COMMANDS.values(), used)]
    for contender in contenders:
        contender()
    times = taking_turns(contenders, arguments.repetitions, clock=time.perf_counter)
    made = table(
        ["command", "seconds", "CPU seconds"],
        [
            [name, f"{statistics.median(own):.2f}", f"{statistics.median(cpu[1:]):.2f}"]
            for name, own, cpu in zip(COMMANDS, times, used)
        ],
    )
    print(made)
    if arguments.write:
        write("start", made, facts={"repetitions": arguments.repetitions})
