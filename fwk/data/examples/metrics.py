"""Metrics of whole splits, computed from every prediction by scikit-learn and scipy (the extra `eval`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from fwk.data.examples.labels import LabelSpace
from fwk.errors import ConfigError, did_you_mean

Compute = Callable[[np.ndarray, np.ndarray, LabelSpace], float]


@dataclass(frozen=True)
class Metric:
    """A metric: the kinds of labels that it measures, and how."""

    kinds: tuple[str, ...]
    # gold labels and predictions, [N, ...] each, without examples that have no label
    compute: Compute
    needs: str = ""  # the package that computes it


def _accuracy(gold: np.ndarray, predicted: np.ndarray, space: LabelSpace) -> float:
    same = gold == predicted
    return float(np.mean(same.reshape(len(same), -1).all(1)))


def _f1(average: str) -> Compute:
    def compute(gold: np.ndarray, predicted: np.ndarray, space: LabelSpace) -> float:
        from sklearn.metrics import f1_score

        if average != "binary":
            return float(f1_score(gold, predicted, average=average, zero_division=0))
        return float(f1_score(gold, predicted, average="binary", pos_label=1, zero_division=0))

    return compute


def _matthews(gold: np.ndarray, predicted: np.ndarray, space: LabelSpace) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(gold, predicted))


def _correlation(name: str) -> Compute:
    def compute(gold: np.ndarray, predicted: np.ndarray, space: LabelSpace) -> float:
        from scipy import stats

        if len(gold) < 2 or np.ptp(gold) == 0 or np.ptp(predicted) == 0:
            return 0.0  # undefined where one side is constant; GLUE's scores count it as 0
        return float(getattr(stats, name)(gold.astype(float), predicted.astype(float)).statistic)

    return compute


def _mean_squared_error(gold: np.ndarray, predicted: np.ndarray, space: LabelSpace) -> float:
    return float(np.mean((gold.astype(float) - predicted.astype(float)) ** 2))


METRICS: dict[str, Metric] = {
    "accuracy": Metric(("class", "classes", "choice"), _accuracy),
    "f1": Metric(("class",), _f1("binary"), "sklearn"),
    "macro_f1": Metric(("class", "classes"), _f1("macro"), "sklearn"),
    "micro_f1": Metric(("class", "classes"), _f1("micro"), "sklearn"),
    "matthews": Metric(("class",), _matthews, "sklearn"),
    "pearson": Metric(("number",), _correlation("pearsonr"), "scipy"),
    "spearman": Metric(("number",), _correlation("spearmanr"), "scipy"),
    "mse": Metric(("number", "numbers"), _mean_squared_error),
}
# without `task.metrics`, as far as their packages are installed
DEFAULTS = {
    "class": ("accuracy",),
    "classes": ("micro_f1", "accuracy"),
    "number": ("pearson", "spearman", "mse"),
    "numbers": ("mse",),
    "choice": ("accuracy",),
    "span": (),
}


def check_metrics(names: Sequence[str], spaces: Sequence[LabelSpace]) -> None:
    """Raise ConfigError for a metric that none of these labels can be measured by."""
    for space in spaces:
        chosen = chosen_metrics(names, space.kind)
        if "f1" in chosen and names and len(space.values) != 2:
            raise ConfigError(
                "task.metrics",
                f"'f1' is of two classes, and the label '{space.name}' has {len(space.values)}; expected macro_f1 or "
                "micro_f1",
            )
    kinds = {space.kind for space in spaces}
    for name in names if spaces else ():
        if not kinds & set(METRICS[name].kinds):
            fitting = [other for other, metric in METRICS.items() if kinds & set(metric.kinds)]
            raise ConfigError(
                "task.metrics",
                f"'{name}' measures a label of the kind {' or '.join(METRICS[name].kinds)}, and the task has "
                f"{', '.join(sorted(kinds))}; expected {', '.join(fitting) or 'no metric, they are those of SQuAD'}",
            )


def chosen_metrics(names: Sequence[str], kind: str) -> tuple[str, ...]:
    """Return the metrics of a label of this kind. names: as `task.metrics` states them; empty: the usual ones.

    Raises ConfigError for a metric that is unknown, or whose package is not installed.
    """
    if not names:
        return installed(DEFAULTS.get(kind, ()))
    for name in names:
        if name not in METRICS:
            raise ConfigError(
                "task.metrics", f"Unknown metric '{name}'{did_you_mean(name, METRICS)}"
            )
        if not _is_installed(METRICS[name].needs):
            raise ConfigError(
                "task.metrics",
                f"'{name}' is computed by {METRICS[name].needs}, which is not installed; install fwk[eval], or choose "
                f"{', '.join(n for n, metric in METRICS.items() if not metric.needs)}",
            )
    return tuple(name for name in names if kind in METRICS[name].kinds)


def installed(names: Sequence[str]) -> tuple[str, ...]:
    """Return those of these metrics whose packages are installed."""
    return tuple(name for name in names if _is_installed(METRICS[name].needs))


def _is_installed(package: str) -> bool:
    return not package or find_spec(package) is not None
