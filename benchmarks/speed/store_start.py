"""Measure the time from the command to the first update on a token store of 10^9 tokens and on one of 10^6.

    python -m benchmarks store_start [--tokens 1000000000] [--repetitions 5] [--folder DIR] [--write]

A small store is made of the demo corpus (of its first million tokens); the large one repeats its shard in
separate files (2 bytes per token, 2 GB), with all document and sentence offsets. `fwk-train` runs on each in
turn, one process per measurement, with a tiny model, up to the end of its first update; wall time. The page
cache is warm for both (the large store was just written), so the result shows work that grows with the store,
not the disk.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common import ratio, table, write
from fwk.data import store as stores
from fwk.data.demo import corpus
from fwk.data.preprocess import Options, TokenizerSpec, build_store
from fwk.data.progress import Progress
from fwk.files import digest

STOP = """
import os, time
from fwk import hookimpl

@hookimpl
def fwk_update_end(run):
    print("updated at", time.time(), flush=True)
    os._exit(0)
"""
SHARD = 4_000_000  # tokens, as many as fwk-preprocess puts into one


def small_store(folder: Path, tokens: int) -> Path:
    """Return a store of about `tokens` tokens in one shard."""
    text = folder / "text.txt"
    text.write_bytes(corpus(Progress(True)).read_bytes()[: 5 * tokens])
    return build_store(
        [text],
        folder / "small",
        TokenizerSpec(kind="unigram", size=4096),
        options=Options(shard_size=1 << 40, sample_size=1 << 20),
    )


def large_store(small: Path, folder: Path, tokens: int) -> Path:
    """Return a store of `tokens` tokens that repeats the training shard of `small` in shards of SHARD tokens."""
    shutil.copytree(small, folder)
    manifest = json.loads((small / stores.MANIFEST).read_text())
    split = manifest["splits"]["train"]
    base = split["shards"][0]
    width = np.dtype(manifest["dtype"]).itemsize
    copies = max(1, SHARD // base["tokens"])
    parts = {}
    for part in stores.PARTS:
        dtype = manifest["dtype"] if part == "tokens" else "uint32"
        values = np.fromfile(
            small / f"{base['name']}.{part}", dtype=np.dtype(dtype).newbyteorder("<")
        )
        if part == "tokens":
            parts[part] = np.tile(values, copies)
        else:
            starts = (
                np.arange(copies, dtype=np.uint32)[:, None] * np.uint32(base["tokens"])
                + values[:-1]
            ).reshape(-1)
            parts[part] = np.append(starts, np.uint32(copies * base["tokens"]))
    entry = {**base, **{part: copies * base[part] for part in stores.PARTS}}
    count = -(-tokens // entry["tokens"])
    if shutil.disk_usage(folder).free < 1.2 * count * entry["tokens"] * width:
        raise SystemExit(
            f"{folder}: the disk is too small for {count * entry['tokens'] * width / 1e9:.1f} GB; name another --folder"
        )
    shards = []
    for number in range(count):
        name = f"train-{number:05d}"
        for part, values in parts.items():
            values.tofile(folder / f"{name}.{part}")
        if number == 0:
            entry["sha256"] = {part: digest(folder / f"{name}.{part}") for part in parts}
        shards.append({**entry, "name": name})
    manifest["splits"]["train"] = {
        "shards": shards,
        **{part: count * entry[part] for part in stores.PARTS},
    }
    manifest["fingerprint"] = stores.fingerprint_of(manifest)
    np.save(folder / "unigrams.npy", np.load(small / "unigrams.npy") * count * copies)
    (folder / stores.MANIFEST).write_text(json.dumps(manifest))
    return folder


def start(store: Path, folder: Path, blocks: str) -> float:
    """Return the seconds from the command to the end of the first update."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "fwk.cli.train",
        "--task",
        "mlm",
        f"task.data={store}",
        f"task.blocks={blocks}",
        "--run",
        str(folder / "run"),
        "--user-dir",
        str(folder / "stop"),
        "train.updates=10",
        "train.batch=8",
        "model.layers=1",
        "model.width=16",
        "model.heads=2",
        "train.device=cpu",
    ]
    began = time.time()
    done = subprocess.run(command, capture_output=True, text=True)
    if "updated at" not in done.stdout:
        raise SystemExit(f"{' '.join(command)} did not reach an update: {done.stderr[-2000:]}")
    return float(done.stdout.split("updated at")[1].split()[0]) - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=1_000_000_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--folder",
        help="where the stores are made, and removed again (default: the system's temporary folder)",
    )
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/benchmarks.md"
    )
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as made_in:
        folder = Path(made_in)
        (folder / "stop").mkdir()
        (folder / "stop" / "stop.py").write_text(STOP)
        small = small_store(folder, 1_000_000)
        large = large_store(small, folder / "large", arguments.tokens)
        for blocks in ("contiguous", "within"):
            times: list[list[float]] = [[], []]
            for repetition in range(arguments.repetitions + 1):
                for which in (0, 1) if repetition % 2 else (1, 0):
                    took = start((small, large)[which], folder, blocks)
                    if repetition:  # the first of each fills caches
                        times[which].append(took)
            middle, low, high = ratio(times[1], times[0])
            sizes = [stores.Store(store).split("train").tokens for store in (small, large)]
            rows.append(
                [
                    blocks,
                    *(
                        f"{statistics.median(own):.2f} ({size:.1e} tokens)"
                        for own, size in zip(times, sizes)
                    ),
                    f"{middle:.3f} ({low:.3f} to {high:.3f})",
                ]
            )
    made = table(["blocks", "small store, s", "large store, s", "ratio (quartiles)"], rows)
    print(made)
    if arguments.write:
        write("store_start", made)
