"""Regression against references written from its equation."""

from __future__ import annotations

import math

import pytest
import torch
from support.sequence_heads import labelled, outputs, random_criterion

from fwk.criteria.regression import Regression
from fwk.errors import ConfigError

NAN = math.nan
ONE = torch.tensor([0.5, NAN, 5.0, 2.0, -1.0, NAN, 3.0])
# a row may lack some of its numbers
SEVERAL = torch.stack([ONE, torch.tensor([1.0, 2.0, NAN, 0.0, 4.0, NAN, 1.5])], 1)
OPTIONS = {"low": -1.0, "high": 5.0, "dropout": 0.0, "pooling": "mean"}


@pytest.mark.parametrize("activation", ["linear", "sigmoid"])
@pytest.mark.parametrize(("kind", "label"), [("number", ONE), ("numbers", SEVERAL)])
def test_the_loss_is_the_equation_in_float64(
    activation: str, kind: str, label: torch.Tensor
) -> None:
    names = ("0", "1") if kind == "numbers" else ()
    criterion = random_criterion(Regression, kind, names, activation=activation, **OPTIONS)
    view, expected, count, predicted = labelled(label), 0.0, 0, []
    for targets, row in zip(
        label.reshape(len(label), -1).tolist(), outputs(criterion.outputs, view)
    ):
        out = [1 / (1 + math.exp(-z)) for z in row] if activation == "sigmoid" else row
        predicted.append([-1 + 6 * value for value in out])
        for y, value in zip(targets, out, strict=True):
            if y == y:
                expected += (value - (y + 1) / 6) ** 2
                count += 1
    term = criterion({"text": view}, None).terms["regression"]
    assert float(term.sum.detach()) == pytest.approx(expected, rel=1e-12)
    assert int(criterion.normalizers({"text": view}, None)["regression"]) == count
    prediction = criterion.predict({"text": view}, None)["label"]
    assert prediction.shape == label.shape
    assert prediction.reshape(len(label), -1).tolist() == [pytest.approx(row) for row in predicted]


def test_an_absent_number_gives_a_gradient_without_nan() -> None:
    criterion = random_criterion(Regression, "number", **OPTIONS)
    view = labelled(torch.full_like(ONE, NAN))
    criterion({"text": view}, None).terms["regression"].sum.backward()
    assert all(not parameter.grad.any() for parameter in criterion.parameters())


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected more than low"):
        Regression.Config(low=2.0, high=2.0)
