"""Predictions of criteria: for a split, and for raw texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwk.contracts.criterion import Criterion
from fwk.contracts.task import RawText, Task
from fwk.engine.module import ObjectiveModule
from fwk.engine.ranks.world import World
from fwk.engine.update import MicroBatch, Update, Views
from fwk.errors import DataError, UserError

# of a batch of raw texts, padding included: a parser of words keeps several numbers for each pair of positions
POSITIONS = 4096

BatchPredictions = dict[str, tuple[Tensor, Tensor]]  # by label: draws [N] and values [N, ...]


def predictors(module: ObjectiveModule) -> dict[str, Criterion]:
    """Return the criteria that predict, by label."""
    return {
        part.name: criterion
        for part, criterion in module.active_criteria
        if type(criterion).predict is not Criterion.predict
    }


def by_example(
    task: Task, split: str, collected: Iterable[BatchPredictions]
) -> dict[str, dict[str, dict[int, Tensor]]]:
    """Return predictions by source and label, example number -> value on the CPU."""
    numbers = _numbers_of_sources(task, split)
    values_of: dict[str, dict[str, dict[int, Tensor]]] = {name: {} for name in numbers}
    starts = np.array([members.start for members in numbers.values()])
    names = list(numbers)
    for predictions in collected:
        for label, (draws, values) in predictions.items():
            for draw, value in zip(draws.tolist(), values.cpu()):
                source = names[int(np.searchsorted(starts, draw, side="right")) - 1]
                values_of[source].setdefault(label, {})[draw - numbers[source].start] = value
    return values_of


def gather_predictions(
    world: World, collected: Sequence[BatchPredictions]
) -> list[BatchPredictions]:
    """Return the predictions for the batches of all ranks, in rank order."""
    if world.size == 1:
        return list(collected)
    # what ranks send each other is text; batches differ in shape, as in the number of choices
    sent = [
        {label: [draws.tolist(), values.flatten().tolist(), list(values.shape), _kind(values)]}
        for predictions in collected
        for label, (draws, values) in predictions.items()
    ]
    return [
        {label: (torch.tensor(draws, dtype=torch.int64), _received(*values))}
        for rank in world.gather_objects(sent)
        for predictions in rank
        for label, (draws, *values) in predictions.items()
    ]


_KINDS = {"int64": torch.int64, "float32": torch.float32, "float64": torch.float64}


def _kind(values: Tensor) -> str:
    """Return the type that holds all values exactly."""
    if not values.is_floating_point():
        return "int64"
    return "float64" if values.dtype == torch.float64 else "float32"


def _received(values: list[float], shape: list[int], kind: str) -> Tensor:
    return torch.tensor(values, dtype=_KINDS[kind]).view(shape)


@torch.no_grad()
def predict_texts(
    module: ObjectiveModule,
    task: Task,
    texts: Sequence[RawText],
    places: Sequence[str],
    batch: int = 64,
) -> list[Any]:
    """Return the predictions for raw texts, as the task makes them readable.

    places: where each text is from, for errors. batch: the largest batch; texts of similar length are put
    together. Raises UserError where the task reads no raw text or no criterion predicts, DataError for a text
    that cannot be read.
    """
    if type(task).example_of is Task.example_of:
        raise UserError(f"'{type(task).__name__}' reads no raw text (`Task.example_of`)")
    if not predictors(module):
        raise UserError(
            f"no criterion of this model predicts anything (`Criterion.predict`); it has {', '.join(module.criteria)}"
        )
    examples: list[object] = []
    lengths, ends = [], []
    for text, place in zip(texts, places):
        for example, length in _examples(module, task, text, place):
            examples.append(example)
            lengths.append(length)
        ends.append(len(examples))

    values: dict[int, dict[str, Tensor]] = {}
    was_training = module.training
    module.eval()
    try:
        for rows in batches_by_length(lengths, batch):
            values |= zip(rows, _values_of_texts(module, task, [examples[row] for row in rows]))
    finally:
        module.train(was_training)
    return [
        task.combined(text, [values[row] for row in range(start, end)])
        for text, start, end in zip(texts, [0, *ends], ends)
    ]


def batches_by_length(
    lengths: Sequence[int], most: int, positions: int = POSITIONS
) -> list[list[int]]:
    """Return the numbers of texts in batches of at most `most` texts.

    A batch has at most so many positions with its padding, or is one text. The longest texts come first, so
    that a lack of memory shows at once.
    """
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        last = batches[-1] if batches else []
        if last and len(last) < most and (len(last) + 1) * lengths[last[0]] <= positions:
            last.append(row)
        else:
            batches.append([row])
    return batches


def _numbers_of_sources(task: Task, split: str) -> dict[str, range]:
    """Return which draw numbers the examples of each source have in an evaluation."""
    numbers, start = {}, 0
    for name, source in task.sources(split).items():
        numbers[name] = range(start, start + len(source))
        start += len(source)
    return numbers


@torch.no_grad()
def _predictions(module: ObjectiveModule, static: Views, update: Update) -> BatchPredictions:
    """Return what criteria predict for a batch."""
    micro = module.begin(static, 0, update)
    views = module.run_actions(module.plan.actions, micro, update)
    return predictions_of(module, micro, views, update)


def predictions_of(
    module: ObjectiveModule,
    micro: MicroBatch,
    views: Views,
    update: Update,
    for_others: bool = False,
) -> BatchPredictions:
    """Return what criteria predict from encoded views. Raises UserError where two criteria predict one label.

    for_others: instead, what other models learn from it (`Criterion.teach`).
    """
    predictions: BatchPredictions = {}
    predicted_by: dict[str, str] = {}
    for name, criterion in predictors(module).items():
        part = module.parts[name]
        draws = views[module.encodes[name][0]].draws
        context = module.contexts.context(part, micro, update)
        ask = criterion.teach if for_others else criterion.predict
        for label, values in ask(part.views_of(views), context).items():
            first = predicted_by.setdefault(label, name)
            if first != name:
                raise UserError(
                    f"criterion: '{first}' and '{name}' both predict the label '{label}', so there are two answers; "
                    "expected one criterion for each label that is predicted"
                )
            # a criterion may answer once for all rows of an example, which follow each other
            rows = draws if len(values) == len(draws) else draws.unique_consecutive()
            predictions[label] = rows, values
    return predictions


def _values_of_texts(
    module: ObjectiveModule, task: Task, examples: Sequence[object]
) -> list[dict[str, Tensor]]:
    """Return the predictions for a batch of raw texts: a mapping by label for each.

    A criterion may read the examples of some sources only, and a raw text has no source. The texts are
    therefore passed as examples of one source after the other, until every predicting criterion has read all of
    them, each label in the source that it belongs to.
    """
    update, draws, names = Update(split="text"), np.arange(len(examples)), task.source_names()
    values_of: list[dict[str, Tensor]] = [{} for _ in examples]
    for number, source in enumerate(names):
        batch = task.collate(examples, draws, np.full(len(examples), number))
        views = module.static_of_this_phase(batch, update.split)
        predictions = _predictions(module, views, update)
        source_of = {label: task.source_of(label) for label in predictions}
        for label, (rows, values) in predictions.items():
            for row, value in zip(rows.tolist(), values.cpu()):
                if source_of[label] == source or label not in values_of[row]:
                    values_of[row][label] = value
        complete = all(predictions.keys() <= values.keys() for values in values_of)
        if complete and not set(source_of.values()) & set(names[number + 1 :]):
            break
    return values_of


def _examples(
    module: ObjectiveModule, task: Task, text: RawText, place: str
) -> list[tuple[object, int]]:
    """Return the examples of a text, each with its number of positions.

    Raises DataError, with the place, for a text that the task or the networks cannot read.
    """
    try:
        examples = task.examples_of(text)
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
    return [(example, _positions(module, task, example, place)) for example in examples]


def _positions(module: ObjectiveModule, task: Task, example: object, place: str) -> int:
    """Return the number of positions of an example. Raises DataError where the networks cannot read so many."""
    mask = task.collate([example], np.arange(1), np.zeros(1, dtype=np.int64)).mask
    length = int(mask.sum()) if mask is not None else 1
    longest = module.encoding.longest
    if 0 < longest < length:
        raise DataError(
            f"{place}: the text has {length:,} positions, more than the {longest:,} that the model reads"
        )
    return length
