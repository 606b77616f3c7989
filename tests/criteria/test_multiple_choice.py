"""Multiple choice with different numbers of choices, against references written from its equation."""

from __future__ import annotations

import math

import pytest
import torch
from support.sequence_heads import labelled, outputs, random_criterion, softmax

from fwk.criteria.multiple_choice import MultipleChoice, places_of_choices

# examples with 2, 1, 3 and 1 choices
DRAWS = [9, 9, 4, 0, 0, 0, 5]
SIZES = [2, 1, 3, 1]


def view_of(targets: list[int]):
    label = torch.tensor(targets).repeat_interleave(torch.tensor(SIZES))
    return labelled(label, DRAWS)


@pytest.mark.parametrize("targets", [[1, 0, 2, 0], [0, -1, 1, -1], [-1, -1, -1, -1]])
def test_the_loss_is_the_equation_in_float64(targets: list[int]) -> None:
    criterion = random_criterion(MultipleChoice, "choice", dropout=0.0)
    view, expected = view_of(targets), 0.0
    scores = [row[0] for row in outputs(criterion.scores, view)]
    for number, target in enumerate(targets):
        start = sum(SIZES[:number])
        if target >= 0:
            expected -= math.log(softmax(scores[start : start + SIZES[number]])[target])
    term = criterion({"choices": view}, None).terms["multiple_choice"]
    assert float(term.sum.detach()) == pytest.approx(expected, rel=1e-12)
    count = sum(target >= 0 for target in targets)
    assert int(criterion.normalizers({"choices": view}, None)["multiple_choice"]) == count


def test_gradients_are_finite_where_an_example_has_fewer_choices() -> None:
    criterion = random_criterion(MultipleChoice, "choice", dropout=0.0)
    criterion({"choices": view_of([1, -1, 2, 0])}, None).terms["multiple_choice"].sum.backward()
    gradients = [parameter.grad for parameter in criterion.parameters()]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)


def test_a_prediction_has_a_score_per_choice_and_minus_infinity_behind_them() -> None:
    criterion = random_criterion(MultipleChoice, "choice", dropout=0.0).eval()
    view = view_of([0, 0, 0, 0])
    logits = criterion.predict({"choices": view}, None)["label"]
    scores = [row[0] for row in outputs(criterion.scores, view)]
    assert logits.shape == (4, 3)
    assert logits[logits.isfinite()].tolist() == pytest.approx(scores)
    assert logits.isfinite().sum(1).tolist() == SIZES


def test_places_are_counted_within_each_example() -> None:
    first, places = places_of_choices(torch.tensor(DRAWS))
    assert first.tolist() == [0, 2, 3, 6] and places.tolist() == [0, 1, 0, 0, 1, 2, 0]
