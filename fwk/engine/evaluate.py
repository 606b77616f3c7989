"""Evaluation: every example of a split once, spread over ranks, without gradient, with the same noise every time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import takewhile

import torch

from fwk.contracts.task import Task
from fwk.contracts.views import Batch
from fwk.engine.feed.loader import evaluation_batches
from fwk.engine.meters import Meters, means
from fwk.engine.predict import Predictions, by_example, predictions_of, predictors
from fwk.engine.run import Run
from fwk.engine.signals import StopRequest
from fwk.engine.update import Update, count_tokens


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a split by name, and how much was read for them."""

    metrics: dict[str, float]
    examples: int
    tokens: int  # without padding; 0 where the examples are not text
    terms: tuple[str, ...] = ()  # the metrics that are means of loss terms


def evaluate(run: Run, split: str, stop: StopRequest | None = None) -> dict[str, float] | None:
    """Return the metrics of a split by name; None when `stop` became true on some rank meanwhile.

    `loss` is the weighted sum of the terms' means, at this point of the run's weight schedules. The other
    metrics are each term's mean by 'label/term', and what components and task make of their statistics.
    """
    evaluation = evaluate_and_count(run, split, stop)
    return None if evaluation is None else evaluation.metrics


@torch.no_grad()
def evaluate_and_count(
    run: Run, split: str, stop: StopRequest | None = None, batches: int | None = None
) -> Evaluation | None:
    """Return what `evaluate` returns, and how much was read.

    batches: of training's size, instead of `train.validate_batches`.
    """
    module, meters = run.module, Meters()
    update = Update(number=run.update, progress=run.progress, split=split)
    read_batches = takewhile(lambda _: not stop, _batches(run, split, batches))
    averaged = run.average and run.config.train.evaluate_average
    was_training = module.training
    module.eval()
    collected: list[Predictions] | None = [] if _needs_predictions(run) else None
    try:
        with run.average.in_place() if run.average and averaged else nullcontext():
            weights = _measure(run, read_batches, update, meters, collected)
    finally:
        module.train(was_training)
    if any(run.world.gather_objects(bool(stop))):
        return None

    sums = meters.read(run.world)
    terms = means(sums)
    for weights_of_rank in run.world.gather_objects(
        weights
    ):  # a rank without a batch has no weights
        weights.update(weights_of_rank)
    loss = sum(weights.get(path, 0.0) * mean for path, mean in terms.items())
    metrics = {"loss": loss, **terms, **module.component_metrics(sums), **run.task.metrics(sums)}
    if collected is not None:
        everything = [part for rank in run.world.gather_objects(collected) for part in rank]
        predictions = by_example(run.task, split, everything)
        metrics.update(run.task.metrics_of_predictions(split, predictions))
    read = {name: int(sums.get(f"read:{name}", 0)) for name in ("examples", "tokens")}
    return Evaluation(metrics, **read, terms=tuple(terms))


def _batches(run: Run, split: str, batches: int | None) -> Iterable[Batch]:
    """Return this rank's batches of a split, as large as the micro-batches of training."""
    train = run.config.train
    size = train.batch
    if train.micro_batch:
        size = min(train.batch, train.micro_batch * run.world_size)
    # the same examples, however they are cut into batches
    batches = train.validate_batches if batches is None else batches
    limit = math.ceil(batches * train.batch / size)
    return evaluation_batches(
        run.task,
        split,
        batch=size,
        rank=run.rank,
        world_size=run.world_size,
        workers=0,
        limit_batches=limit,
    )


def _needs_predictions(run: Run) -> bool:
    """Return whether the task measures the predictions of a whole split, and a criterion predicts."""
    measures = type(run.task).metrics_of_predictions is not Task.metrics_of_predictions
    return measures and bool(predictors(run.module))


def _measure(
    run: Run,
    batches: Iterable[Batch],
    update: Update,
    meters: Meters,
    collected: list[Predictions] | None,
) -> dict[str, float]:
    """Add the sums, counts and statistics of all batches to the meters; return the weights of the terms.

    collected: takes what criteria predict for each batch; None: nothing does.
    """
    module = run.module
    weights: dict[str, float] = {}
    for batch in batches:
        views = module.static_of_this_phase(batch, update.split)
        with run.precision.autocast():
            (micro,) = module.ready([views], update)
            counts = module.normalizers(micro, update)
            output, encoded = module.measure(micro, update)
            if collected is not None:
                predicted = predictions_of(module, micro, encoded, update)
                collected.append(
                    {
                        label: (draws.cpu(), values.cpu())
                        for label, (draws, values) in predicted.items()
                    }
                )
        meters.add(output.sums, "sum:")
        meters.add(counts, "count:")
        meters.add(output.statistics, "stat:")
        meters.add({"examples": len(batch), "tokens": count_tokens(batch)}, "read:")
        meters.commit()
        weights.update(output.weights)
    return weights
