"""Evaluation: every example of a split once, spread over ranks, without gradient; the same noise every time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import nullcontext
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch

from fwk.data.loader import evaluation_batches
from fwk.engine.meters import Meters, component_metrics, means
from fwk.engine.module import Step
from fwk.views import Batch

if TYPE_CHECKING:
    from fwk.engine.run import Run


@torch.no_grad()
def evaluate(run: Run, split: str, stop: Any = False) -> dict[str, float] | None:
    """Metrics by name: `loss` (the weighted sum of the terms' means, at this point of the run's weight schedules), each
    term's mean by 'component/term', and what components and task make of their statistics. None when `stop` became true on
    some rank meanwhile."""
    module, meters, train = run.module, Meters(), run.config.train
    step = Step(update=run.update, progress=run.progress, split=split)
    weights: dict[str, float] = {}
    size = min(train.batch, train.micro_batch * run.world_size) if train.micro_batch else train.batch
    limit = math.ceil(train.validate_batches * train.batch / size)  # the same examples however they are cut
    batches = evaluation_batches(run.task, split, batch=size, rank=run.rank, world_size=run.world_size,
                                 workers=0, limit_batches=limit)
    was_training = module.training
    module.eval()
    averaged = run.average.in_place() if run.average and train.evaluate_average else nullcontext()
    try:
        with averaged:
            _measure(run, takewhile(lambda _: not stop, batches), step, meters, weights)
    finally:
        module.train(was_training)
    if any(run.world.objects(bool(stop))):
        return None
    sums = meters.read(run.world)
    found = means(sums)
    for other in run.world.objects(weights):  # a rank may have had no batch
        weights.update(other)
    loss = sum(weights.get(path, 0.0) * value for path, value in found.items())
    return {"loss": loss, **found, **component_metrics(module, sums), **run.task.metrics(sums)}


@torch.no_grad()
def predict(run: Run, split: str, examples: int = 64) -> dict[str, dict[str, dict[int, Any]]]:
    """What the model says of a split, in one process: by source and label, example number -> its value (on the CPU)."""
    module = run.module.eval()
    step = Step(update=run.update, progress=run.progress, split=split)
    bounds, start = {}, 0
    for name, source in run.task.sources(split).items():
        bounds[name] = range(start, start := start + len(source))
    found: dict[str, dict[str, dict[int, Any]]] = {name: {} for name in bounds}
    for batch in evaluation_batches(run.task, split, batch=examples, rank=0, world_size=1, workers=0):
        micro = module.begin(batch, 0, step, run.device)
        with run.precision.autocast():
            said = module.predictions(micro, step)
        for label, (draws, values) in said.items():
            for draw, value in zip(draws.tolist(), values.cpu()):
                name = next(name for name, numbers in bounds.items() if draw in numbers)
                found[name].setdefault(label, {})[draw - bounds[name].start] = value
    return found


def _measure(run: Run, batches: Iterable[Batch], step: Step, meters: Meters, weights: dict[str, float]) -> None:
    module = run.module
    for batch in batches:
        micro = module.begin(batch, 0, step, run.device)
        with run.precision.autocast():
            if module.prepares(step):
                module.prepare(micro, step)
                module.exchange([micro], alone=True)
            counts = module.normalizers(micro, step)
            output = module(micro, step)
        meters.add(output.sums, "sum:")
        meters.add(counts, "count:")
        meters.add(output.statistics, "stat:")
        weights.update(output.weights)
        meters.commit()
