"""The cosine of two texts against a reference written from its equation."""

from __future__ import annotations

import math

import pytest
import torch
from support.sequence_heads import labelled, random_criterion
from support.small_text import Stub

from fwk.contracts.views import View
from fwk.criteria.similarity import Similarity
from fwk.errors import ConfigError

LABELS = torch.tensor([0.5, math.nan, 5.0, 2.0, 0.0, math.nan, 3.0])


def mean_of(view: View) -> list[list[float]]:
    vectors = []
    for features, content in zip(view.encoded.features.tolist(), view.content.tolist()):
        chosen = [vector for vector, counts in zip(features, content) if counts]
        vectors.append([sum(column) / len(chosen) for column in zip(*chosen)])
    return vectors


def test_the_loss_is_the_equation_in_float64() -> None:
    criterion = random_criterion(Similarity, "number", low=-1.0, high=5.0)
    views, expected, cosines = (
        {"first": labelled(LABELS), "second": labelled(LABELS, seed=1)},
        0,
        [],
    )
    for y, a, b in zip(LABELS.tolist(), mean_of(views["first"]), mean_of(views["second"])):
        product = sum(x * z for x, z in zip(a, b))
        cosines.append(product / math.hypot(*a) / math.hypot(*b))
        if y == y:
            expected += (cosines[-1] - (y + 1) / 6) ** 2
    term = criterion(views, None).terms["similarity"]
    assert float(term.sum) == pytest.approx(expected, rel=1e-12)
    assert int(criterion.normalizers(views, None)["similarity"]) == 5
    numbers = [-1 + 6 * cosine for cosine in cosines]  # in the unit of the label
    assert criterion.predict(views, None)["label"].tolist() == pytest.approx(numbers)
    assert not list(criterion.parameters())


def test_a_first_position_that_sees_only_itself_is_no_vector_of_a_text(monkeypatch) -> None:
    random_criterion(Similarity, "number", pooling="cls")
    monkeypatch.setattr(Stub, "direction", "left_to_right")
    random_criterion(Similarity, "number", pooling="mean")
    with pytest.raises(ConfigError, match="model.direction: criterion .* sees nothing but itself"):
        random_criterion(Similarity, "number", pooling="cls")
