"""Functions that are compiled where `train.compile` says so, and plain otherwise. Encoders are compiled by the engine;
this is for what is outside of them and made of many small operations, such as a softmax over a vocabulary."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_backend: str | None = None  # of torch.compile; None: functions run as they are


@contextmanager
def compiling(backend: str | None) -> Iterator[None]:
    """Inside, functions marked `when_compiling` are compiled with this backend (None: they are not)."""
    global _backend
    before, _backend = _backend, backend
    try:
        yield
    finally:
        _backend = before


def when_compiling(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator. The function must be made of torch operations on its arguments (tensors, modules, constants) without
    branches on values of tensors; it is then one graph, and the engine counts it when it has to be made again."""
    made: dict[str, Callable[..., Any]] = {}

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        if _backend is None:
            return function(*arguments, **keywords)
        if _backend not in made:
            made[_backend] = torch.compile(function, backend=_backend)
        return made[_backend](*arguments, **keywords)

    return call
