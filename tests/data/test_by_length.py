"""Batches by length: every example once per epoch, random access, little padding."""

from __future__ import annotations

import numpy as np
import pytest

from fwk.data.by_length import WINDOW, ByLength, similar_lengths


def order_of(size: int, batch: int = 8, seed: int = 3) -> tuple[ByLength, np.ndarray]:
    lengths = np.random.default_rng(1).integers(5, 100, size)
    return ByLength(seed, {"a": size}, None, {"a": lengths}, batch), lengths


@pytest.mark.parametrize("size", [1, 7, 8, 100, 8 * WINDOW + 5, 3 * 8 * WINDOW])
def test_every_example_comes_once_per_epoch(size: int) -> None:
    order, _ = order_of(size)
    _, indices, epochs = order.locate(np.arange(3 * size))
    assert (np.sort(indices.reshape(3, size), axis=1) == np.arange(size)).all()
    assert (epochs.reshape(3, size) == np.arange(3)[:, None]).all()


def test_a_draw_depends_on_nothing_that_was_asked_before() -> None:
    whole = order_of(1000)[0].locate(np.arange(5000))[1]
    order, _ = order_of(1000)
    for start in (4000, 17, 3999, 0, 2500):
        assert (order.locate(np.arange(start, start + 33))[1] == whole[start : start + 33]).all()
    other = order_of(1000, seed=4)[0].locate(np.arange(5000))[1]
    assert (other != whole).any()


def test_updates_have_similar_lengths_in_no_order() -> None:
    order, lengths = order_of(8 * WINDOW)
    updates = lengths[order.locate(np.arange(8 * WINDOW))[1]].reshape(WINDOW, 8)
    padding = 1 - updates.sum() / (updates.max(1) * 8).sum()
    assert padding < 0.02  # 45% without
    means = updates.mean(1)
    assert abs(np.corrcoef(means, np.arange(WINDOW))[0, 1]) < 0.5


def test_a_mixture_keeps_its_shares() -> None:
    sizes = {"a": 300, "b": 100}
    lengths = {name: np.arange(size) % 50 for name, size in sizes.items()}
    order = ByLength(1, sizes, {"a": 0.5, "b": 0.5}, lengths, 4)
    sources, _, _ = order.locate(np.arange(4096 * 2))
    assert np.bincount(sources).tolist() == [4096, 4096]


def test_an_evaluation_reads_the_first_examples_the_longest_first() -> None:
    lengths = {"a": np.array([3, 9, 5]), "b": np.array([7, 8])}
    assert similar_lengths(lengths, 4).tolist() == [1, 3, 2, 0]
    assert sorted(similar_lengths(lengths, 5).tolist()) == [0, 1, 2, 3, 4]
