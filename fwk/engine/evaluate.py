"""Evaluation: every example of a split once, spread over ranks, without gradient, with the same noise every time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import takewhile

import torch

from fwk.contracts.task import Predictions, Task
from fwk.contracts.views import Batch
from fwk.engine.feed.loader import evaluation_batches
from fwk.engine.meters import Meters, means
from fwk.engine.parts import metrics_of
from fwk.engine.predict import (
    BatchPredictions,
    by_example,
    gather_predictions,
    predictions_of,
    predictors,
)
from fwk.engine.run import Run
from fwk.engine.signals import StopRequest
from fwk.engine.update import Update, count_tokens, shares_of_examples


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a split by name, and how much was read for them."""

    metrics: dict[str, float]
    examples: int
    tokens: int  # without padding; 0 where the examples are not text
    terms: tuple[str, ...] = ()  # the metrics that are means of loss terms
    # of all ranks, where the task measures them or they were asked for
    predictions: Predictions | None = None
    targets: Predictions | None = None  # what other models learn from, where it was asked for


def evaluate(run: Run, split: str, stop: StopRequest | None = None) -> dict[str, float] | None:
    """Return the metrics of a split by name; None when `stop` became true on some rank meanwhile.

    `loss` is the weighted sum of the terms' means, at this point of the run's weight schedules. The other
    metrics are each term's mean by 'label/term', and what components and task make of their statistics.
    """
    evaluation = evaluate_and_count(run, split, stop)
    return None if evaluation is None else evaluation.metrics


@torch.no_grad()
def evaluate_and_count(
    run: Run,
    split: str,
    stop: StopRequest | None = None,
    batches: int | None = None,
    keep_predictions: bool = False,
    keep_targets: bool = False,
) -> Evaluation | None:
    """Return what `evaluate` returns, how much was read, and what criteria predict.

    batches: of training's size, instead of `train.validate_batches`. keep_predictions: return the predictions where the
    task does not measure them, too. keep_targets: return what other models learn from (`Criterion.teach`).
    """
    module, meters = run.module, Meters()
    update = Update(number=run.update, progress=run.progress, split=split)
    read_batches = takewhile(lambda _: not stop, _batches(run, split, batches))
    averaged = run.average and run.config.train.evaluate_average
    was_training = module.training
    module.eval()
    measured = _measures_predictions(run)
    collected: list[BatchPredictions] | None = [] if measured or keep_predictions else None
    targets: list[BatchPredictions] | None = [] if keep_targets else None
    try:
        with run.average.in_place() if run.average and averaged else nullcontext():
            weights = _measure(run, read_batches, update, meters, collected, targets)
    finally:
        module.train(was_training)
    if any(run.world.gather_objects(bool(stop))):
        return None

    evaluation = _evaluation(run, meters, weights)
    if targets is not None:
        stored = by_example(run.task, split, gather_predictions(run.world, targets))
        evaluation = replace(evaluation, targets=stored)
    if collected is None:
        return evaluation
    predictions = by_example(run.task, split, gather_predictions(run.world, collected))
    if measured:
        evaluation.metrics.update(run.task.metrics_of_predictions(split, predictions))
    return replace(evaluation, predictions=predictions)


def _evaluation(run: Run, meters: Meters, weights: dict[str, float]) -> Evaluation:
    """Return what follows from the sums of all ranks. weights: of the terms, as this rank knows them."""
    sums = meters.read(run.world)
    terms = means(sums)
    for weights_of_rank in run.world.gather_objects(weights):
        weights.update(weights_of_rank)  # a rank without a batch has none
    counts = {name.removeprefix("count:"): count for name, count in sums.items()}
    shares = shares_of_examples(counts, float(sums.get("read:examples", 0)))
    loss = sum(
        weights.get(path, 0.0) * shares.get(path.split("/")[0], 1.0) * mean
        for path, mean in terms.items()
    )
    of_components = metrics_of(run.module.parts, sums)
    metrics = {"loss": loss, **terms, **of_components, **run.task.metrics(sums)}
    examples, tokens = (int(sums.get(f"read:{name}", 0)) for name in ("examples", "tokens"))
    return Evaluation(metrics, examples, tokens, tuple(terms))


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


def _measures_predictions(run: Run) -> bool:
    """Return whether the task measures the predictions of a whole split, and a criterion predicts."""
    measures = type(run.task).metrics_of_predictions is not Task.metrics_of_predictions
    return measures and bool(predictors(run.module))


def _measure(
    run: Run,
    batches: Iterable[Batch],
    update: Update,
    meters: Meters,
    collected: list[BatchPredictions] | None,
    targets: list[BatchPredictions] | None,
) -> dict[str, float]:
    """Add the sums, counts and statistics of all batches to the meters; return the weights of the terms.

    collected, targets: take what criteria predict for each batch, and what others learn from; None: nothing does.
    """
    module = run.module
    weights: dict[str, float] = {}
    for batch in batches:
        views = module.static_of_this_phase(batch, update.split)
        with run.precision.autocast():
            (micro,) = module.ready([views], update)
            counts = module.normalizers(micro, update)
            output, encoded = module.measure(micro, update)
            for kept, for_others in ((collected, False), (targets, True)):
                if kept is not None:
                    kept.append(_on_cpu(predictions_of(module, micro, encoded, update, for_others)))
        meters.add(output.sums, "sum:")
        meters.add(counts, "count:")
        meters.add(output.statistics, "stat:")
        meters.add({"examples": len(batch), "tokens": count_tokens(batch)}, "read:")
        meters.commit()
        weights.update(output.weights)
    return weights


def _on_cpu(predictions: BatchPredictions) -> BatchPredictions:
    return {label: (draws.cpu(), values.cpu()) for label, (draws, values) in predictions.items()}
