"""Measure what a device can do at most: large matrix products, and copies within its memory.

    python -m benchmarks matrix_product [--device cuda] [--size 8192]

Prints JSON: the device, the versions of the software, the rate of one matrix product in bf16, fp16 and fp32 (on random
numbers: a device may run faster on zeros), and the bandwidth of a copy, with read and written bytes counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

PACKAGES = ("torch", "triton", "transformers", "accelerate", "numpy", "omegaconf")
REPETITIONS, CALLS = 9, 4  # measurements, and calls that are timed as one


def seconds_of(call: Callable[[], Any], device: str) -> float:
    """Return the median seconds of one call, after two calls that are not timed."""
    times = []
    for _ in range(REPETITIONS + 2):
        wait(device)
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        wait(device)
        times.append((time.perf_counter() - start) / CALLS)
    return statistics.median(times[2:])


def wait(device: str) -> None:
    """Wait until the device has done everything that was asked of it."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def product_rate(name: str, device: str, size: int) -> float:
    """Return the FLOP/s of one square matrix product. name: a number format of `train.precision`."""
    import torch

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[name]
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2.0 * size**3 / seconds_of(lambda: a @ b, device)


def copy_rate(device: str, size: int) -> float:
    """Return the bytes per second of a copy within the device's memory, read and written bytes together."""
    import torch

    a = torch.randn(16 * size * size, device=device)  # 4 GB at 8192: far larger than any cache
    b = torch.empty_like(a)
    return 2.0 * a.numel() * a.element_size() / seconds_of(lambda: b.copy_(a), device)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter here, of those that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def driver() -> str | None:
    """Return the version of NVIDIA's driver; None where `nvidia-smi` does not tell."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.split()
    return lines[0] if done.returncode == 0 and lines else None


def facts(device: str) -> dict[str, Any]:
    """Return what the device is, in words and numbers; nothing names the machine."""
    import torch

    found: dict[str, Any] = {
        "device": f"{os.cpu_count()} CPU cores ({platform.machine()})",
        "versions": {**versions(), "torch": str(torch.__version__)},
        "cpu_cores": os.cpu_count(),
    }
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(torch.device(device))
        found |= {
            "device": properties.name,
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "capability": [properties.major, properties.minor],
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": driver(),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, default=8192, help="rows and columns of the matrices")
    arguments = parser.parse_args()
    found = facts(arguments.device)
    for name in ("bf16", "fp16", "fp32"):
        found[name] = product_rate(name, arguments.device, arguments.size)
    found["copy"] = copy_rate(arguments.device, arguments.size)
    print(json.dumps(found))
