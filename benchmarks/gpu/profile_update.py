"""Profile one update on a GPU and print JSON: kernels, gaps between them, host time, waits of the host.

    python -m benchmarks profile_update electra_small [--device cuda] [--precision bf16] [--compile] [--toy]

The objectives are those of `updates`. One update is recorded with torch's profiler after a warm-up, from the reading of
its examples to the return of the trainer's step; another one runs under `torch.cuda.set_sync_debug_mode("warn")`, which
names the lines at which the host waits for the device. Gaps are the times between the first and the last kernel in
which no kernel and no copy runs. On a CPU there are no kernels, and only the host time is measured.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT
from benchmarks.gpu.matrix_product import wait
from benchmarks.gpu.updates import add_options, config_of, trained

ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")  # categories of torch's trace
CALLS = ("cuda_runtime", "cuda_driver")
# calls that return only once the device has done its work; copies to pageable memory are copies with such a wait
WAITS = (
    "cudaStreamSynchronize",
    "cudaDeviceSynchronize",
    "cudaEventSynchronize",
    "cudaMemcpy",
)
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
READ, STEP = "benchmark: read", "benchmark: step"  # parts of the recorded update
MOST_KERNELS, MOST_GAPS = 25, 8  # lines of the result
LONGEST_NAME = 90


@dataclass(frozen=True)
class Span:
    """Something that happened, in microseconds."""

    name: str
    category: str
    start: float
    end: float

    @property
    def length(self) -> float:
        return self.end - self.start


def spans_of(trace: Mapping[str, Any]) -> list[Span]:
    """Return the complete events of a trace in Chrome's format, by their start."""
    spans = [
        Span(
            str(event["name"]),
            str(event.get("cat", "")),
            float(event["ts"]),
            float(event["ts"]) + float(event.get("dur", 0.0)),
        )
        for event in trace["traceEvents"]
        if event.get("ph") == "X"
    ]
    return sorted(spans, key=lambda span: (span.start, span.end))


def kernel_table(spans: Iterable[Span]) -> list[dict[str, Any]]:
    """Return calls and time of the kernels and copies, the most expensive first."""
    calls: Counter[str] = Counter()
    times: Counter[str] = Counter()
    for span in spans:
        calls[span.name] += 1
        times[span.name] += span.length
    total = sum(times.values()) or 1.0
    return [
        {
            "kernel": name[:LONGEST_NAME],
            "calls": calls[name],
            "ms": time / 1e3,
            "share": time / total,
        }
        for name, time in times.most_common()
    ]


def gaps_of(spans: Sequence[Span]) -> list[dict[str, Any]]:
    """Return the times in which nothing runs, with the neighbours of each, the longest first.

    spans: by their start; they may overlap, as kernels of several streams do.
    """
    gaps = []
    last: Span | None = None  # of those so far, the one that ends last
    for span in spans:
        if last is not None and span.start > last.end:
            gaps.append(
                {
                    "us": span.start - last.end,
                    "after": last.name[:LONGEST_NAME],
                    "before": span.name[:LONGEST_NAME],
                }
            )
        if last is None or span.end > last.end:
            last = span
    return sorted(gaps, key=lambda gap: -gap["us"])


def analyse(spans: Sequence[Span]) -> dict[str, Any]:
    """Return what a recorded update tells: host time, kernels, gaps, and waits of the host.

    Calls count where they begin within the update, so that the profiler's own waits do not.
    """
    parts = {
        span.name: span
        for span in spans
        if span.name in (READ, STEP) and "gpu" not in span.category
    }
    begin, end = parts[READ].start, parts[STEP].end
    calls = Counter(s.name for s in spans if s.category in CALLS and begin <= s.start <= end)
    on_device = [span for span in spans if span.category in ON_DEVICE and span.start >= begin]
    found: dict[str, Any] = {
        "host_ms": (end - begin) / 1e3,
        "read_ms": parts[READ].length / 1e3,
        "waits": sum(calls[name] for name in WAITS),
        "waits_by_call": {name: calls[name] for name in WAITS if calls[name]},
        "launches": sum(calls[name] for name in LAUNCHES),
    }
    if on_device:
        gaps = gaps_of(on_device)
        first, last = on_device[0].start, max(span.end for span in on_device)
        idle = sum(gap["us"] for gap in gaps)
        copies = Counter(s.name.split(" (")[0] for s in on_device if s.category == "gpu_memcpy")
        found |= {
            "device_ms": (last - first) / 1e3,
            "busy_ms": (last - first - idle) / 1e3,
            "idle_share": idle / (last - first),
            "gaps": len(gaps),
            "longest_gaps": gaps[:MOST_GAPS],
            "copies": dict(copies),
            "kernel_calls": sum(span.category == "kernel" for span in on_device),
            "kernels": kernel_table(on_device)[:MOST_KERNELS],
        }
    return found


def record(trainer: Any, updates: Iterator[Any], device: str) -> list[Span]:
    """Return the events of one update."""
    from torch.profiler import ProfilerActivity, profile, record_function

    activities = [ProfilerActivity.CPU]
    if device.startswith("cuda"):
        activities.append(ProfilerActivity.CUDA)
    wait(device)
    with profile(activities=activities) as profiler:
        with record_function(READ):
            batches = next(updates)
        with record_function(STEP):
            trainer.step(batches)
        wait(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return spans_of(json.loads(path.read_text(encoding="utf-8")))


def waiting_lines(trainer: Any, updates: Iterator[Any]) -> dict[str, int]:
    """Return how often the host waits for the device in one update, by the line that makes it wait."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            trainer.step(next(updates))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return count_waits(caught)


def count_waits(caught: Iterable[Any]) -> dict[str, int]:
    """Return how often each line is named by the warnings about waits, the most frequent first."""
    lines: Counter[str] = Counter()
    for warning in caught:
        if "synchroniz" in str(warning.message):
            path = Path(warning.filename)
            in_project = path.is_relative_to(ROOT)
            name = path.relative_to(ROOT) if in_project else Path(*path.parts[-3:])
            lines[f"{name.as_posix()}:{warning.lineno}"] += 1
    return dict(lines.most_common())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_options(parser)
    parser.add_argument("--warm", type=int, default=6, help="updates before the recorded one")
    arguments = parser.parse_args()
    with trained(config_of(arguments.objective, arguments)) as (trainer, updates):
        for _ in range(arguments.warm):
            trainer.step(next(updates))
        found = analyse(record(trainer, updates, arguments.device))
        if arguments.device.startswith("cuda"):
            found["lines"] = waiting_lines(trainer, updates)
    print(json.dumps(found))
