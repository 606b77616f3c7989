"""A figure of a run, drawn from its `metrics.jsonl` and, if it exists, its `summary.json`.

    python -m fwk.reporting.figure [--overwrite] RUN OUT.svg

Left: the main loss term over updates, in training and validation, with the unigram and bigram baselines of the summary.
Right: all other terms. The main term is the one that the summary names, or else the first that the run logged.

Needs the extra `plots` (matplotlib).
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fwk.contracts.json_files import read_object
from fwk.contracts.plain import PlainDict, PlainMapping
from fwk.errors import DataError, UserError
from fwk.files import user_path
from fwk.files.outputs import open_output
from fwk.hooks.jsonl import read_metrics

if TYPE_CHECKING:  # matplotlib is optional
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN, VALID, BASELINE = "#9db8d9", "#1f4e8c", "#777777"
OTHER = ("#b3541e", "#2f7d4f", "#7a4b94", "#8a7a1f")
BASELINES = ("unigram", "bigram")
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "fwk",  # the same figure is the same file
}

Curve = tuple[list[int], list[float]]  # updates, values


@dataclass(frozen=True)
class Curves:
    """The curves of a run, sorted into the two panels of the figure."""

    term: str  # the main loss term, without its component; 'loss' where the run has no terms
    train: Mapping[str, Curve]  # of the main term and its variants
    valid: Curve | None  # of the main term
    others: Mapping[str, Curve]  # of all other terms, in training


def draw_run(
    metrics_path: str | Path,
    out: str | Path,
    baselines: Mapping[str, float] | None = None,
    overwrite: bool = False,
) -> Path:
    """Draw `metrics.jsonl` into `out` (.svg, .png or .pdf), and return `out`.

    baselines: "unigram" and "bigram" in nats per token; by default those of the `summary.json` in the same folder.
    overwrite: replace a file. Raises DataError where there is nothing to draw, and UserError where `out` cannot be
    written.
    """
    metrics_path, out = user_path(metrics_path), user_path(out)
    if not metrics_path.is_file():
        raise DataError(f"there is no file {metrics_path} to draw")
    train, valid = curves(read_metrics(metrics_path))
    if not train:
        raise DataError(f"{metrics_path} holds no training line with a loss")
    summary = _read_summary(metrics_path.with_name("summary.json"))
    run = sort_curves(train, valid, summary.get("term"))

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context(STYLE):
        if run.others:
            figure, axes = pyplot.subplots(1, 2, figsize=(8, 3), width_ratios=[3, 2])
            _draw_others(axes[1], run.others)
            left = axes[0]
        else:
            figure, left = pyplot.subplots(figsize=(5, 3))
        _draw_main(left, run, summary if baselines is None else baselines)
        figure.tight_layout()
        _save(figure, out, metrics_path, overwrite)
        pyplot.close(figure)
    return out


def _save(figure: Figure, out: Path, metrics_path: Path, overwrite: bool) -> None:
    form = out.suffix.removeprefix(".") or "png"
    drawn = io.BytesIO()
    figure.savefig(drawn, format=form, dpi=160, metadata={"Date": None} if form == "svg" else None)
    out.parent.mkdir(parents=True, exist_ok=True)
    with open_output("the figure", out, reads=[metrics_path], overwrite=overwrite) as output:
        output.write(drawn.getvalue())


def _draw_main(axes: Axes, run: Curves, baselines: PlainMapping) -> None:
    """Draw the main term in training and validation, and a line per baseline."""
    label: str | None = "training"
    for curve in run.train.values():
        axes.plot(*curve, color=TRAIN, linewidth=1, label=label)
        label = None  # variants share the entry in the legend
    if run.valid is not None:
        style: PlainDict = {"linewidth": 1.6, "marker": "o", "markersize": 3}
        axes.plot(*run.valid, color=VALID, label="validation", **style)
    compared = False
    for name in BASELINES:
        value = baselines.get(name)
        if isinstance(value, (int, float)) and math.isfinite(value):
            _draw_baseline(axes, f"{name} {value:.2f}", value)
            compared = True
    # baselines are given where the term is comparable with them, in their unit
    axes.set(xlabel="update", ylabel="nats per token" if compared else "loss", title=run.term)
    axes.legend(frameon=False, fontsize=8)


def _draw_baseline(axes: Axes, text: str, value: float) -> None:
    axes.axhline(value, color=BASELINE, linewidth=0.8, linestyle="--")
    axes.annotate(
        text,
        (1, value),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=BASELINE,
        fontsize=8,
    )


def _draw_others(axes: Axes, others: Mapping[str, Curve]) -> None:
    for (name, curve), colour in zip(others.items(), OTHER):
        axes.plot(*curve, color=colour, linewidth=1.2, label=name)
    axes.set(xlabel="update", title="other terms")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.legend(frameon=False, fontsize=8)


def curves(records: Sequence[PlainMapping]) -> tuple[dict[str, Curve], dict[str, Curve]]:
    """Return the training curves (loss and terms) and the validation curves (metrics) of records, by name."""
    train: dict[str, Curve] = {}
    valid: dict[str, Curve] = {}
    for record in records:
        if "event" in record or "update" not in record:
            continue
        if record.get("split") == "train":
            by_name, values = train, {"loss": record.get("loss"), **(record.get("terms") or {})}
        elif record.get("split") == "valid":
            by_name, values = valid, record.get("metrics") or {}
        else:
            continue
        for name, value in values.items():
            if isinstance(value, (int, float)):
                updates, numbers = by_name.setdefault(name, ([], []))
                updates.append(record["update"])
                numbers.append(value)
    return train, valid


def sort_curves(
    train: Mapping[str, Curve], valid: Mapping[str, Curve], term: str | None = None
) -> Curves:
    """Return the curves of a run by panel.

    term: the main loss term, without its component ('masked_lm'); None: the first one. Its variants
    ('semantic_augment/masked_lm_a') are drawn with it; of the validation metrics, the one with the shortest name is
    drawn, which is the mean of all variants where the criterion has one.
    """
    terms = [name for name in train if name != "loss"]
    if term is None or not any(_is_variant(name, term) for name in terms):
        term = _without_variant(terms[0], valid) if terms else "loss"
    main = [name for name in terms if _is_variant(name, term)] or ["loss"]
    measured = sorted((name for name in valid if _is_variant(name, term)), key=len)
    others = [name for name in terms if name not in main]
    return Curves(
        term=term,
        train={name: train[name] for name in main if name in train},
        valid=valid[measured[0]] if measured else None,
        others={name: train[name] for name in others[: len(OTHER)]},
    )


def _is_variant(name: str, term: str) -> bool:
    """Return whether 'component/name' is a loss term or a variant of it, such as 'masked_lm_a' of 'masked_lm'."""
    last = name.rsplit("/", 1)[-1]
    return last == term or last.startswith(f"{term}_")


def _without_variant(name: str, valid: Mapping[str, Curve]) -> str:
    """Return the last part of the shortest validation metric of which `name` is a variant, or else of `name`."""
    metrics = (metric for metric in valid if name.startswith(f"{metric}_"))
    return min(metrics, key=len, default=name).rsplit("/", 1)[-1]


def _read_summary(path: Path) -> PlainDict:
    """Return the summary of a run, empty where the run has no summary."""
    try:
        return read_object(path)
    except DataError:
        return {}


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the run that the command line names; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    overwrite = "--overwrite" in arguments
    paths = [argument for argument in arguments if argument != "--overwrite"]
    if len(paths) != 2:
        print("usage: python -m fwk.reporting.figure [--overwrite] RUN OUT.svg", file=sys.stderr)
        return 2
    try:
        run, out = map(user_path, paths)
        metrics_path = run / "metrics.jsonl" if run.is_dir() else run
        print(draw_run(metrics_path, out, overwrite=overwrite))
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
