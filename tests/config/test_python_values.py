"""Values from Python: what a caller has at hand becomes plain data, and anything else is refused with its key."""

import datetime
from collections import deque
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from fwk.config.python_values import plain_from_python
from fwk.config.resolve import from_mapping, from_python
from fwk.errors import ConfigError


class Precision(Enum):
    LOW = "bf16"


class Batch(int, Enum):
    SMALL = 4


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("optimizer.lr", np.float64(1e-3), 1e-3),
        ("optimizer.lr", np.float32(0.5), 0.5),
        ("optimizer.lr", Decimal("0.001"), 1e-3),
        ("optimizer.lr", Fraction(1, 4), 0.25),
        ("optimizer.lr", torch.tensor(0.5), 0.5),
        ("optimizer.lr", np.array(0.5), 0.5),
        ("optimizer.betas", np.array([0.5, 0.25]), (0.5, 0.25)),
        ("optimizer.betas", torch.tensor([0.5, 0.25]), (0.5, 0.25)),
        ("optimizer.betas", deque([np.float16(0.5), Decimal("0.25")]), (0.5, 0.25)),
        ("train.batch", np.int64(4), 4),
        ("train.batch", Decimal(4), 4),
        ("train.batch", Batch.SMALL, 4),
        ("train.compile", np.bool_(True), True),
        ("train.device", np.str_("cpu"), "cpu"),
        ("train.device", torch.device("cpu"), "cpu"),
        ("train.precision", torch.bfloat16, "bf16"),
        ("train.precision", Precision.LOW, "bf16"),
    ],
)
def test_a_value_from_python_means_what_its_yaml_would(key, value, expected):
    config = from_python(None, {"task": "synthetic", key: value})
    section, name = key.split(".")
    values = getattr(config, section)
    made = values.values[name] if section == "optimizer" else getattr(values, name)
    assert made == expected and type(made) is type(expected)


def test_values_inside_mappings_and_flags_are_converted_too():
    made = from_python(
        {"train": {"batch": np.int32(4)}, "criterion": {"masked_lm": {"weight": np.float32(2)}}},
        {"task": Path("synthetic"), "seed": np.uint8(3), "run": Path("runs") / "a"},
    )
    assert made.train.batch == 4 and made.criterion["masked_lm"].weight == 2.0
    assert made.seed == 3 and made.run == "runs/a" and made.task.name == "synthetic"
    assert from_python(None, {"criterion": np.array(["masked_lm"])}).criterion.keys() == {
        "masked_lm"
    }
    assert plain_from_python(datetime.date(2024, 2, 1)) == "2024-02-01"


CIRCLE: dict = {}
CIRCLE["train"] = CIRCLE


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optimizer.betas", {0.5, 0.25}, "a value of type set; sort it into a list"),
        ("optimizer.betas", (b for b in (0.5,)), "a value of type generator"),
        ("optimizer.lr", 1j, "a value of type complex"),
        ("optimizer.lr", np.float64("nan"), "must be a finite number"),
        ("optimizer.lr", Decimal("1e999999999"), "must be a finite number"),
        ("optimizer.lr", Decimal("sNaN"), "must be a finite number"),
        ("train.batch", np.float64(4), "expected a whole number, got 4.0; write 4"),
        ("train.device", b"cpu", "a value of type bytes"),
        ("train.device", print, "a value of type builtin_function_or_method"),
        ("train.device", torch.empty(2, device="meta"), "the values of .* cannot be read"),
        ("train", CIRCLE, "too deep or circular"),
    ],
)
def test_a_value_without_a_form_in_yaml_is_refused_with_its_key(key, value, message):
    with pytest.raises(ConfigError, match=message) as caught:
        from_python(None, {"task": "synthetic", key: value})
    assert caught.value.key.startswith(key)


# ---- labels ----


@pytest.mark.parametrize("view", ["a.b", "", "a b", "-a", "a/b", "a\nb"])
def test_a_view_that_an_option_names_has_a_name_that_a_key_can_hold(view):
    config = from_mapping({"criterion": {"replaced_token_detection": {"view": view}}})
    with pytest.raises(ConfigError, match="cannot be the name of a view"):
        _ = config.views_by_name


@pytest.mark.parametrize(
    "values",
    [
        {"criterion": {"forward": {"name": "masked_lm"}}},
        {"networks": {"items": {"name": "bert"}}},
        {"criterion": {"replaced_token_detection": {"view": "training"}}},
    ],
)
def test_a_name_of_modules_is_none_that_torch_keeps_for_itself(values):
    config = from_mapping(values)
    with pytest.raises(ConfigError, match="torch keeps '(forward|items|training)' for itself"):
        _ = config.views_by_name


def test_a_view_without_parameters_may_have_a_name_that_torch_keeps_for_itself():
    assert "items" in from_mapping({"criterion": {"masked_lm": {"view": "items"}}}).views_by_name
