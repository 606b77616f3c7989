"""Measure how sequence contrast changes the geometry of [CLS] features.

The mean cosine of positive and of negative pairs while COCO-LM trains, with and without the contrast.

    python -m benchmarks cosines [--updates 600] [--folder DIR] [--only with|without] [--write]

COCO-LM at two layers of 128 on the demo corpus, twice from the same weights and draws: the criterion
`sequence_contrastive` has weight 1, or weight 0, where it only measures. Positive pairs are the corrupted and
the cropped view of a sequence, negative ones all others of an update. Runs are kept in the folder, so an
interrupted command resumes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import fwk
from benchmarks.common import ROOT, table, write
from fwk.hooks.jsonl import read_metrics

FIGURE = ROOT / "docs" / "coco-lm.svg"
KINDS = {"with": 1.0, "without": 0.0}
COLOURS = {"with": "#1f4e8c", "without": "#b3541e"}
PAIRS = {"positive": "-", "negative": "--"}


def config_of(weight: float, updates: int) -> dict[str, Any]:
    return {
        "task": {"name": "mlm"},
        "model": {"name": "bert", "initialisation": "fan_in"},
        "optimizer": {"name": "adamw", "lr": 1e-3},
        "criterion": {"corrective_lm": {}, "sequence_contrastive": {"weight": weight}},
        "views": {"corrupted": {"network": {"layers": 0.5}}},
        "hooks": {"summary": None},
        "train": {"updates": updates, "log_every": 20, "validate_every": 0, "threads": 1},
    }


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return (update, mean cosine) of each kind of pair, read from the training lines."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in read_metrics(run / "metrics.jsonl"):
        for pair in PAIRS:
            name = f"sequence_contrastive/{pair}_cosine"
            if line.get("split") == "train" and name in line.get("metrics", {}):
                found.setdefault(pair, []).append((line["update"], line["metrics"][name]))
    return found


def draw(runs: dict[str, dict[str, list[tuple[int, float]]]], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    settings = {
        "font.size": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "fwk",
        "svg.fonttype": "none",
    }
    with plt.rc_context(settings):
        drawn, axis = plt.subplots(figsize=(5.2, 3.0))
        for kind, pairs in runs.items():
            for pair, points in pairs.items():
                axis.plot(
                    *zip(*points),
                    PAIRS[pair],
                    color=COLOURS[kind],
                    linewidth=1.4,
                    label=f"{pair} pairs, {kind} the contrast",
                )
        axis.set(
            xlabel="updates", ylabel="mean cosine of [CLS] features", xlim=(0, None), ylim=(0, 1)
        )
        axis.grid(axis="y", linewidth=0.3)
        axis.legend(frameon=False)
        drawn.tight_layout()
        drawn.savefig(out, metadata={"Date": None})
        plt.close(drawn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "fwk-cosines")
    parser.add_argument("--only", choices=list(KINDS), help="train this one and stop")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if arguments.updates < 80:
        parser.error(
            f"--updates: the table has four marks of 20 updates, expected at least 80, got {arguments.updates}"
        )
    for kind in [arguments.only] if arguments.only else KINDS:
        fwk.train(config_of(KINDS[kind], arguments.updates), run=str(arguments.folder / kind))
    if arguments.only:
        return
    runs = {kind: curves(arguments.folder / kind) for kind in KINDS}
    marks = [arguments.updates * share // 4 // 20 * 20 for share in (1, 2, 3, 4)]
    rows = [
        [f"{pair} pairs, {kind} the contrast", *(f"{dict(points)[mark]:.3f}" for mark in marks)]
        for kind, pairs in runs.items()
        for pair, points in pairs.items()
    ]
    made = table(["mean cosine (of 20 updates) at update", *(str(mark) for mark in marks)], rows)
    print(made)
    if arguments.write:
        draw(runs, FIGURE)
        write(
            "cosines",
            made + "\n\n![Mean cosine of positive and negative pairs over updates](coco-lm.svg)",
        )
