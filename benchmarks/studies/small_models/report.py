"""Write the table and the figure of the study of small models from its results."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]
BEGIN, END = "<!-- results -->\n", "<!-- end -->"
COLOURS = {"neighbour": "#1f4e8c", "published": "#b3541e"}


def report(
    records: Iterable[Record], conditions: Sequence[str], long: int, page: Path, figure: Path
) -> None:
    """Write the tables between the marks of `page`, and the figure. long: updates of the long runs."""
    records = list(records)
    short = [r for r in records if r["limit"] != long]
    parts = [table(short, conditions, anchor) for anchor in COLOURS] + [
        long_runs([r for r in records if r["limit"] == long])
    ]
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    page.write_text(
        f"{before}{BEGIN}{''.join(parts).strip()}\n{END}{rest.partition(END)[2]}", encoding="utf-8"
    )
    draw(short, conditions, figure)


def table(records: Sequence[Record], conditions: Sequence[str], anchor: str) -> str:
    """Return the median (range) of the updates to 0.3 and 1.0 nats below unigram, by size, with the seconds."""
    records = [r for r in records if r["anchor"] == anchor]
    if not records:
        return ""
    sizes = list(dict.fromkeys(r["size"] for r in records))
    heads = [f"{size}: seeds | to 0.3 | to 1.0 | s | at the end" for size in sizes]
    text = (
        f"**{anchor}**, at most {max(r['limit'] for r in records):,} updates\n\n| condition | {' | '.join(heads)} |\n"
        f"|---{'|---' * 5 * len(sizes)}|\n"
    )
    for condition in conditions:
        cells = []
        for size in sizes:
            runs = [r for r in records if r["size"] == size and r["condition"] == condition]
            cells += [
                str(len(runs) or ""),
                crossing(runs, "0.3", 0),
                crossing(runs, "1.0", 0),
                crossing(runs, "1.0", 1),
                ending(runs),
            ]
        if any(cells):
            text += f"| {'the anchor itself' if condition == '-' else condition} | {' | '.join(cells)} |\n"
    return text + "\n"


def crossing(runs: Sequence[Record], bar: str, which: int) -> str:
    """Return the median (range); a run that never reached the level counts as later than all others."""
    if not runs:
        return ""
    found = sorted(r["crossed"][bar][which] if bar in r["crossed"] else float("inf") for r in runs)
    middle = found[len(found) // 2]
    if middle == float("inf"):
        reached = sum(value < middle for value in found)
        return f"{reached} of {len(found)}" if reached else "no"
    if which == 1:
        return f"{middle:.0f}"
    last = "no" if found[-1] == float("inf") else f"{found[-1]:.0f}"
    return f"{middle:.0f}" if len(found) == 1 else f"{middle:.0f} ({found[0]:.0f} to {last})"


def ending(runs: Sequence[Record]) -> str:
    if not runs:
        return ""
    if all(r.get("diverged") for r in runs):
        return "diverged"
    return f"{statistics.median(r['below_at_end'] for r in runs if not r.get('diverged')):+.2f}"


def long_runs(records: Sequence[Record]) -> str:
    if not records:
        return ""
    text = (
        "**Ten times as long** (cosine decay to the end; nats below unigram entropy, training and validation)\n\n"
        "| size | condition | anchor | updates | training, last | validation loss |\n|---|---|---|---|---|---|\n"
    )
    for r in sorted(records, key=lambda r: (r["size"], r["condition"], r["anchor"], r["seed"])):
        valid = r["valid"].get("loss")
        text += (
            f"| {r['size']} | {r['condition']} | {r['anchor']} | {r['updates']} | {r['below_at_end']:+.2f} | "
            f"{valid:.3f} |\n"
            if valid
            else ""
        )
    return text


def draw(records: Sequence[Record], conditions: Sequence[str], figure: Path) -> None:
    """Draw when each condition was 0.3 (open) and 1.0 (full) nats below unigram, one point per seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = list(
        dict.fromkeys(
            (r["anchor"], r["size"])
            for r in sorted(records, key=lambda r: list(COLOURS).index(r["anchor"]))
        )
    )
    shown = [c for c in conditions if any(r["condition"] == c for r in records)]
    settings = {
        "font.size": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "fwk",
        "svg.fonttype": "none",
    }
    with plt.rc_context(settings):
        drawn, axes = plt.subplots(
            1,
            len(panels),
            figsize=(2 + 2.4 * len(panels), 0.2 * len(shown) + 1.2),
            sharey=True,
            squeeze=False,
        )
        for axis, (anchor, size) in zip(axes[0], panels):
            inside = [r for r in records if (r["anchor"], r["size"]) == (anchor, size)]
            for y, condition in enumerate(reversed(shown)):
                runs = [r for r in inside if r["condition"] == condition]
                if runs and not any(r["crossed"] for r in runs):
                    axis.text(
                        0.05 * runs[0]["limit"],
                        y,
                        "not within the limit",
                        fontsize=6,
                        va="center",
                        color="grey",
                        backgroundcolor="white",
                    )
                for bar, face in (("0.3", "white"), ("1.0", COLOURS[anchor])):
                    points = [r["crossed"][bar][0] for r in runs if bar in r["crossed"]]
                    axis.scatter(
                        points,
                        [y] * len(points),
                        s=14,
                        facecolor=face,
                        edgecolor=COLOURS[anchor],
                        linewidth=0.9,
                    )
            axis.set(
                title=f"{anchor}, {size}",
                xlabel="updates",
                xlim=(0, max(r["limit"] for r in inside)),
            )
            axis.grid(axis="y", linewidth=0.3)
        axes[0][0].set_yticks(
            range(len(shown)), ["the anchor itself" if c == "-" else c for c in reversed(shown)]
        )
        for bar, face in (("0.3", "white"), ("1.0", "grey")):
            axes[0][0].scatter(
                [], [], s=14, facecolor=face, edgecolor="grey", label=f"{bar} nats below unigram"
            )
        drawn.legend(
            *axes[0][0].get_legend_handles_labels(), loc="lower center", ncols=2, frameon=False
        )
        drawn.tight_layout(rect=(0, 0.04, 1, 1))
        drawn.savefig(figure, metadata={"Date": None})
        plt.close(drawn)
