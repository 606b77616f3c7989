"""Names of metrics: which one a user means, and whether a larger value of it is better."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from fwk.errors import ConfigError, did_you_mean

Direction = Literal["min", "max"]

# words of a metric's last part, between underscores
SMALLER_IS_BETTER = {
    *("loss", "perplexity", "nll", "divergence", "kl"),
    *("error", "errors", "mae", "mse", "rmse", "cer", "wer"),
}
LARGER_IS_BETTER = {
    *("accuracy", "exact", "em", "f1", "precision", "recall", "matthews", "mcc", "auc"),
    *("pearson", "spearman", "correlation", "mrr", "map", "bleu", "las", "uas"),
    "average",  # of such metrics, over tasks
}


def direction_of(name: str) -> Direction | None:
    """Return whether the best value of a metric is the smallest or the largest; None where its name says neither."""
    words = set(name.rpartition("/")[2].lower().split("_"))
    smaller, larger = bool(words & SMALLER_IS_BETTER), bool(words & LARGER_IS_BETTER)
    if smaller == larger:
        return None
    return "min" if smaller else "max"


def find_metric(name: str, known: Iterable[str], key: str) -> str:
    """Return the metric that a user named: by its whole name, or by its last parts where only one has them.

    key: of the config, for errors. Raises ConfigError unless exactly one metric matches.
    """
    known = list(known)
    if name in known:
        return name
    matches = [metric for metric in known if metric.endswith(f"/{name}")]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ConfigError(
            key, f"'{name}' may be {' or '.join(matches)}; state the whole name of one"
        )
    raise ConfigError(key, f"validation gives no '{name}'{did_you_mean(name, known)}")
