"""A pytest plugin that writes the outcome of each test as a line of JSON: nothing is lost when a run is cut off.

GPU_OUTCOMES=FILE python -m pytest -p benchmarks.gpu.outcomes ...
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

VARIABLE = "GPU_OUTCOMES"
LONGEST = 600  # characters of a failure


def pytest_configure(config: pytest.Config) -> None:
    """Listen to this process's tests, unless it is a worker: the one that started the workers hears of all tests."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Outcomes())


class Outcomes:
    """Writes a line for each test."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write a line for each test that passed, was skipped, or failed in any of its phases."""
        if report.when != "call" and report.outcome == "passed":
            return
        line = {
            "test": report.nodeid,
            "outcome": report.outcome,
            "seconds": round(report.duration, 2),
        }
        if report.failed:
            line["message"] = report.longreprtext[-LONGEST:]
        with open(os.environ[VARIABLE], "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def summary(path: Path) -> dict[str, Any]:
    """Return the numbers of tests by outcome, and the failures."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return summarise(json.loads(line) for line in lines)


def summarise(outcomes: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the numbers of tests by outcome, and the failures."""
    outcomes = list(outcomes)
    counts = Counter(outcome["outcome"] for outcome in outcomes)
    failures = {one["test"]: one["message"] for one in outcomes if one["outcome"] == "failed"}
    return {
        **{name: counts[name] for name in ("passed", "failed", "skipped")},
        "failures": failures,
    }
