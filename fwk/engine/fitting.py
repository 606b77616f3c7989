"""Building a module for weights that were saved: it takes no more memory than they explain.

The config beside a stranger's weights may ask for any size, and a module of that size would fill the machine before its
shapes are compared with those of the weights. So the module is built under an **allowance** that the weights give: how
many bytes one tensor, and all registered ones together, may take. A module that keeps to it is built once.

Where it would exceed the allowance, construction stops before the memory is taken. The module is then built with its
large tensors on the device "meta", where they have a shape and no memory, and compared by name and shape. A module of
other shapes is refused. One that fits nevertheless, since it hides another network from its state, is built again
without allowance, unless what it asks for exceeds the memory of the machine.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fwk.config.run_config import RunConfig
from fwk.contracts.task import Task
from fwk.engine.build import build_module
from fwk.engine.module import ObjectiveModule
from fwk.engine.saving.state import model_tensors
from fwk.engine.saving.tensor_file import SavedTensors, byte_size, require_like
from fwk.errors import CheckpointError

# A module may take this many times the bytes and tensors of its weights (weights may be stored in half precision, and a
# tied network builds its part before it is tied), and this much besides (tables of positions, frozen networks).
TIMES = 4
BYTES_BESIDES = 256 << 20
TENSORS_BESIDES = 2_000
# For the comparison, so many tensors besides; each takes 0.1 ms, and at most SMALL bytes if it holds floats. Other
# numbers keep their values within the allowance, because constructors read tables of token ids and positions.
TENSORS_COMPARED = 20_000
SMALL = 8 << 10

WIDEST = 16  # bytes of an element of the widest type
_OVERFLOWS = ("Overflow when unpacking", "too big to convert", "calculation overflowed")

Check = Callable[[ObjectiveModule], object]
Operation = torch._ops.OpOverload
Arguments = Sequence[object]
Keywords = Mapping[str, object]


def build_fitting(
    config: RunConfig, task: Task, saved: SavedTensors, check: Check | None = None
) -> ObjectiveModule:
    """Return the module of a run that will hold the saved tensors, with its initial weights.

    check: raises a UserError where a module has other tensors (default: `require_like`). Raises CheckpointError where
    the config asks for far more than what was saved, before the memory is taken; smaller differences are left to the
    caller.
    """

    def build() -> ObjectiveModule:
        return build_module(config, task, saved.assets)

    def compare(module: ObjectiveModule) -> None:
        require_like(model_tensors(module), saved.tensors, saved.path)

    allowance = _Allowance.of(saved.tensors)
    try:
        with allowance.held_to(_Refusing(allowance.bytes)):
            return build()
    except _Exceeded:
        pass  # what was built by then is freed
    except (TypeError, RuntimeError, OverflowError) as error:
        if any(part in str(error) for part in _OVERFLOWS):
            raise _refusal(saved, _Exceeded(math.inf)) from None
        raise
    _compare_shapes(build, check or compare, allowance, saved)
    allowance = _Allowance(_memory(), TIMES * len(saved.tensors) + TENSORS_COMPARED)
    try:
        with allowance.held_to(_Refusing(allowance.bytes)):
            return build()
    except _Exceeded as exceeded:
        raise _refusal(saved, exceeded) from None


def _compare_shapes(
    build: Callable[[], ObjectiveModule], check: Check, allowance: _Allowance, saved: SavedTensors
) -> None:
    """Build a module without memory for its large tensors and check it; return also where it cannot be built so."""
    allowance = replace(allowance, tensors=TIMES * len(saved.tensors) + TENSORS_COMPARED)
    try:
        with allowance.held_to(_WithoutMemory(SMALL, allowance.bytes)):
            module = build()
    except _Exceeded as exceeded:
        raise _refusal(saved, exceeded) from None
    except Exception:  # a constructor that reads values, or whatever it raises about them
        return
    check(module)


def _refusal(saved: SavedTensors, exceeded: _Exceeded) -> CheckpointError:
    tensors = saved.tensors
    held, asked = f"{len(tensors):,} tensors", f"more than {exceeded.count - 1:,}"
    if exceeded.needed:
        held, asked = f"{byte_size(tensors):,} bytes", f"more than {exceeded.needed:,.0f}"
    if math.isinf(exceeded.needed):
        asked = "more than can be counted"
    return CheckpointError(
        f"{saved.path} holds {held} of weights, and its config describes a model of {asked}; restore the config that "
        "it was saved with"
    )


def _memory() -> int:
    """Return the bytes of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# -- the allowance ---------------------------------------------------------------------------------------------------


class _Exceeded(BaseException):
    """Construction asked for more than its allowance.

    It derives from BaseException because a constructor may catch every Exception, and go on.
    """

    def __init__(self, needed: float = 0, count: int = 0) -> None:
        super().__init__(needed, count)
        self.needed, self.count = needed, count  # bytes, or registered tensors


@dataclass(frozen=True)
class _Allowance:
    """What may be made while a module is constructed."""

    bytes: int  # of one tensor, and of all registered ones together
    tensors: int  # registered ones

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> _Allowance:
        """Return what a module with these weights may take."""
        return cls(
            TIMES * byte_size(tensors) + BYTES_BESIDES, TIMES * len(tensors) + TENSORS_BESIDES
        )

    @contextmanager
    def held_to(self, sizes: _Sizes) -> Iterator[None]:
        """Raise _Exceeded inside where what is registered exceeds the allowance; `sizes` handles single tensors."""
        taken = count = 0

        def register(_module: nn.Module, _name: str, value: Tensor | None) -> None:
            nonlocal taken, count
            if value is not None:
                count += 1
                taken += 0 if value.is_meta else value.nbytes
            if taken > self.bytes:
                raise _Exceeded(needed=taken)
            if count > self.tensors:
                raise _Exceeded(count=count)

        handles = [
            register_module_parameter_registration_hook(register),
            register_module_buffer_registration_hook(register),
        ]
        try:
            with sizes:
                yield
        finally:
            for handle in handles:
                handle.remove()


class _Dispatch:
    """The method of `_Sizes`. In a base, since torch wraps one of a mode itself, which imports dynamo (1.3 s)."""

    def __torch_dispatch__(
        self,
        func: Operation,
        types: Sequence[type],
        args: Arguments = (),
        kwargs: Keywords | None = None,
    ) -> object:
        return self.run(func, args, kwargs or {})

    def run(self, func: Operation, args: Arguments, kwargs: Keywords) -> object:
        """Return the result of an operation."""
        raise NotImplementedError


class _Sizes(_Dispatch, TorchDispatchMode):
    """A mode in which operations with a result of more than `most` bytes are not run as they are."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most


class _Refusing(_Sizes):
    """Raise _Exceeded before an operation makes a large tensor."""

    def run(self, func: Operation, args: Arguments, kwargs: Keywords) -> object:
        """Return the result of an operation, unless it is large."""
        needed = bytes_of_result(func, args, kwargs, self.most)
        if needed > self.most:
            raise _Exceeded(needed)
        return func(*args, **kwargs)


class _WithoutMemory(_Sizes):
    """Make large tensors, and what is computed from them, on the device "meta"."""

    def __init__(self, floats: int, others: int) -> None:
        super().__init__(floats)
        self.others = others  # bytes of a result that holds no floats

    def run(self, func: Operation, args: Arguments, kwargs: Keywords) -> object:
        """Return the result of an operation; without memory where it is large, or computed from something large."""
        if any(value.is_meta for value in _tensors_in((args, kwargs))):
            return _run_on_meta(func, args, kwargs)
        if bytes_of_result(func, args, kwargs, self.most) <= self.most:
            return func(*args, **kwargs)
        result = _run_on_meta(func, args, kwargs)
        values = _tensors_in(result)
        has_floats = any(value.is_floating_point() for value in values)
        return result if has_floats or _bytes_of(values) > self.others else func(*args, **kwargs)


def bytes_of_result(func: Operation, args: Arguments, kwargs: Keywords, most: int) -> int:
    """Return the bytes that an operation will take for its result, without running it, or any number up to `most`."""
    inputs = _tensors_in((args, kwargs))
    device = kwargs.get("device")
    is_meta = isinstance(device, torch.device) and device.type == "meta"
    if func._schema.is_mutable or is_meta or any(value.is_meta for value in inputs):
        return 0

    lists = [value for value in (*args, *kwargs.values()) if isinstance(value, (list, tuple))]
    sizes = [math.prod(size) for size in lists if size and all(type(n) is int for n in size)]
    requested = _width(kwargs.get("dtype")) * max(sizes, default=0)
    # broadcasting, products and repetition make at most this many elements
    elements = math.prod(value.numel() for value in inputs) * max([1, *sizes])
    if requested > most or (inputs and WIDEST * elements <= most) or (sizes and not inputs):
        return requested
    try:
        results = _tensors_in(_run_on_meta(func, args, kwargs))
    except (
        Exception
    ):  # no implementation without memory: of a random generator, or of a plugin's operation
        return requested
    return _bytes_of(results)


def _bytes_of(values: Sequence[Tensor]) -> int:
    """Return the bytes of the memory behind tensors, which views of something small share."""
    return sum(value.untyped_storage().nbytes() for value in values)


def _width(dtype: object) -> int:
    """Return the bytes per element of a type that an operation is given."""
    return dtype.itemsize if isinstance(dtype, torch.dtype) else torch.get_default_dtype().itemsize


def _run_on_meta(func: Operation, args: Arguments, kwargs: Keywords) -> object:
    """Return the result of an operation without memory."""
    args, kwargs = tree_map_only(Tensor, lambda value: value.to("meta"), (args, dict(kwargs)))
    if any(argument.name == "device" for argument in func._schema.arguments):
        kwargs = {**kwargs, "device": torch.device("meta")}
    return func(*args, **kwargs)


def _tensors_in(values: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
