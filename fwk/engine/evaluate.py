"""Evaluation: every example of a split once, spread over ranks, without gradient; the same noise every time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwk.contracts.task import Task
from fwk.contracts.views import Batch
from fwk.engine.feed.loader import evaluation_batches
from fwk.engine.meters import Meters, means
from fwk.engine.module import ObjectiveModule, Update, component_metrics
from fwk.engine.run import Run
from fwk.errors import DataError, UserError

POSITIONS = 4096  # of a batch of raw texts, padding included: a parser of words keeps several numbers for each pair of positions


@torch.no_grad()
def evaluate(run: Run, split: str, stop: Any = False) -> dict[str, float] | None:
    """Metrics by name: `loss` (the weighted sum of the terms' means, at this point of the run's weight schedules), each
    term's mean by 'component/term', and what components and task make of their statistics. None when `stop` became true on
    some rank meanwhile."""
    module, meters, train = run.module, Meters(), run.config.train
    step = Update(update=run.update, progress=run.progress, split=split)
    weights: dict[str, float] = {}
    size = (
        min(train.batch, train.micro_batch * run.world_size) if train.micro_batch else train.batch
    )
    limit = math.ceil(
        train.validate_batches * train.batch / size
    )  # the same examples however they are cut
    batches = evaluation_batches(
        run.task,
        split,
        batch=size,
        rank=run.rank,
        world_size=run.world_size,
        workers=0,
        limit_batches=limit,
    )
    was_training = module.training
    module.eval()
    averaged = run.average.in_place() if run.average and train.evaluate_average else nullcontext()
    try:
        with averaged:
            _measure(run, takewhile(lambda _: not stop, batches), step, meters, weights)
    finally:
        module.train(was_training)
    if any(run.world.gather_objects(bool(stop))):
        return None
    sums = meters.read(run.world)
    found = means(sums)
    for other in run.world.gather_objects(weights):  # a rank may have had no batch
        weights.update(other)
    loss = sum(weights.get(path, 0.0) * value for path, value in found.items())
    return {"loss": loss, **found, **component_metrics(module, sums), **run.task.metrics(sums)}


@torch.no_grad()
def predict(run: Run, split: str, examples: int = 64) -> dict[str, dict[str, dict[int, Any]]]:
    """What the model says of a split, in one process: by source and label, example number -> its value (on the CPU). examples: at a
    time, at most, and no more than evaluation has."""
    module, examples = (
        run.module.eval(),
        min(examples, run.config.train.micro_batch or run.config.train.batch),
    )
    step = Update(update=run.update, progress=run.progress, split=split)
    bounds, start = {}, 0
    for name, source in run.task.sources(split).items():
        bounds[name] = range(start, start := start + len(source))
    found: dict[str, dict[str, dict[int, Any]]] = {name: {} for name in bounds}
    for batch in evaluation_batches(
        run.task, split, batch=examples, rank=0, world_size=1, workers=0
    ):
        micro = module.begin(batch, 0, step, run.device)
        with run.precision.autocast():
            said = module.predictions(micro, step)
        for label, (draws, values) in said.items():
            for draw, value in zip(draws.tolist(), values.cpu()):
                name = next(name for name, numbers in bounds.items() if draw in numbers)
                found[name].setdefault(label, {})[draw - bounds[name].start] = value
    return found


@torch.no_grad()
def predict_texts(
    module: ObjectiveModule,
    task: Task,
    texts: Sequence[Any],
    places: Sequence[str],
    batch: int = 64,
) -> list[Any]:
    """What the model says of raw texts, as the task words it. places: of each text, for errors. batch: how many at a time, at most;
    texts of like lengths stand together."""
    if type(task).example_of is Task.example_of:
        raise UserError(f"'{type(task).__name__}' reads no raw text (`Task.example_of`)")
    if not module.predictors:
        raise UserError(
            f"no criterion of this model predicts anything (`Criterion.predict`); it has {', '.join(module.criteria)}"
        )
    examples, lengths = (
        zip(*(_example(module, task, text, place) for text, place in zip(texts, places)))
        if texts
        else ((), ())
    )
    found: dict[int, dict[str, Tensor]] = {}
    was_training = module.training
    module.eval()
    try:
        for rows in batches_by_length(lengths, batch):
            found |= zip(rows, _said(module, task, [examples[row] for row in rows]))
    finally:
        module.train(was_training)
    return [task.readable(text, found[row]) for row, text in enumerate(texts)]


def batches_by_length(
    lengths: Sequence[int], most: int, positions: int = POSITIONS
) -> list[list[int]]:
    """Texts by number in batches of at most `most`, each of at most so many positions with its padding, or of one text. The
    longest come first, so that memory that is too small is told at once."""
    found: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if (
            found
            and len(found[-1]) < most
            and (len(found[-1]) + 1) * lengths[found[-1][0]] <= positions
        ):
            found[-1].append(row)
        else:
            found.append([row])
    return found


def _said(module: ObjectiveModule, task: Task, examples: Sequence[Any]) -> list[dict[str, Tensor]]:
    """What the criteria say of a batch of raw texts: of each, by label.

    A criterion may look at examples of some sources alone, and a raw text is of none: the texts are shown as examples of one
    source after the other, until all criteria that predict have seen all of them, each label in the source that it is of.
    """
    step, draws, names = Update(split="text"), np.arange(len(examples)), task.source_names()
    found: list[dict[str, Tensor]] = [{} for _ in examples]
    for source, name in enumerate(names):
        batch = task.collate(examples, draws, np.full(len(examples), source))
        said = module.predictions(module.begin(batch, 0, step, module.anchor.device), step)
        best = {label: task.source_of(label) for label in said}
        for label, (rows, values) in said.items():
            for row, value in zip(rows.tolist(), values.cpu()):
                if best[label] == name or label not in found[row]:
                    found[row][label] = value
        if all(said.keys() <= own.keys() for own in found) and not set(best.values()) & set(
            names[source + 1 :]
        ):
            break
    return found


def _example(module: ObjectiveModule, task: Task, text: Any, place: str) -> tuple[Any, int]:
    """An example and how many positions it has. DataError names the place of what the task or the networks cannot read."""
    try:
        example = task.example_of(text)
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
    mask = task.collate([example], np.arange(1), np.zeros(1, dtype=np.int64)).mask
    length = int(mask.sum()) if mask is not None else 1
    if 0 < module.longest < length:
        raise DataError(
            f"{place}: the text has {length:,} positions, more than the {module.longest:,} that the model reads"
        )
    return example, length


def _measure(
    run: Run, batches: Iterable[Batch], step: Update, meters: Meters, weights: dict[str, float]
) -> None:
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
