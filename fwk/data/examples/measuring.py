"""Metrics of a split from the predictions for all of its examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fwk.contracts.task import Predictions
from fwk.data.examples.answers import decided_answers, decode_answers, gold_answers
from fwk.data.examples.encoded import EncodedExamples
from fwk.data.examples.labels import LabelSpace
from fwk.data.examples.metrics import METRICS, chosen_metrics
from fwk.data.layouts.squad import squad_scores


def measure(
    sources: Mapping[str, EncodedExamples],
    spaces: Mapping[str, LabelSpace],
    predictions: Predictions,
    metrics: Sequence[str],
    threshold: float = 0.0,
) -> dict[str, float]:
    """Return the metrics of a split by name.

    A name begins with that of the source where the split has several, and of the label where the task has several.
    threshold: see `decided_answers`.
    """
    result: dict[str, float] = {}
    for name, source in sources.items():
        for label, by_number in predictions.get(name, {}).items():
            space = spaces.get(label)
            if space is None:
                continue
            parts = [name] if len(sources) > 1 else []
            parts += [label] if len(spaces) > 1 else []
            if space.kind == "span":
                values = _scores_of_answers(source, space, by_number, threshold)
            else:
                values = _metrics_of_label(source, space, by_number, metrics)
            result.update({"/".join([*parts, metric]): value for metric, value in values.items()})
    return result


def _metrics_of_label(
    source: EncodedExamples,
    space: LabelSpace,
    predictions: Mapping[int, Tensor],
    metrics: Sequence[str],
) -> dict[str, float]:
    gold, predicted = gold_and_predicted(source, space, predictions)
    if not len(gold):
        return {}
    return {
        metric: METRICS[metric].compute(gold, predicted, space)
        for metric in chosen_metrics(metrics, space.kind)
    }


def _scores_of_answers(
    source: EncodedExamples,
    space: LabelSpace,
    predictions: Mapping[int, Tensor],
    threshold: float,
) -> dict[str, float]:
    """Return the scores of SQuAD's evaluation, of the questions that were predicted."""
    answers = decode_answers(source, space, predictions)
    gold = {str(number): gold_answers(source, space, number) for number in answers}
    if not space.optional:
        gold = {number: texts for number, texts in gold.items() if texts}
    if not gold:
        return {}
    texts = decided_answers(answers, space.optional, threshold)
    predicted = {str(number): text for number, text in texts.items()}
    if not space.optional:
        return squad_scores(gold, predicted)
    # the best threshold is searched among answers that were all given
    scores = {str(number): answer.no_answer for number, answer in answers.items()}
    given = {str(number): answer.text for number, answer in answers.items()}
    best = squad_scores(gold, given, scores)
    return {
        **squad_scores(gold, predicted),
        **{name: value for name, value in best.items() if name.startswith("best_")},
    }


def over_windows(
    source: EncodedExamples, predictions: Mapping[int, Tensor]
) -> Mapping[int, Tensor]:
    """Return the predictions of any label but a span by number of the example: the mean over its windows."""
    if source.windows is None:
        return predictions
    windows: dict[int, list[Tensor]] = {}
    for number in sorted(predictions):
        windows.setdefault(source.example_of(number), []).append(predictions[number].double())
    means = {}
    for number, values in windows.items():
        if values[0].dim():
            # the scores of choices are padded to the most of a batch
            fewest = min(len(value) for value in values)
            values = [value[:fewest] for value in values]
        means[number] = torch.stack(values).mean(0)
    return means


def gold_and_predicted(
    source: EncodedExamples, space: LabelSpace, predictions: Mapping[int, Tensor]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the gold labels and the predictions of the examples that have the label, [N, ...] each."""
    predictions = over_windows(source, predictions)
    numbers = [number for number in sorted(predictions) if has_label(source, space, number)]
    gold = np.array([source.labels[space.name][number] for number in numbers])
    predicted = np.array([decided(predictions[number], space) for number in numbers])
    return gold, predicted


def has_label(source: EncodedExamples, space: LabelSpace, number: int) -> bool:
    """Return whether an example has this label."""
    value = source.labels[space.name][number]
    absent = np.isnan(value) if space.kind in ("number", "numbers") else value < 0
    return not bool(np.any(absent))


def decided(values: Tensor, space: LabelSpace) -> np.ndarray:
    """Return the label that a prediction means. values: logits of classes or choices, or numbers."""
    array = values.float().numpy()
    if space.kind in ("class", "choice"):
        return np.asarray(array.argmax(-1), dtype=np.int64)
    if space.kind == "classes":
        return np.asarray(array > 0, dtype=np.float32)
    return array
