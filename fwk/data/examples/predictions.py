"""Predictions for people and programs: a table with a row per example, or one answer as JSON data.

.csv, .tsv   key, then per label: the prediction, and the probability of each class
.jsonl       the same by name
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fwk.contracts.plain import PlainDict
from fwk.data.examples.answers import Answer, decided_answers, decode_answers
from fwk.data.examples.encoded import EncodedExamples
from fwk.data.examples.labels import LabelSpace
from fwk.data.examples.measuring import decided, over_windows
from fwk.errors import UserError
from fwk.files import write_atomically

SUFFIXES = (".csv", ".tsv", ".jsonl")


def check_suffix(path: Path) -> None:
    """Raise UserError for a file whose name does not say how predictions are written."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"--predictions: {path.name} does not say how predictions are written; expected a name that ends in "
            f"{', '.join(SUFFIXES)}"
        )


def probabilities(values: Tensor, space: LabelSpace) -> list[float]:
    """Return the probabilities of classes or choices. values: their logits."""
    logits = values.double()
    shares = logits.sigmoid() if space.kind == "classes" else logits.softmax(-1)
    return [round(value, 8) for value in shares.tolist()]


def readable_answer(answer: Answer, optional: bool, threshold: float) -> PlainDict:
    """Return an answer as JSON data: {prediction, score, no_answer}."""
    texts = decided_answers({0: answer}, optional, threshold)
    score = answer.best[0][1] if answer.best else None
    return {
        "prediction": texts[0],
        "score": score,
        **({"no_answer": answer.no_answer} if optional else {}),
    }


def readable(space: LabelSpace, values: Tensor) -> PlainDict:
    """Return a prediction of any kind but a span as JSON data: {prediction, probabilities}."""
    decision = decided(values, space)
    if space.kind == "class":
        names = dict(zip(space.values, probabilities(values, space)))
        return {"prediction": space.values[int(decision)], "probabilities": names}
    if space.kind == "classes":
        names = dict(zip(space.values, probabilities(values, space)))
        chosen = [name for name, yes in zip(space.values, decision) if yes]
        return {"prediction": chosen, "probabilities": names}
    if space.kind == "choice":
        finite = values[torch.isfinite(values)]
        return {"prediction": int(decision), "probabilities": probabilities(finite, space)}
    return {"prediction": decision.tolist()}


def readable_by_label(
    examples: EncodedExamples,
    spaces: Mapping[str, LabelSpace],
    predictions: Sequence[Mapping[str, Tensor]],
    threshold: float,
) -> PlainDict:
    """Return the predictions for one example, which may have windows, by label. predictions: of each window."""
    return {
        label: by_example(
            examples,
            spaces[label],
            {number: values[label] for number, values in enumerate(predictions)},
            threshold,
        )[0]
        for label in predictions[0]
        if label in spaces
    }


def by_example(
    examples: EncodedExamples,
    space: LabelSpace,
    predictions: Mapping[int, Tensor],
    threshold: float = 0.0,
) -> dict[int, PlainDict]:
    """Return the predictions of one label as JSON data, by number of the example. threshold: see `decided_answers`."""
    if space.kind != "span":
        merged = over_windows(examples, predictions)
        return {number: readable(space, values) for number, values in merged.items()}
    answers = decode_answers(examples, space, predictions)
    return {
        number: readable_answer(answer, space.optional, threshold)
        for number, answer in answers.items()
    }


def write_table(
    examples: EncodedExamples,
    spaces: Mapping[str, LabelSpace],
    predictions: Mapping[str, Mapping[int, Tensor]],
    path: Path,
    threshold: float = 0.0,
) -> None:
    """Write the predictions for the examples of one source, in their order. threshold: see `decided_answers`."""
    by_label = {
        label: by_example(examples, spaces[label], values, threshold)
        for label, values in predictions.items()
        if label in spaces
    }
    rows: list[PlainDict] = []
    for number, key in enumerate(examples.keys):
        entries = {
            label: entries[number] for label, entries in by_label.items() if number in entries
        }
        rows.append({"key": key, **entries})
    if path.suffix.lower() == ".jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        text = _separated(rows, by_label, spaces, "\t" if path.suffix.lower() == ".tsv" else ",")
    write_atomically(path, text.encode())


def _separated(
    rows: list[PlainDict],
    labels: Mapping[str, object],
    spaces: Mapping[str, LabelSpace],
    separator: str,
) -> str:
    output = io.StringIO()
    writer = csv.writer(output, delimiter=separator, lineterminator="\n")
    # the places of several numbers have no probabilities
    classes = {
        label: spaces[label].values if spaces[label].kind in ("class", "classes") else ()
        for label in labels
    }
    names = {label: [f"{label}: {value}" for value in classes[label]] for label in labels}
    writer.writerow(["key", *(column for label in labels for column in (label, *names[label]))])
    for row in rows:
        cells: list[object] = [row["key"]]
        for label in labels:
            entry = row.get(label, {"prediction": ""})
            value = entry["prediction"]
            cells.append(",".join(map(str, value)) if isinstance(value, list) else value)
            if classes[label]:
                cells += entry.get("probabilities", {}).values()
        writer.writerow(cells)
    return output.getvalue()
