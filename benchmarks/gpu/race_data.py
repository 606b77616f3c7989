"""Prepare what the race of the GPU session reads: a token store of English Wikipedia, and BLiMP's pairs.

    python -m benchmarks race_data [--folder benchmarks/gpu/carried/text]

The text lies beside the repository (`../shared/data`); without it the program ends. The folder is ignored by git and is
copied to the machine with the GPU, so its size is bounded. A store that is complete is kept.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import DATA, ROOT

FOLDER = ROOT / "benchmarks" / "gpu" / "carried" / "text"
STORE, PAIRS = "store", "pairs.jsonl.xz"
MOST_BYTES = 40_000_000
VOCABULARY = 16_384


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def prepare(folder: Path) -> int:
    """Make the store and copy the pairs; return the bytes of both together."""
    from fwk.cli.preprocess import main as fwk_preprocess

    text = DATA / "text"
    folder.mkdir(parents=True, exist_ok=True)
    status = fwk_preprocess(
        [
            str(text / "wikipedia-en.train.txt.xz"),
            *("--valid", str(text / "wikipedia-en.valid.txt.xz")),
            *("--output", str(folder / STORE)),
            *("--tokenizer", "bpe"),
            *("--vocabulary", str(VOCABULARY)),
        ]
    )
    if status:
        raise SystemExit(status)
    shutil.copyfile(DATA / "blimp-100x67.jsonl.xz", folder / PAIRS)
    return size_of(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    folder = parser.parse_args(arguments).folder
    if not DATA.is_dir():
        print(f"There is no {DATA}, the folder of real data.", file=sys.stderr)
        return 2
    size = prepare(folder)
    print(f"{folder}: {size / 1e6:.1f} MB")
    if size > MOST_BYTES:
        print(f"The folder may have at most {MOST_BYTES / 1e6:.0f} MB.", file=sys.stderr)
        return 1
    return 0
