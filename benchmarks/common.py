"""What the benchmarks share: turns, medians, the machine in words, tables, and the page they are written to."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
DATA = ROOT.parent / "shared" / "data"  # real data sets; absent in most places


def taking_turns(
    contenders: Sequence[Callable[[], Any]],
    repetitions: int,
    repeat: int = 1,
    clock: Callable[[], float] = time.process_time,
) -> list[list[float]]:
    """Return the seconds per call of each contender, a list of `repetitions` numbers each.

    The contenders take turns in alternating order, so that other load on the machine affects all of them;
    `repeat` calls are timed as one.
    """
    times: list[list[float]] = [[] for _ in contenders]
    for repetition in range(repetitions):
        order = range(len(contenders)) if repetition % 2 == 0 else reversed(range(len(contenders)))
        for which in order:
            start = clock()
            for _ in range(repeat):
                contenders[which]()
            times[which].append((clock() - start) / repeat)
    return times


def own_process(command: Sequence[Any], environment: Mapping[str, str] | None = None) -> Any:
    """Return the JSON on the last line that a command prints; the command runs in its own process on one thread.

    Ends this program where the command fails.
    """
    command = [sys.executable, *map(str, command)]
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**(os.environ if environment is None else environment), "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
    )
    if ended.returncode:
        raise SystemExit(
            f"{' '.join(command)} ended with status {ended.returncode}:\n{ended.stderr[-2000:]}"
        )
    return json.loads(ended.stdout.strip().splitlines()[-1])


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Median of the ratios of neighbours in time, with the lower and upper quartile."""
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    if len(ratios) < 2:
        return ratios[0], ratios[0], ratios[0]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return statistics.median(ratios), low, high


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def machine() -> str:
    """What the numbers were taken on, without its name."""
    import torch

    words = [
        f"{os.cpu_count()} CPU cores ({platform.machine()})",
        f"Python {platform.python_version()}",
        f"torch {torch.__version__}",
    ]
    if torch.cuda.is_available():
        words.insert(0, f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}")
    return ", ".join(words)


def replace_section(section: str, text: str, page: Path = PAGE) -> None:
    """Replace what stands between `<!-- section -->` and the next `<!-- end -->` of the page."""
    begin, end = f"<!-- {section} -->\n", "<!-- end -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    if not found:
        raise SystemExit(f"{page} has no section {begin.strip()}")
    page.write_text(f"{before}{begin}{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def write(
    section: str, made: str, page: Path = PAGE, facts: Mapping[str, Any] | None = None
) -> None:
    """Replace a section of the page by a table, with what it was measured on."""
    said = ", ".join(
        [
            machine(),
            time.strftime("%Y-%m-%d"),
            *(f"{name} {value}" for name, value in (facts or {}).items()),
        ]
    )
    replace_section(section, f"{made}\n\nMeasured on {said}.", page)
