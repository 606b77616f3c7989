"""Choosing by a metric of the valid split: the best checkpoints, and when a run has stopped to improve."""

from __future__ import annotations

import logging
import math

from fwk.contracts.metrics import direction_of, find_metric
from fwk.engine.evaluate import Evaluation, evaluate_and_count
from fwk.engine.run import Run
from fwk.engine.signals import StopRequest
from fwk.errors import ConfigError

KEY = "train.best_metric"

logger = logging.getLogger(__name__)


class Selection:
    """Ranks evaluations by `train.best_metric`, and counts those without an improvement (`train.patience`)."""

    def __init__(self, run: Run, stop: StopRequest) -> None:
        self.run, self.stop = run, stop
        train = run.config.train
        self.wanted = bool(train.keep_best or train.patience) and "valid" in run.task.splits()
        if train.patience and not self.wanted:
            raise ConfigError(
                "train.patience", "counts evaluations, and the task has no split 'valid'"
            )
        self.direction = train.best_mode
        if self.direction == "auto":
            self.direction = direction_of(train.best_metric) or "auto"
        self.is_checked = not self.wanted or train.best_metric == "loss"

    def check(self) -> None:
        """Raise ConfigError, before the first update, where there is no such metric or its best is unclear.

        A batch of the valid split names the metrics. Where it lacks the one that is wanted, the whole split decides.
        """
        if self.is_checked:
            return
        self.is_checked = True
        self.run.world.enter("validation")
        evaluation = evaluate_and_count(self.run, "valid", self.stop, batches=1)
        try:
            if evaluation is not None:
                self._check(evaluation)
        except ConfigError:
            evaluation = evaluate_and_count(self.run, "valid", self.stop)
            if evaluation is not None:
                self._check(evaluation)

    def _check(self, evaluation: Evaluation) -> None:
        name = self.find(evaluation.metrics)
        if self.direction != "auto":
            return
        if name not in evaluation.terms:  # a loss term, whatever its name, is to be small
            raise ConfigError(
                "train.best_mode",
                f"nothing says whether a small or a large '{name or self.run.config.train.best_metric}' is good; "
                "state min or max",
            )
        self.direction = "min"

    def find(self, metrics: dict[str, float]) -> str | None:
        """Return the name of the metric among those of an evaluation; None where it may belong to a later phase.

        Raises ConfigError unless exactly one metric has that name.
        """
        module = self.run.module
        try:
            return find_metric(self.run.config.train.best_metric, metrics, KEY)
        except ConfigError:
            if len(module.active) + len(module.teachers.labels) < len(module.parts):
                return None
            raise

    def note(self, metrics: dict[str, float], is_due: bool) -> bool:
        """Return whether an evaluation is among the best so far.

        is_due: it is one that a longer run makes, too, and counts for `train.patience`. Raises ConfigError where the
        metric does not exist.
        """
        run, train = self.run, self.run.config.train
        name = self.find(metrics)
        if name is None:
            return False
        value, sign = metrics[name], -1 if self.direction == "max" else 1
        if is_due:
            run.waiting = _waiting(run.waiting, value, sign, train.min_improvement)
        if not train.keep_best or not math.isfinite(value):
            return False
        ranked = sorted(
            [*run.best, (value, run.update)], key=lambda pair: (sign * pair[0], pair[1])
        )
        run.best = ranked[: train.keep_best]
        return any(update == run.update for _, update in run.best)

    def ending(self) -> dict[str, object]:
        """Return a record of why the run ends early, and log it."""
        run, train = self.run, self.run.config.train
        assert run.waiting is not None
        value, evaluations = run.waiting
        if run.world.main:
            logger.info(
                "no improvement of %s (%.6g) in %d evaluations: the run ends at update %d (train.patience=%d)",
                *(train.best_metric, value, evaluations, run.update, train.patience),
            )
        return {
            "event": "out_of_patience",
            "split": "valid",
            "update": run.update,
            "metric": train.best_metric,
            "best": value,
            "evaluations": evaluations,
        }


def _waiting(
    before: tuple[float, int] | None, value: float, sign: int, least: float
) -> tuple[float, int] | None:
    """Return the value that was the last improvement, and the evaluations since.

    before: the same, up to the evaluation with this `value`. sign: 1 where small values are good, -1 where large ones
    are. least: the change that an improvement must exceed.
    """
    if before is None:
        return (value, 0) if math.isfinite(value) else None
    best, evaluations = before
    if sign * (best - value) > least:  # false for NaN
        return value, 0
    return best, evaluations + 1
