"""Study why small masked LMs start slowly: which factor shortens the unigram plateau, one factor at a time.

    python -m benchmarks small_models [--sizes 2x64,2x128] [--only CONDITION...] [--seeds 1,2,3] [--minutes 60]
    python -m benchmarks small_models --report          # the table and the figure from the stored results

A small BERT trained on masked LM first learns how often each token occurs, and may then stay at that loss (the
unigram entropy of the text) for thousands of updates before it begins to use context. Every condition changes
one thing in one of two anchors: `published`, BERT as published (learned positions), and `neighbour`, which
differs in the positions only. Runs end when the running mean of the loss is 1 nat below the unigram entropy, or
after --updates. Results are kept in benchmarks/studies/small_models/results.jsonl, one line per run, so an
interrupted command resumes; runs use one thread each. docs/small-models.md reports the results.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
PAGE = HERE.parents[2] / "docs" / "small-models.md"
FIGURE = HERE.parents[2] / "docs" / "small-models.svg"

SIZES = {"2x64": (2, 64, 4), "2x128": (2, 128, 4), "4x256": (4, 256, 4)}  # layers, width, heads
ANCHORS = {
    "published": {"model.positions": "learned"},
    "neighbour": {"model.positions": "neighbour"},
}
LIMITS = {"published": 8000, "neighbour": 1500}  # updates; there are 1,576 in an epoch
LONG = 15_000
COMMON = {
    "task": "mlm",
    "criterion": "scaled_masked_lm",
    "criterion.output_bias": "zeros",
    "task.length": 64,
    "train.batch": 16,
    "model.dropout": 0.0,
    "model.attention_dropout": 0.0,
    "optimizer.lr": 3e-3,
    "schedule": "constant",
    "schedule.warmup": 100,
    "train.log_every": 1,
    "train.validate_every": 0,
    "train.save_every": 0,
    "train.threads": 1,
    "train.device": "cpu",
    "hooks.summary.baseline_tokens": 1000,
    "hooks.tensorboard.flush_seconds": 120,
}
# what differs from the anchor; the anchor itself is `-`
CONDITIONS: dict[str, dict[str, Any]] = {
    "-": {},
    "lr 3e-4": {"optimizer.lr": 3e-4},
    "lr 1e-3": {"optimizer.lr": 1e-3},
    "lr 1.5e-3": {"optimizer.lr": 1.5e-3},
    "lr 1e-2": {"optimizer.lr": 1e-2},
    "positions: relative, from 0": {"model.positions": "relative"},
    "positions: none": {"model.positions": "none"},
    "pre-LN": {"model.norm": "pre"},
    "initialisation 1/sqrt(fan-in)": {"model.initialisation": "fan_in"},
    "initialisation of torch": {"model.initialisation": "torch"},
    "output not tied": {"criterion.tied_output": False},
    "logits x 4": {"criterion.scale": 4.0},
    "logits x 1/4": {"criterion.scale": 0.25},
    "position vectors x 10": {"hooks.watch.scales": "{'*.position.weight': 10.0}"},
    "attention projections x 4": {"hooks.watch.scales": "{'*.query_key_value.weight': 4.0}"},
    "bias from unigram, no warm-up": {"criterion.output_bias": "unigram", "schedule.warmup": 0},
    "neighbour bias +2": {"hooks.watch.scales": "{'*.relative.table': 0.5}"},
    "neighbour bias +8": {"hooks.watch.scales": "{'*.relative.table': 2.0}"},
    "output bias from unigram": {"criterion.output_bias": "unigram"},
    "ratio 0.30": {"views.masked.ratio": 0.30},
    "ratio 0.50": {"views.masked.ratio": 0.50},
    "only [MASK]": {"views.masked.mask": 1.0, "views.masked.random": 0.0},
    "no warm-up": {"schedule.warmup": 0},
    "warm-up 500": {"schedule.warmup": 500},
    "beta2 0.98": {"optimizer.betas": "[0.9,0.98]"},
    "no clipping": {"train.clip": 0},
    "dropout 0.1": {"model.dropout": 0.1, "model.attention_dropout": 0.1},
    "batch 64": {"train.batch": 64},
    "SGD, lr 0.1": {"optimizer": "sgd", "optimizer.lr": 0.1},
    "LAMB, lr 1e-2": {"optimizer": "lamb", "optimizer.lr": 1e-2},
    "Muon": {"optimizer": "muon"},
    "Adafactor, lr 1e-2": {"optimizer": "adafactor", "optimizer.lr": 1e-2},
    "RAdam": {"optimizer": "radam"},
}
# conditions that make sense in one anchor only
NEEDS = {
    "position vectors x 10": "published",
    "neighbour bias +2": "neighbour",
    "neighbour bias +8": "neighbour",
}
# these change the positions, so they are the same in both anchors
NEEDS |= {"positions: relative, from 0": "published", "positions: none": "published"}


def done(results: Path) -> dict[tuple[str, str, str, int, int], dict[str, Any]]:
    """Return the finished runs by (size, anchor, condition, seed, limit of updates)."""
    if not results.exists():
        return {}
    records = map(json.loads, results.read_text(encoding="utf-8").splitlines())
    return {
        (r["size"], r["anchor"], r["condition"], r["seed"], r["limit"]): r for r in records
    }  # LONG is no other's limit


def arguments_of(
    size: str, anchor: str, condition: str, seed: int, updates: int, out: Path, stop: bool
) -> list[str]:
    layers, width, heads = SIZES[size]
    keys = {
        **COMMON,
        "model.layers": layers,
        "model.width": width,
        "model.heads": heads,
        **ANCHORS[anchor],
        **CONDITIONS[condition],
        "seed": seed,
        "train.updates": updates,
    }
    if not stop:
        keys |= {"schedule": "cosine"}  # a long run is one that ends
    flags = [
        word
        for name in ("task", "criterion", "optimizer", "schedule")
        if name in keys
        for word in (f"--{name}", str(keys.pop(name)))
    ]
    hook = [
        "hooks.watch.name=below_unigram",
        f"hooks.watch.out={out}",
        f"hooks.watch.stop={str(stop).lower()}",
    ]
    return [
        *flags,
        "--user-dir",
        str(HERE / "plugin"),
        *hook,
        *(f"{key}={value}" for key, value in keys.items()),
    ]


def run_one(
    size: str, anchor: str, condition: str, seed: int, updates: int, stop: bool
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "result.json"
        command = [
            sys.executable,
            "-m",
            "fwk.cli.train",
            "--run",
            f"{scratch}/run",
            *arguments_of(size, anchor, condition, seed, updates, out, stop),
        ]
        ended = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        key = {
            "size": size,
            "anchor": anchor,
            "condition": condition,
            "seed": seed,
            "limit": updates,
        }
        if not out.exists() or ended.returncode not in (0, 75):
            if "not finite" in ended.stderr:
                return {**key, "diverged": True, "crossed": {}}
            raise SystemExit(f"{' '.join(command)}\n{ended.stderr[-2000:]}")
        found = json.loads(out.read_text(encoding="utf-8"))
        curve = found.pop("curve")
        thin = max(1, len(curve) // 60)
        means = [round(statistics.mean(curve[i : i + thin]), 3) for i in range(0, len(curve), thin)]
        return {**key, **found, "curve_every": thin, "curve": means}


def cells(arguments: argparse.Namespace) -> Iterator[tuple[str, str, str, int]]:
    """Yield every condition with the first seed, then with the next seed."""
    for seed in arguments.seeds:
        for size in arguments.sizes:
            for anchor in arguments.anchors:
                for condition in arguments.only or CONDITIONS:
                    if NEEDS.get(condition, anchor) == anchor:
                        yield size, anchor, condition, seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=lambda text: text.split(","), default=list(SIZES))
    parser.add_argument("--anchors", type=lambda text: text.split(","), default=list(ANCHORS))
    parser.add_argument(
        "--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[1, 2, 3]
    )
    parser.add_argument("--only", nargs="*", choices=list(CONDITIONS))
    parser.add_argument(
        "--long",
        action="store_true",
        help=f"{LONG} updates with cosine decay to the end, whatever is reached",
    )
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="start no run after these"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--crossed-only", action="store_true", help="only where the first seed got 0.3 nats below"
    )
    parser.add_argument("--report", action="store_true", help="write the table and the figure")
    arguments = parser.parse_args()
    if arguments.report:
        from report import report

        report(done(arguments.results).values(), list(CONDITIONS), LONG, PAGE, FIGURE)
        return
    began = time.monotonic()
    limits = dict.fromkeys(ANCHORS, LONG) if arguments.long else LIMITS
    wanted = [
        cell for cell in cells(arguments) if (*cell, limits[cell[1]]) not in done(arguments.results)
    ]
    for number, cell in enumerate(wanted, start=1):
        if time.monotonic() - began > 60 * arguments.minutes:
            print(f"{len(wanted) - number + 1} runs left", flush=True)
            return
        known, limit = done(arguments.results), limits[cell[1]]
        if (*cell, limit) in known:  # another process did it
            continue
        first = known.get((*cell[:3], arguments.seeds[0], limit), {})
        if (
            arguments.crossed_only
            and cell[3] != arguments.seeds[0]
            and cell[2] != "-"
            and not first.get("crossed")
        ):
            continue
        record = run_one(*cell, limit, stop=not arguments.long)
        with open(arguments.results, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        told = (
            "diverged"
            if record.get("diverged")
            else f"{record['crossed']}, {record['below_at_end']:+.2f} at {record['updates']}"
        )
        print(f"[{number}/{len(wanted)}] {' | '.join(map(str, cell))}: {told}", flush=True)
