"""The order of examples: a keyed permutation per source and epoch, an exact composition per block, random access."""

from __future__ import annotations

import math
import time
from collections import Counter

import numpy as np
import pytest

from fwk.contracts.keyed import mix_array
from fwk.data.order import Order, permute
from fwk.errors import ConfigError, DataError


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 15, 16, 17, 100, 1000, 4096, 4097])
def test_permutation_is_a_bijection(size):
    permuted = permute(np.arange(size), size, np.full(size, 99, np.uint64))
    assert sorted(permuted.tolist()) == list(range(size))


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6, 7, 8, 15, 16, 64])
def test_over_the_keys_every_example_is_at_every_place_equally_often(size):
    """Chi-square of places, with keys that are fixed: below 5 deviations of its mean."""
    keys = mix_array(np.arange(6000, dtype=np.uint64) + np.uint64(77))
    for position in {0, size // 2, size - 1}:
        places = permute(np.full(len(keys), position), size, keys)
        expected = len(keys) / size
        square = ((np.bincount(places, minlength=size) - expected) ** 2 / expected).sum()
        assert square < size - 1 + 5 * np.sqrt(2 * (size - 1))


@pytest.mark.parametrize("size", [5, 6])
def test_all_orders_of_few_examples_occur_though_not_equally_often(size):
    orders = Counter(map(tuple, orders_of(size, 9000)))
    assert len(orders) == math.factorial(size)
    expected = 9000 / math.factorial(size)
    assert max(orders.values()) < 1.2 * expected + 5 * np.sqrt(expected)


@pytest.mark.parametrize(("size", "even"), [(4, False), (16, True), (64, True), (17, False)])
def test_orders_of_a_power_of_four_from_sixteen_on_are_even(size, even):
    """The known property of the network that the module documents; no order may change without a reason."""
    parities = {parity(order) for order in orders_of(size, 40)}
    assert parities == ({0} if even else {0, 1})


def orders_of(size, count):
    """The orders of so many keys, int64 [count, size]."""
    keys = mix_array(np.arange(count, dtype=np.uint64) + np.uint64(5))
    columns = [permute(np.full(count, position), size, keys) for position in range(size)]
    return np.stack(columns, axis=1)


def parity(order):
    """0 for an even permutation, 1 for an odd one."""
    left, cycles = set(range(len(order))), 0
    while left:
        place, cycles = min(left), cycles + 1
        while place in left:
            left.remove(place)
            place = int(order[place])
    return (len(order) - cycles) % 2


def test_every_example_comes_once_per_epoch_and_epochs_differ():
    order = Order(3, {"a": 1013})
    sources, indices, epochs = order.locate(np.arange(3 * 1013))
    assert set(sources.tolist()) == {0} and epochs.tolist() == [
        e for e in range(3) for _ in range(1013)
    ]
    rows = indices.reshape(3, 1013)
    assert all(sorted(row.tolist()) == list(range(1013)) for row in rows)
    assert len({tuple(row) for row in rows}) == 3
    assert order.epoch_of(2026) == 2.0


def test_seeds_and_names_give_different_orders():
    first = Order(1, {"a": 500}).locate(np.arange(500))[1]
    assert not np.array_equal(first, Order(2, {"a": 500}).locate(np.arange(500))[1])
    assert not np.array_equal(first, Order(1, {"b": 500}).locate(np.arange(500))[1])
    assert np.array_equal(first, Order(1, {"a": 500}).locate(np.arange(500))[1])


@pytest.mark.parametrize(
    "mixture",
    [
        None,
        {"a": 1, "b": 1, "c": 1},
        {"a": 0.7, "b": 0.29, "c": 0.01},
        {"a": 1, "c": 1e-9},
        {"a": 0.333, "b": 0.333, "c": 0.334},
    ],
)
def test_composition_of_blocks_carries_what_is_left_over(mixture):
    sizes = {"a": 1000, "b": 77, "c": 5}
    order = Order(5, sizes, mixture, block=64)
    blocks = 600
    sources, _, _ = order.locate(np.arange(blocks * 64))
    counts = np.stack([np.bincount(block, minlength=3) for block in sources.reshape(blocks, 64)])
    assert (counts.sum(1) == 64).all()
    shares = np.array([(mixture or sizes).get(n, 0.0) for n in sizes], float)
    shares /= shares.sum()
    # shares are rounded to 1 / (256 * 64): over 600 blocks that is at most 600 / 256 draws, and one for a tiny share
    assert (
        np.abs(counts.cumsum(0) - np.outer(np.arange(1, blocks + 1) * 64, shares)).max()
        < 1 + 600 / 256 + 1
    )
    spread = counts.max(0) - counts.min(0)
    assert (
        spread <= 2
    ).all()  # fixed composition: a block differs from another by the carried draws only
    first = np.bincount(sources[: 64 * 100 + 13], minlength=3).tolist()
    assert order.drawn(64 * 100 + 13) == dict(zip(sizes, first, strict=True))


def test_a_source_of_a_mixture_is_drawn_once_per_its_own_epoch():
    order = Order(5, {"a": 100, "b": 30}, {"a": 0.5, "b": 0.5}, block=16)
    sources, indices, epochs = order.locate(np.arange(400))
    seen = Counter(zip(sources.tolist(), indices.tolist(), epochs.tolist(), strict=True))
    assert max(seen.values()) == 1
    for source, size in ((0, 100), (1, 30)):
        mine = epochs[sources == source]
        assert (np.bincount(mine)[: mine.max()] == size).all()


@pytest.mark.parametrize("sizes", [{"a": 1001}, {"a": 1001, "b": 64, "c": 9}])
def test_random_access_equals_sequential(sizes):
    order = Order(7, sizes)
    draws = np.random.default_rng(0).integers(0, 20000, 3000)
    everything = order.locate(np.arange(20000))
    for one, all_of_them in zip(order.locate(draws), everything, strict=True):
        assert np.array_equal(one, all_of_them[draws])
    assert [int(x[0]) for x in order.locate(np.array([19999]))] == [int(x[-1]) for x in everything]


def test_1e11_examples_take_no_memory_and_no_time():
    began = time.process_time()
    order = Order(1, {"web": 10**11, "books": 10**9}, {"web": 0.9, "books": 0.1})
    sources, indices, _ = order.locate(np.arange(7 * 10**10, 7 * 10**10 + 4096))
    assert time.process_time() - began < 2
    assert (
        len(set(indices[sources == 0].tolist())) == (sources == 0).sum()
        and indices[sources == 0].max() > 9 * 10**10
    )


@pytest.mark.parametrize("size", [3, 4, 5])
def test_permutations_of_small_sets_are_close_to_uniform(size):
    epochs = 20000
    rows = Order(1, {"a": size}).locate(np.arange(size * epochs))[1].reshape(epochs, size)
    counts = np.stack([np.bincount(rows[:, k], minlength=size) for k in range(size)])
    expected = epochs / size
    assert (
        (counts - expected) ** 2 / expected
    ).sum() < 3 * size * size  # chi-square, (size - 1)^2 degrees of freedom


def test_neighbours_do_not_stay_neighbours():
    indices = Order(1, {"a": 100_000}).locate(np.arange(100_000))[1]
    steps = np.abs(np.diff(indices))
    assert abs(steps.mean() / 33_333 - 1) < 0.02 and (steps == 1).sum() < 20
    assert abs(np.corrcoef(indices, np.arange(100_000))[0, 1]) < 0.02


def test_wrong_mixtures_are_refused_by_name():
    with pytest.raises(ConfigError, match="Did you mean 'news'"):
        Order(1, {"news": 5, "books": 3}, {"new": 1.0})
    with pytest.raises(DataError, match="'books' has no examples"):
        Order(1, {"news": 5, "books": 0})
    with pytest.raises(ConfigError, match="share 0"):
        Order(1, {"news": 5}, {"news": 0.0})
    with pytest.raises(ConfigError, match="number >= 0"):
        Order(1, {"news": 5}, {"news": -1.0})


@pytest.mark.parametrize("group", [2, 8, 500])
def test_a_group_of_draws_comes_from_one_source(group):
    sizes, shares = {"a": 1000, "b": 77, "c": 5}, np.array([0.5, 0.3, 0.2])
    order = Order(5, sizes, dict(zip(sizes, shares, strict=True)), block=64, group=group)
    blocks = 40
    draws = np.arange(blocks * order.block * group + group // 2)
    sources, indices, epochs = order.locate(draws)
    whole = sources[: blocks * order.block * group].reshape(-1, group)
    assert (whole == whole[:, :1]).all() and len(set(sources[-(group // 2) :].tolist())) == 1
    counts = np.stack(
        [np.bincount(block, minlength=3) for block in whole[:, 0].reshape(blocks, -1)]
    )
    assert (counts.max(0) - counts.min(0) <= 2).all()
    expected = np.outer(np.arange(1, blocks + 1) * order.block, shares)
    assert (
        np.abs(counts.cumsum(0) - expected).max() < 2 + blocks / 256
    )  # in groups; shares are rounded
    seen = Counter(zip(sources.tolist(), indices.tolist(), epochs.tolist(), strict=True))
    assert max(seen.values()) == 1
    for source, size in enumerate(sizes.values()):  # and each epoch of a source is complete
        mine = epochs[: whole.size][sources[: whole.size] == source]
        assert (np.bincount(mine)[: mine.max()] == size).all()
    for consumed in (0, 1, group, 3 * group + group // 2, order.block * group, len(draws)):
        assert (
            list(order.drawn(consumed).values())
            == np.bincount(sources[:consumed], minlength=3).tolist()
        )
    some = np.random.default_rng(0).integers(0, len(draws), 200)
    assert all(
        np.array_equal(a, b[some])
        for a, b in zip(order.locate(some), (sources, indices, epochs), strict=True)
    )


def test_groups_change_nothing_where_there_is_one_source():
    for one, other in zip(
        Order(3, {"a": 101}).locate(np.arange(300)),
        Order(3, {"a": 101}, group=7).locate(np.arange(300)),
        strict=True,
    ):
        assert np.array_equal(one, other)
    assert Order(3, {"a": 101}, group=7).drawn(45) == {"a": 45}


def test_half_and_half_in_groups_alternates_from_the_start():
    sources = Order(
        1, {"labelled": 100, "unlabelled": 1000}, {"labelled": 1, "unlabelled": 1}, group=32
    ).locate(np.arange(32 * 128))[0]
    assert (sources == 0).sum() == 32 * 64  # exact over 4096 draws, not over 4096 updates
