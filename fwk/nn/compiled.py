"""Functions that are compiled where `train.compile` is set, and run as they are otherwise.

The engine compiles encoders. `when_compiling` is for functions outside of encoders that consist of many small
operations, such as a softmax over a vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

_backend: str | None = None  # of torch.compile; None: functions are not compiled


@contextmanager
def compiling(backend: str | None) -> Iterator[None]:
    """Compile functions marked `when_compiling` with this backend inside the context; None: do not compile them."""
    global _backend
    before, _backend = _backend, backend
    try:
        yield
    finally:
        _backend = before


def when_compiling(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function for compilation (a decorator).

    The function must consist of torch operations on its arguments (tensors, modules, constants), without branches on
    values of tensors, so that it is one graph. The engine reports when it is compiled again.
    """
    compiled: dict[str, Callable[P, R]] = {}  # by backend

    @functools.wraps(function)
    def call(*arguments: P.args, **keywords: P.kwargs) -> R:
        if _backend is None:
            return function(*arguments, **keywords)
        if _backend not in compiled:
            compiled[_backend] = torch.compile(function, backend=_backend)
        return compiled[_backend](*arguments, **keywords)

    return call
