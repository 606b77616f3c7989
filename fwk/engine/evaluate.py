"""Evaluation: every example of a split once, spread over ranks, without gradient; the same noise every time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fwk.data.loader import evaluation_batches
from fwk.engine.meters import Meters, component_metrics, means
from fwk.engine.module import Step

if TYPE_CHECKING:
    from fwk.engine.run import Run


@torch.no_grad()
def evaluate(run: Run, split: str) -> dict[str, float]:
    """Metrics by name: `loss` (the weighted sum of the terms' means, at this point of the run's weight schedules), each
    term's mean by 'component/term', and what components and task make of their statistics."""
    module, meters, train = run.module, Meters(), run.config.train
    step = Step(update=run.update, progress=run.progress, split=split)
    weights: dict[str, float] = {}
    size = min(train.batch, train.micro_batch * run.world_size) if train.micro_batch else train.batch
    batches = evaluation_batches(run.task, split, batch=size, rank=run.rank, world_size=run.world_size,
                                 workers=0, limit_batches=train.validate_batches)
    was_training = module.training
    module.eval()
    try:
        for batch in batches:
            micro = module.begin(batch, 0, step, run.device)
            with run.precision.autocast():
                if module.prepares:
                    module.prepare(micro, step)
                    module.exchange([micro], alone=True)
                counts = module.normalizers(micro, step)
                output = module(micro, step)
            meters.add(output.sums, "sum:")
            meters.add({name: counts[name] for name in output.sums}, "count:")
            meters.add(output.statistics, "stat:")
            weights.update(output.weights)
            meters.commit()
    finally:
        module.train(was_training)
    sums = meters.read(run.world)
    found = means(sums)
    for other in run.world.objects(weights):  # a rank may have had no batch
        weights.update(other)
    loss = sum(weights[path] * value for path, value in found.items())
    return {"loss": loss, **found, **component_metrics(module, sums), **run.task.metrics(sums)}
