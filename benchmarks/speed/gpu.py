"""Measure a CUDA device: masked LM at BERT's sizes, eager and compiled.

HF `Trainer` compiled and the device's own matrix products are measured beside it.

    python -m benchmarks gpu [--minutes 9] [--quick] [--write]

One table: milliseconds per update, tokens per second, TFLOP/s (matrix products of the update as it is defined,
forward and twice that backward, logits at the predicted positions only) and their share of the rate of one
large matrix product measured in this run in the same number format. HF `Trainer` makes the logits of all
positions; its TFLOP/s are given for the same useful work, so that rates compare as speeds do. Each row is
measured in its own process; rows for which the time did not suffice are named. --quick runs the program on the
CPU with toy shapes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

from benchmarks.common import table, write
from benchmarks.speed.contenders import flops

# name: layers, width, length, batch
SHAPES = {
    "base, 128": (12, 768, 128, 256),
    "base, 512": (12, 768, 512, 64),
    "large, 512": (24, 1024, 512, 32),
}
QUICK = {"toy, 32": (1, 64, 32, 4)}


def matmul_rate(precision: str, device: str, size: int) -> float:
    """Return the FLOP/s of one square matrix product, the best of several."""
    import torch

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(12):
        wait(device)
        start = time.perf_counter()
        for _ in range(4):
            a @ b
        wait(device)
        best = min(best, (time.perf_counter() - start) / 4)
    return 2.0 * size**3 / best


def wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def measure(
    contender: str,
    shape: tuple[int, int, int, int],
    precision: str,
    compiled: bool,
    device: str,
    limit: float,
    workers: int,
) -> dict[str, float] | str:
    """Return the output of `contenders`, or the reason for its absence."""
    layers, width, length, batch = shape
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "contenders",
        contender,
        "--layers",
        layers,
        "--width",
        width,
        "--length",
        length,
        "--batch",
        batch,
        "--precision",
        precision,
        "--device",
        device,
        "--updates",
        20,
        "--warm",
        6,
        "--workers",
        workers,
        "--threads",
        0,
        *(["--compile"] if compiled else []),
    ]
    try:
        ended = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return f"not ready within {limit:.0f} s"
    if ended.returncode:
        return "failed: " + (ended.stderr.strip().splitlines() or ["no message"])[-1][:160]
    return json.loads(ended.stdout.strip().splitlines()[-1])


def plan(shapes: dict[str, tuple[int, int, int, int]]) -> list[tuple[str, str, str, bool]]:
    """Return (shape, contender, precision, compiled), the most important first."""
    first, *others = shapes
    rows = [
        (first, "fwk", "bf16", True),
        (first, "hf", "bf16", True),
        (first, "fwk", "bf16", False),
    ]
    for shape in others:
        rows += [(shape, "fwk", "bf16", True), (shape, "fwk", "bf16", False)]
    rows += [(shape, "hf", "bf16", True) for shape in others]
    return [*rows, (first, "fwk", "fp16", True), (first, "fwk", "fp16", False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--minutes", type=float, default=9.0, help="the time that everything may take"
    )
    parser.add_argument(
        "--workers", type=int, default=4, help="loader processes of both contenders"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="toy shapes on the CPU: tries the program, measures nothing",
    )
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes - 10
    device = "cpu" if arguments.quick else "cuda"
    import torch

    if not arguments.quick and not torch.cuda.is_available():
        raise SystemExit(
            "benchmarks/gpu.py needs a CUDA device, and torch sees none; --quick tries it on the CPU"
        )
    peak = {p: matmul_rate(p, device, 256 if arguments.quick else 8192) for p in ("bf16", "fp16")}
    print(
        "matrix product, TFLOP/s: "
        + ", ".join(f"{p} {rate / 1e12:.1f}" for p, rate in peak.items()),
        flush=True,
    )
    shapes = QUICK if arguments.quick else SHAPES
    rows, left = [], []
    speed: dict[tuple[str, str], float] = {}
    for shape, contender, precision, compiled in plan(shapes):
        name = (
            f"{'`fwk`' if contender == 'fwk' else 'HF `Trainer`'}{', compiled' if compiled else ''}"
        )
        if end - time.monotonic() < 25:
            left.append(f"{shape} {name} {precision}")
            continue
        workers = 0 if arguments.quick else arguments.workers
        found = measure(
            contender,
            shapes[shape],
            precision,
            compiled,
            device,
            min(150.0, end - time.monotonic()),
            workers,
        )
        if isinstance(found, str):
            rows.append([shape, name, precision, found, "", "", "", ""])
        else:
            layers, width, length, batch = shapes[shape]
            rate = flops(layers, width, length, batch, -(-15 * length // 100)) / found["wall"]
            if contender == "hf":
                speed[shape, precision] = found["wall"]
            rows.append(
                [
                    shape,
                    name,
                    precision,
                    f"{found['wall'] * 1e3:.1f}",
                    f"{batch * length / found['wall'] / 1e3:.0f}",
                    f"{rate / 1e12:.1f}",
                    f"{rate / peak[precision]:.2f}",
                    found["wall"],
                ]
            )
        print(*rows[-1][:7], sep=" | ", flush=True)
    for row in rows:
        beside = speed.get((row[0], row[2]))
        row[-1] = f"{beside / row[-1]:.2f}" if beside and row[-1] else ""
    made = table(
        [
            "size, length",
            "contender",
            "format",
            "ms per update",
            "thousand tokens/s",
            "TFLOP/s",
            "of the matrix product",
            "times HF's speed",
        ],
        rows,
    )
    if left:
        made += f"\n\nLeft out for time: {'; '.join(left)}."
    print(made)
    if arguments.write and not arguments.quick:
        write("gpu", made, facts={"peak": f"{peak['bf16'] / 1e12:.0f} TFLOP/s (bf16)"})
