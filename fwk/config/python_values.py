"""Values from Python as plain data, so that a config holds the same whether it was written in YAML or in Python.

A number of numpy, a Decimal, a Path, a member of an Enum or a type of torch is what a caller has at hand; each has one
obvious form in YAML. Anything else is refused with the key that it was given for.
"""

from __future__ import annotations

import datetime
import math
import numbers
import os
from collections import deque
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Protocol, runtime_checkable

from fwk.config.paths import KeyPath, dotted
from fwk.contracts.options import Plain, shown
from fwk.errors import ConfigError

DEEPEST = 60  # levels of nesting, as in a config file
PRECISIONS = {"float64": "fp64", "float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


@runtime_checkable
class _Array(Protocol):
    """An array or scalar of numpy, torch, pandas or the standard library."""

    def tolist(self) -> Plain:
        """Return the values as numbers and nested lists."""


def plain_from_python(value: object, path: KeyPath = ()) -> Plain:
    """Return a value as YAML has it: None, bool, int, float, str, and lists and dicts of them.

    path: the key that the value was given for. Raises ConfigError for a value without such a form.
    """
    if len(path) > DEEPEST:
        raise ConfigError(dotted(path[:3]), "too deep or circular values for a config")
    if isinstance(value, Enum):
        return plain_from_python(value.value, path)
    if isinstance(value, Mapping):
        return {
            str(plain_from_python(key, path)): plain_from_python(inner, (*path, str(key)))
            for key, inner in value.items()
        }
    if isinstance(value, (list, tuple, deque, range)):
        return [plain_from_python(item, (*path, str(number))) for number, item in enumerate(value)]
    if isinstance(value, _Array):  # before numbers: some of numpy's are instances of float and str
        return plain_from_python(_values_of(value, path), path)
    return _scalar(value, path)


def _values_of(array: _Array, path: KeyPath) -> Plain:
    try:
        values = array.tolist()
    except Exception as error:  # a tensor without storage, an array on a lost device
        raise ConfigError(
            dotted(path), f"the values of {_described(array)} cannot be read: {error}"
        ) from None
    if isinstance(values, _Array):
        raise _refusal(values, path)
    return values


def _scalar(value: object, path: KeyPath) -> Plain:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)  # not a subclass, which YAML would not know
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, (numbers.Real, Decimal)):
        return _real(value, path)
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if type(value).__module__ == "torch":  # its dtypes and devices, without importing it
        text = str(value).removeprefix("torch.")
        return PRECISIONS.get(text, text)
    raise _refusal(value, path)


def _real(value: numbers.Real | Decimal, path: KeyPath) -> int | float:
    """Return a number as a float, or as an int where a decimal or a fraction is a whole number."""
    try:
        number = float(value)
    except (OverflowError, ValueError):  # a fraction beyond floats, a signalling NaN
        number = math.nan
    if isinstance(value, float):
        return number  # its range is checked where the option is known
    if not math.isfinite(number):
        raise ConfigError(dotted(path), f"must be a finite number, got {shown(value)}")
    if isinstance(value, (Decimal, Fraction)) and value == int(value):
        return int(value)
    return number


def _refusal(value: object, path: KeyPath) -> ConfigError:
    advice = "; sort it into a list" if isinstance(value, (set, frozenset)) else ""
    return ConfigError(
        dotted(path),
        f"expected a number, text, a list or a mapping, got {_described(value)}{advice} (given from Python)",
    )


def _described(value: object) -> str:
    kind = type(value)
    name = kind.__qualname__
    return (
        f"a value of type {name if kind.__module__ == 'builtins' else f'{kind.__module__}.{name}'}"
    )
