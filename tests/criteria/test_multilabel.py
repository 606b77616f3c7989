"""Several classes at once against references written from the equation."""

from __future__ import annotations

import math

import pytest
import torch
from support.sequence_heads import labelled, outputs, random_criterion

from fwk.criteria.multilabel import Multilabel

CLASSES = ("a", "b", "c")
# the second row has no label, the last one no class
LABELS = torch.tensor(
    [[1, 0, 1], [-1, -1, -1], [0, 0, 1], [1, 1, 1], [0, 1, 0], [-1, -1, -1], [0, 0, 0]],
    dtype=torch.float32,
)


@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_the_loss_is_the_equation_in_float64(weight: float) -> None:
    criterion = random_criterion(
        Multilabel, "classes", CLASSES, positive_weight=weight, dropout=0.0
    )
    view, expected, right, count = labelled(LABELS), 0.0, 0, 0
    for targets, row in zip(LABELS.tolist(), outputs(criterion.logits, view)):
        for y, z in zip(targets, row):
            if y >= 0:
                share = 1 / (1 + math.exp(-z))
                expected -= weight * y * math.log(share) + (1 - y) * math.log(1 - share)
                right += (z > 0) == (y > 0)
                count += 1
    output = criterion({"text": view}, None)
    term = output.terms["multilabel"]
    assert float(term.sum.detach()) == pytest.approx(expected, rel=1e-12)
    assert int(criterion.normalizers({"text": view}, None)["multilabel"]) == count == 15
    assert criterion.metrics(output.statistics)["right"] == pytest.approx(right / count)
