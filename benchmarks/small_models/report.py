"""The table and the figure of the study of small models, from its results."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]
BEGIN, END = "<!-- results -->\n", "<!-- end -->"
COLOURS = {"published": "#b3541e", "neighbour": "#1f4e8c"}


def report(records: Iterable[Record], conditions: Sequence[str], page: Path, figure: Path) -> None:
    """Writes the tables between the marks of `page`, and the picture."""
    records = list(records)
    limit = min(record["limit"] for record in records)
    short = [r for r in records if r["limit"] == limit]
    parts = [tables(short, conditions, limit), long_runs([r for r in records if r["limit"] > limit])]
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    page.write_text(f"{before}{BEGIN}{''.join(parts).strip()}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    draw(short, conditions, figure, limit)


def tables(records: Sequence[Record], conditions: Sequence[str], limit: int) -> str:
    """One table per size: median (lowest to highest) of the updates to 0.3 and 1.0 nats below unigram, and the seconds."""
    text = ""
    for size in dict.fromkeys(r["size"] for r in records):
        of_size = [r for r in records if r["size"] == size]
        seeds = len({r["seed"] for r in of_size})
        text += (f"**{size}** ({of_size[0].get('parameters', 0):,} parameters), {seeds} seed{'s' * (seeds > 1)}, at most {limit} "
                 "updates\n\n| condition | published: to 0.3 | to 1.0 | s | at the end | neighbour: to 0.3 | to 1.0 | s | at the end |\n"
                 "|---|---|---|---|---|---|---|---|---|\n")
        for condition in conditions:
            cells = []
            for anchor in COLOURS:
                runs = [r for r in of_size if r["anchor"] == anchor and r["condition"] == condition]
                cells += [crossing(runs, "0.3", 0), crossing(runs, "1.0", 0), crossing(runs, "1.0", 1), ending(runs)]
            if any(cells):
                text += f"| {'the anchor itself' if condition == '-' else condition} | {' | '.join(cells)} |\n"
        text += "\n"
    return text


def crossing(runs: Sequence[Record], bar: str, which: int) -> str:
    """Median (lowest to highest); a run that did not get there counts as later than all others."""
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
    text = ("**Ten times as long** (cosine decay to the end; nats below unigram entropy, training and validation)\n\n"
            "| size | condition | anchor | updates | training, last | validation loss |\n|---|---|---|---|---|---|\n")
    for r in sorted(records, key=lambda r: (r["size"], r["condition"], r["anchor"], r["seed"])):
        valid = r["valid"].get("loss")
        text += (f"| {r['size']} | {r['condition']} | {r['anchor']} | {r['updates']} | {r['below_at_end']:+.2f} | "
                 f"{valid:.3f} |\n" if valid else "")
    return text


def draw(records: Sequence[Record], conditions: Sequence[str], figure: Path, limit: int) -> None:
    """For each size: when each condition was 0.3 (open) and 1.0 (full) nats below unigram, by anchor."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    sizes = list(dict.fromkeys(r["size"] for r in records))
    shown = [c for c in conditions if any(r["condition"] == c for r in records)]
    settings = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "fwk"}
    with plt.rc_context(settings):
        drawn, axes = plt.subplots(1, len(sizes), figsize=(3 + 3 * len(sizes), 0.22 * len(shown) + 1), sharey=True, squeeze=False)
        for axis, size in zip(axes[0], sizes):
            for anchor, colour in COLOURS.items():
                for bar, face in (("0.3", "white"), ("1.0", colour)):
                    points = [(r["crossed"][bar][0], len(shown) - 1 - shown.index(r["condition"])) for r in records
                              if r["size"] == size and r["anchor"] == anchor and r["condition"] in shown and bar in r["crossed"]]
                    if points:
                        shift = 0.15 if anchor == "neighbour" else -0.15
                        axis.scatter([x for x, _ in points], [y + shift for _, y in points], s=14, facecolor=face, edgecolor=colour,
                                     linewidth=0.9, label=f"{anchor}, {bar} nats")
            axis.set(title=size, xlabel="updates", xlim=(0, limit))
            axis.grid(axis="y", linewidth=0.3)
        axes[0][0].set_yticks(range(len(shown)), ["the anchor itself" if c == "-" else c for c in reversed(shown)])
        handles, labels = axes[0][0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="lower center", ncols=4, frameon=False)
        drawn.tight_layout(rect=(0, 0.05, 1, 1))
        drawn.savefig(figure, metadata={"Date": None})
        plt.close(drawn)
