"""Classification against references written from its equation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.sequence_heads import build, labelled, outputs, random_criterion, softmax

from fwk.criteria.classification import Classification
from fwk.errors import ConfigError

CLASSES = ("a", "v 1.0", "c")
LABELS = torch.tensor([0, -1, 2, 1, 1, -1, 2])


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "last"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_is_the_equation_in_float64(pooling: str, smoothing: float) -> None:
    weights = {"v 1.0": 3.0, "c": 0.0}
    criterion = random_criterion(
        Classification,
        "class",
        CLASSES,
        pooling=pooling,
        label_smoothing=smoothing,
        class_weights=weights,
        dropout=0.0,
    )
    view, expected, total = labelled(LABELS), 0.0, 0.0
    for target, logits in zip(LABELS.tolist(), outputs(criterion.logits, view)):
        if target >= 0:
            weight, shares = weights.get(CLASSES[target], 1.0), softmax(logits)
            targets = [smoothing / 3 + (1 - smoothing) * (c == target) for c in range(3)]
            expected -= weight * sum(y * math.log(p) for y, p in zip(targets, shares))
            total += weight
    term = criterion({"text": view}, None).terms["classification"]
    assert float(term.sum.detach()) == pytest.approx(expected, rel=1e-12)
    assert float(criterion.normalizers({"text": view}, None)["classification"]) == total


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    gold = ["a"] * 7 + ["v 1.0"] * 2 + ["c"] * 11
    counts = tuple(gold.count(name) for name in CLASSES)
    context = replace(build("class", CLASSES), label_counts={"label": counts})
    criterion = Classification(Classification.Config(class_weights="balanced"), context)
    expected = compute_class_weight("balanced", classes=np.array(CLASSES), y=np.array(gold))
    assert criterion.weights.tolist() == pytest.approx(expected.tolist(), rel=1e-7)


def test_balanced_weights_need_examples_of_every_class() -> None:
    config = Classification.Config(class_weights="balanced")
    with pytest.raises(ConfigError, match="nothing says how many training examples"):
        Classification(config, build("class", CLASSES))
    context = replace(build("class", CLASSES), label_counts={"label": (3, 0, 1)})
    with pytest.raises(ConfigError, match="no training example has the class 'v 1.0'"):
        Classification(config, context)


def test_rows_without_a_label_give_no_gradient_and_are_not_counted() -> None:
    criterion = random_criterion(Classification, "class", CLASSES, dropout=0.0)
    view = labelled(torch.full_like(LABELS, -1))
    output = criterion({"text": view}, None)
    output.terms["classification"].sum.backward()
    assert all(not parameter.grad.any() for parameter in criterion.parameters())
    assert criterion.metrics(output.statistics) == {"accuracy": 0.0}


def test_the_accuracy_is_that_of_labelled_rows() -> None:
    criterion = random_criterion(Classification, "class", CLASSES, dropout=0.0).eval()
    view = labelled(LABELS)
    logits = criterion.predict({"text": view}, None)["label"].tolist()
    expected = outputs(criterion.logits, view)
    assert [pytest.approx(row) for row in logits] == expected
    right = [row.index(max(row)) == y for row, y in zip(expected, LABELS.tolist()) if y >= 0]
    statistics = criterion({"text": view}, None).statistics
    assert criterion.metrics(statistics)["accuracy"] == pytest.approx(sum(right) / len(right))


@pytest.mark.parametrize(
    ("kind", "values", "options", "message"),
    [
        ("class", CLASSES, {"class_weights": {"b": 2.0}}, "no class 'b'"),
        ("class", ("a",), {}, "expected at least 2"),
        ("number", (), {}, "is of the kind 'number'"),
        ("class", CLASSES, {"label": "lable"}, "Did you mean .label."),
    ],
)
def test_what_does_not_fit_the_label_is_refused(
    kind: str, values: tuple[str, ...], options: dict, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Classification(Classification.Config(**options), build(kind, values))
