"""Metrics of a split from the predictions for all of its examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from fwk.contracts.task import Predictions
from fwk.data.examples.encoded import EncodedExamples
from fwk.data.examples.labels import LabelSpace
from fwk.data.examples.metrics import METRICS, chosen_metrics


def measure(
    sources: Mapping[str, EncodedExamples],
    spaces: Mapping[str, LabelSpace],
    predictions: Predictions,
    metrics: Sequence[str],
) -> dict[str, float]:
    """Return the metrics of a split by name.

    A name begins with that of the source where the split has several, and of the label where the task has several.
    """
    result: dict[str, float] = {}
    for name, source in sources.items():
        for label, by_number in predictions.get(name, {}).items():
            space = spaces.get(label)
            if space is None or space.kind == "span":
                continue
            gold, predicted = gold_and_predicted(source, space, by_number)
            for metric in chosen_metrics(metrics, space.kind) if len(gold) else ():
                parts = [name] if len(sources) > 1 else []
                parts += [label] if len(spaces) > 1 else []
                value = METRICS[metric].compute(gold, predicted, space)
                result["/".join([*parts, metric])] = value
    return result


def gold_and_predicted(
    source: EncodedExamples, space: LabelSpace, predictions: Mapping[int, Tensor]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the gold labels and the predictions of the examples that have the label, [N, ...] each."""
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
