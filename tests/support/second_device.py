"""A second device on a machine that has only a CPU: it computes on the CPU, but its tensors are not the host's.

It finds what fails on a GPU alone: operations on tensors of both devices, and code that makes the host wait for the
device. Its name is `meta`, because torch has such a device on every machine; real meta tensors hold no numbers.
"""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter
from collections.abc import Iterator
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from support.paths import ROOT

NAME = "meta"
DEVICE = torch.device(NAME)
# operations whose result the host needs to go on
WAITING = (
    "_local_scalar_dense",
    "is_nonzero",
    "equal",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
)
BETWEEN_DEVICES = ("copy_", "_to_copy")


class Seen:
    """What was seen on the second device: waits of the host, and operations on both devices, by line of code."""

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        self.mixed: Counter[str] = Counter()


seen = Seen()


def _line() -> str:
    """Return the line of the project that is being executed."""
    for frame in reversed(traceback.extract_stack()):
        if "/fwk/" in frame.filename or "/plugins/" in frame.filename:
            return f"{frame.filename.removeprefix(str(ROOT) + '/')}:{frame.lineno}"
    return "outside of the project"


class There(Tensor):
    """A tensor of the second device."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: Tensor):
        return Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=DEVICE,
        )

    def __init__(self, here: Tensor) -> None:
        self.here = here

    @classmethod
    def __torch_dispatch__(cls, operation, types, arguments=(), keywords=None):
        return _compute(operation, arguments, keywords or {})


def _here(value):
    return value.here if isinstance(value, There) else value


def _compute(operation, arguments, keywords):
    """Do an operation on the CPU, and give its results to the device that it ran on."""
    leaves = tree_leaves((arguments, keywords))
    there = [leaf for leaf in leaves if isinstance(leaf, There)]
    on_second = bool(there)
    if keywords.get("device") is not None:
        on_second = torch.device(keywords["device"]).type == NAME
        keywords = {**keywords, "device": torch.device("cpu")}
    if there:
        _note(operation.overloadpacket.__name__, leaves)
    results = operation(*tree_map(_here, arguments), **tree_map(_here, keywords))
    own = {id(tensor.here): tensor for tensor in there}  # of operations in place

    def given(value):
        if not isinstance(value, Tensor) or isinstance(value, There) or not on_second:
            return value
        return own[id(value)] if id(value) in own else There(value)

    return tree_map(given, results)


def _note(name: str, leaves) -> None:
    """Note whether an operation with tensors of the second device waits, or has tensors of both devices.

    Numbers without a dimension may come from the host, and so may indices.
    """
    by_mask = name == "index" and any(
        isinstance(leaf, There) and leaf.dtype == torch.bool for leaf in leaves[1:]
    )
    if name in WAITING or by_mask:
        seen.waits[_line()] += 1
    others = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, There)]
    if name not in (*BETWEEN_DEVICES, "index") and any(other.dim() for other in others):
        seen.mixed[f"{name} at {_line()}"] += 1


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        return _compute(operation, arguments, keywords or {})


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor, to_second: bool) -> Tensor:
        ctx.to_second = to_second
        return There(tensor.detach().clone()) if to_second else tensor.here.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return (gradient.here if ctx.to_second else There(gradient)), None


_to, _as_tensor, _tensor, _tolist = Tensor.to, torch.as_tensor, torch.tensor, Tensor.tolist
_module_to, _autocast = nn.Module.to, torch.autocast
_is_enabled, _autocast_dtype = torch.is_autocast_enabled, torch.get_autocast_dtype


def _moved(tensor, *arguments, **keywords):
    """Stand for `Tensor.to`."""
    words = [*arguments, *keywords.values()]
    devices = [
        w.device if isinstance(w, Tensor) else w
        for w in words
        if isinstance(w, (Tensor, torch.device, str))
    ]
    dtypes = [
        w.dtype if isinstance(w, Tensor) else w
        for w in words
        if isinstance(w, (Tensor, torch.dtype))
    ]
    if devices and (torch.device(devices[0]).type == NAME) != isinstance(tensor, There):
        if not keywords.get("non_blocking"):
            seen.waits[_line()] += 1
        tensor = _Move.apply(tensor, not isinstance(tensor, There))
    return _to(tensor, dtypes[0]) if dtypes else tensor


def _made(value, *, dtype=None, device=None, **keywords):
    """Stand for `torch.tensor` and `torch.as_tensor`."""
    made = value if isinstance(value, Tensor) else _tensor(value, dtype=dtype, **keywords)
    changes = {name: w for name, w in (("device", device), ("dtype", dtype)) if w is not None}
    return _moved(made, **changes) if changes else made


def _listed(tensor: Tensor):
    if not isinstance(tensor, There):
        return _tolist(tensor)
    seen.waits[_line()] += 1
    return _tolist(tensor.here)


def _module_moved(module: nn.Module, *arguments, **keywords) -> nn.Module:
    """Stand for `Module.to`: parameters become those of the second device, shared ones stay shared."""
    words = [*arguments, *keywords.values()]
    for dtype in (word for word in words if isinstance(word, torch.dtype)):
        _module_to(module, dtype)
    if DEVICE not in words:
        return module
    moved: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, old in part._parameters.items():
            if old is not None and not isinstance(old, There):
                new = nn.Parameter(There(old.detach().clone()), requires_grad=old.requires_grad)
                part._parameters[name] = moved.setdefault(id(old), new)
        for name, buffer in part._buffers.items():
            if buffer is not None and not isinstance(buffer, There):
                part._buffers[name] = There(buffer)
    return module


def _attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None):
    """Stand for `scaled_dot_product_attention`, whose kernels are chosen by the type of the device."""
    weights = (q @ k.transpose(-1, -2)) * (scale or q.shape[-1] ** -0.5)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        weights = weights.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        weights = weights + attn_mask
    return nn.functional.dropout(weights.softmax(-1), dropout_p) @ v


def _autocasting(device_type: str, *arguments, **keywords):
    if device_type == NAME:
        return contextlib.nullcontext()
    return _autocast(device_type, *arguments, **keywords)


@contextlib.contextmanager
def second_device() -> Iterator[Seen]:
    """Provide the device inside the block, and yield what is seen there."""
    replaced = (
        (Tensor, "to", _moved),
        (Tensor, "cpu", lambda tensor: _moved(tensor, "cpu")),
        (Tensor, "tolist", _listed),
        (torch, "tensor", _made),
        (torch, "as_tensor", _made),
        (torch, "autocast", _autocasting),
        (
            torch,
            "is_autocast_enabled",
            lambda d=None: d != NAME and _is_enabled(*([d] if d else [])),
        ),
        (torch, "get_autocast_dtype", lambda d: torch.float32 if d == NAME else _autocast_dtype(d)),
        (nn.Module, "to", _module_moved),
        (nn.functional, "scaled_dot_product_attention", _attention),
    )
    seen.__init__()
    with contextlib.ExitStack() as stack:
        for owner, name, function in replaced:
            stack.enter_context(mock.patch.object(owner, name, function))
        stack.enter_context(_Dispatch())
        yield seen
