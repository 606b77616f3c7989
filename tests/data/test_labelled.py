"""Cells become labels or are refused with their place; keyed choices of examples are nested."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from fwk.data.labelled import (
    class_name,
    find_classes,
    keyed_held_out,
    keyed_per_class,
    keyed_share,
    parse_class,
    parse_classes,
    parse_number,
    parse_numbers,
)
from fwk.data.tables import BadRow
from fwk.errors import DataError

KEYS = [f"example {index}" for index in range(1000)]


# -- labels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, name",
    [("good", "good"), (" good ", "good"), (3, "3"), (3.0, "3"), (0.5, "0.5"), (True, "true"), ("1.0", "1.0")],
)  # fmt: skip
def test_a_class_is_known_by_its_text(value, name):
    assert class_name(value, "f:1") == name
    assert parse_class(value, ["other", name], "f:1") == name


@pytest.mark.parametrize(
    "value, reason",
    [
        ("", "the label is empty"),
        ("  ", "the label is empty"),
        (None, "the label is empty"),
        (math.nan, "the label is empty"),
        ([1], "expected a class as label, got a list"),
        ("god", "unknown label 'god'. Did you mean 'good'? Available: bad, good"),
        (math.inf, "unknown label 'inf'"),
        ("x" * 10**6, "unknown label 'xxx"),
    ],
)
def test_what_is_no_known_class_is_refused_with_its_place(value, reason):
    with pytest.raises(BadRow) as refused:
        parse_class(value, ["good", "bad"], "f:7")
    assert str(refused.value).startswith(f"f:7: {reason}")
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    "value, number", [("1.5", 1.5), (" -2 ", -2), ("1e-3", 1e-3), (".5", 0.5), (7, 7), (2.5, 2.5)]
)
def test_a_number_may_be_written_as_text(value, number):
    assert parse_number(value, "f:1") == number


@pytest.mark.parametrize(
    "value, reason",
    [
        ("", "the number is missing"),
        (None, "the number is missing"),
        (math.nan, "the number is missing"),
        ("1,5", "expected a number, got '1,5'; decimals follow a point, as in 1.5"),
        ("five", "expected a number, got 'five'"),
        ("1_000", "expected a number, got '1_000'"),
        ("nan", "expected a number, got 'nan'"),
        (True, "expected a number, got true"),
        ([1], "expected a number, got a list"),
        ("1e999", "expected a finite number, got '1e999'"),
        (10**400, "expected a finite number, got 1000"),
    ],
)
def test_what_is_no_finite_number_is_refused_with_its_place(value, reason):
    with pytest.raises(BadRow) as refused:
        parse_number(value, "f:7")
    assert str(refused.value).startswith(f"f:7: {reason}")


def test_lists_of_labels_are_lists_or_texts_with_separators():
    known = ["a", "b", "c"]
    assert parse_classes(["b", "a", "b"], known, "f:1") == ("b", "a")
    assert parse_classes("b | a", known, "f:1", "|") == ("b", "a")
    assert parse_classes("", known, "f:1", "|") == ()
    assert parse_classes("c", known, "f:1") == ("c",)
    assert parse_numbers([1, "2.5"], "f:1") == (1, 2.5)
    assert parse_numbers("1;2", "f:1", ";", count=2) == (1, 2)
    for value, reason in [("a||b", "is empty"), ("a|d", "unknown"), (None, "expected a list")]:
        with pytest.raises(BadRow, match=reason):
            parse_classes(value, known, "f:1", "|")
    with pytest.raises(BadRow, match="expected 3 numbers, got 2"):
        parse_numbers("1;2", "f:1", ";", count=3)


def test_classes_are_sorted_as_numbers_only_if_all_are_integers():
    assert find_classes(["10", "9", "-1", "9"]) == ("-1", "9", "10")
    assert find_classes(["10", "9", "x"]) == ("10", "9", "x")
    assert find_classes(["good", "bad"]) == ("bad", "good")


@pytest.mark.parametrize(
    "names, message",
    [
        ([str(i) for i in range(1001)] * 2, "has more than 1000 different labels, which may be numbers"),
        ([f"{i}.5" for i in range(20)], "has 20 rows with as many different labels"),
        (["good"] * 9, "has only 'good', expected at least two classes"),
        ([], "has no label at all"),
    ],
)  # fmt: skip
def test_what_are_no_classes_is_refused(names, message):
    with pytest.raises(DataError) as refused:
        find_classes(names, "stars")
    assert f"the column 'stars' {message}" in str(refused.value)


# -- keyed choices -----------------------------------------------------------------------------------------------------


def test_a_smaller_share_lies_within_a_larger_one():
    shares = [keyed_share(1, KEYS, fraction) for fraction in (0.0, 0.001, 0.01, 0.1, 0.5, 1.0)]
    assert [int(share.sum()) for share in shares] == [0, 1, 10, 100, 500, 1000]
    for smaller, larger in pairwise(shares):
        assert not (smaller & ~larger).any()
    assert (keyed_share(1, KEYS, 0.1) != keyed_share(2, KEYS, 0.1)).any()


def test_a_choice_depends_on_keys_and_not_on_the_order_of_examples():
    reverse = KEYS[::-1]
    classes = [f"{int(key.split()[1]) % 3}" for key in KEYS]
    assert (keyed_share(1, KEYS, 0.1) == keyed_share(1, reverse, 0.1)[::-1]).all()
    assert (keyed_held_out(1, KEYS, 0.1) == keyed_held_out(1, reverse, 0.1)[::-1]).all()
    chosen = keyed_per_class(1, KEYS, classes, 5)
    assert (chosen == keyed_per_class(1, reverse, classes[::-1], 5)[::-1]).all()


def test_fewer_examples_of_each_class_lie_within_more():
    classes = ["rare" if index < 5 else f"c{index % 2}" for index in range(1000)]
    smaller, larger = (keyed_per_class(1, KEYS, classes, n) for n in (8, 16))
    assert not (smaller & ~larger).any()
    for n, chosen in [(8, smaller), (16, larger)]:
        of_class = [
            sum(chosen[i] for i in range(1000) if classes[i] == c) for c in ("rare", "c0", "c1")
        ]
        assert of_class == [5, n, n]


def test_an_example_without_a_class_is_none_of_a_few():
    classes = [None if index % 2 else f"c{index % 4}" for index in range(1000)]
    chosen = keyed_per_class(1, KEYS, classes, 8)
    assert chosen.sum() == 16
    assert not any(taken for taken, name in zip(chosen, classes) if name is None)


def test_examples_of_one_key_are_held_out_together():
    twice = [key for key in KEYS for _ in range(2)]
    held_out = keyed_held_out(3, twice, 0.1)
    assert (held_out[::2] == held_out[1::2]).all()
    assert held_out.sum() == 200
    assert not (held_out & ~keyed_held_out(3, twice, 0.2)).any()


def test_something_is_left_to_train_on_and_something_is_held_out():
    assert not keyed_held_out(1, KEYS, 0.0).any()
    assert keyed_held_out(1, ["a", "b"], 0.01).sum() == 1
    assert keyed_held_out(1, ["a", "b", "c"], 0.99).sum() == 2
    assert not keyed_held_out(1, ["a", "a"], 0.5).any()
    assert len(keyed_held_out(1, [], 0.5)) == 0
    assert isinstance(keyed_held_out(1, KEYS, 0.5), np.ndarray)


def test_the_share_and_what_is_held_out_are_independent():
    both = keyed_share(1, KEYS, 0.5) & keyed_held_out(1, KEYS, 0.5)
    assert (
        200 < both.sum() < 300
    )  # 250 ± 3 standard deviations of 8 if independent; fixed by the seed
