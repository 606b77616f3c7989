"""A picture of a run, from its `metrics.jsonl` (and `summary.json`, for the unigram and bigram lines).

    python -m fwk.reporting.figure RUN OUT.svg

Left: masked-LM loss over updates, training and validation, beside what reads no context. Right: everything else that
the objective adds up. Needs the extra `plots` (matplotlib).
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fwk.errors import DataError, UserError
from fwk.hooks.jsonl import read_metrics

TRAIN, VALID, LINE = "#9db8d9", "#1f4e8c", "#777777"
OTHER = ("#b3541e", "#2f7d4f", "#7a4b94", "#8a7a1f")


def draw_run(
    metrics_path: str | Path, out: str | Path, baselines: Mapping[str, float] | None = None
) -> Path:
    """Draw `metrics.jsonl` into `out` (.svg, .png or .pdf). baselines: "unigram" and "bigram" in nats; without them
    those of the `summary.json` beside the metrics, if there is one. Raises DataError when there is nothing to draw."""
    metrics_path, out = Path(metrics_path), Path(out)
    if not metrics_path.is_file():
        raise DataError(f"there is no file {metrics_path} to draw")
    train, valid = curves(read_metrics(metrics_path))
    if not train:
        raise DataError(f"{metrics_path} holds no training line with a loss")
    if baselines is None:
        baselines = _beside(metrics_path)
    lm = [name for name in train if is_masked_lm(name)]
    main = lm or ["loss"]
    others = [name for name in train if name not in main and name != "loss"][: len(OTHER)]

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    settings = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "fwk",
    }
    with plt.rc_context(settings):
        wide = {"ncols": 2, "figsize": (8, 3), "width_ratios": [3, 2]}
        figure, axes = plt.subplots(squeeze=False, **(wide if others else {"figsize": (5, 3)}))
        left = axes[0][0]
        for name in main:
            left.plot(
                *train[name],
                color=TRAIN,
                linewidth=1,
                label="training" if name == main[0] else None,
            )
        measured = [n for n in valid if n in main or is_masked_lm(n)]
        for name in sorted(measured, key=len)[
            :1
        ]:  # 'masked_lm', the mean of 'masked_lm_a' and 'masked_lm_b', if there
            left.plot(
                *valid[name],
                color=VALID,
                linewidth=1.6,
                marker="o",
                markersize=3,
                label="validation",
            )
        for name, value in (baselines or {}).items():
            if (
                name in ("unigram", "bigram")
                and isinstance(value, (int, float))
                and math.isfinite(value)
            ):
                left.axhline(value, color=LINE, linewidth=0.8, linestyle="--")
                left.annotate(
                    f"{name} {value:.2f}",
                    (1, value),
                    xycoords=("axes fraction", "data"),
                    xytext=(0, 2),
                    textcoords="offset points",
                    ha="right",
                    va="bottom",
                    color=LINE,
                    fontsize=8,
                )
        left.set(
            xlabel="update",
            ylabel="nats per token" if lm else "loss",
            title="masked LM" if lm else "loss",
        )
        left.legend(frameon=False, fontsize=8)
        if others:
            right = axes[0][1]
            for name, colour in zip(others, OTHER):
                right.plot(*train[name], color=colour, linewidth=1.2, label=name)
            right.set(xlabel="update", title="other terms")
            right.set_ylim(bottom=min(0.0, right.get_ylim()[0]))
            right.legend(frameon=False, fontsize=8)
        figure.tight_layout()
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=160, metadata={"Date": None} if out.suffix == ".svg" else None)
        plt.close(figure)
    return out


Curve = tuple[list[int], list[float]]


def curves(records: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Curve], dict[str, Curve]]:
    """Records -> training curves (loss and terms) and validation curves (metrics), each (updates, values) by name."""
    train: dict[str, Curve] = {}
    valid: dict[str, Curve] = {}
    for record in records:
        if "event" in record or "update" not in record:
            continue
        if record.get("split") == "train":
            into, values = train, {"loss": record.get("loss"), **(record.get("terms") or {})}
        elif record.get("split") == "valid":
            into, values = valid, record.get("metrics") or {}
        else:
            continue
        for name, value in values.items():
            if isinstance(value, (int, float)):
                updates, numbers = into.setdefault(name, ([], []))
                updates.append(record["update"])
                numbers.append(value)
    return train, valid


def is_masked_lm(name: str) -> bool:
    """Whether a term is a masked-LM loss, by the last part of its name ('semantic_augment/masked_lm_a')."""
    return name.rsplit("/", 1)[-1].startswith("masked_lm")


def _beside(metrics_path: Path) -> dict[str, float]:
    path = metrics_path.with_name("summary.json")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if len(arguments) != 2:
        print("usage: python -m fwk.reporting.figure RUN OUT.svg", file=sys.stderr)
        return 2
    where = Path(arguments[0])
    try:
        print(draw_run(where / "metrics.jsonl" if where.is_dir() else where, arguments[1]))
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
