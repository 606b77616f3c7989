"""Predictions of several ranks arrive as they were made."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from fwk.engine.predict import gather_predictions


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_batches_of_all_ranks_are_equal_to_the_last_bit(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = (torch.randn(3, 4, dtype=torch.float64) * 9).to(dtype)
    if dtype.is_floating_point:
        values[0, 3] = -torch.inf  # an example with fewer choices
    made = [
        {"a": (torch.arange(3), values), "b": (torch.arange(3), values[:, 0])},
        {"a": (torch.arange(3, 3), values[:0, :2])},
    ]
    world = SimpleNamespace(
        size=2, gather_objects=lambda value: [json.loads(json.dumps(value))] * 2
    )
    ours = [entry for batch in made for entry in batch.items()] * 2
    theirs = [entry for batch in gather_predictions(world, made) for entry in batch.items()]
    assert [name for name, _ in theirs] == [name for name, _ in ours]
    for (_, (draws, expected)), (_, (found_draws, found)) in zip(ours, theirs):
        assert found_draws.equal(draws) and found_draws.dtype == torch.int64
        assert found.shape == expected.shape and found.double().equal(expected.double())
