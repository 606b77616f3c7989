"""Tensors as bytes in the safetensors format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fwk.contracts.plain import PlainDict
from fwk.errors import CheckpointError, UserError

TYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}


MOST_DIMENSIONS = 16
# what the library and torch raise for crafted headers: bounds, unknown types, shapes whose strides overflow
_FILE_ERRORS = (
    SafetensorError,
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    OverflowError,
)


@dataclass(frozen=True)
class SavedTensors:
    """Tensors by name, and where they were read from."""

    path: Path  # for messages
    tensors: Mapping[str, Tensor]


def read_tensors(path: Path, error: type[UserError] = CheckpointError) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name. Raises `error` where it is none."""
    try:
        tensors = load_file(path)
    except _FILE_ERRORS as problem:
        reason = " ".join(str(problem).split())[:100] or type(problem).__name__
        raise error(f"{path} cannot be read: {reason}") from problem
    for name, value in tensors.items():
        if value.dtype not in TYPE_NAMES or value.dim() > MOST_DIMENSIONS:
            raise error(
                f"{path} is damaged: {name[:80]} is of type {value.dtype} with {value.dim()} dimensions"
            )
    return tensors


def require_like(
    targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path, whose: str = "model"
) -> None:
    """Raise CheckpointError unless `tensors` are those of `targets`: the same names, shapes and kinds of numbers.

    path: of the checkpoint. whose: what the targets belong to, for messages.
    """
    if missing := sorted(targets.keys() - tensors.keys()):
        raise CheckpointError(
            f"{path} lacks {len(missing)} of the {whose}'s tensors: {', '.join(missing[:5])}"
        )
    if extra := sorted(tensors.keys() - targets.keys()):
        names = ", ".join(name[:80] for name in extra[:5])
        raise CheckpointError(f"{path} holds {len(extra)} tensors that the {whose} lacks: {names}")
    for name, target in targets.items():
        value = tensors[name]
        if target.shape != value.shape:
            raise CheckpointError(
                f"{path}: {name} is {list(value.shape)}, the {whose}'s is {list(target.shape)}"
            )
        if target.is_floating_point() != value.is_floating_point():
            raise CheckpointError(
                f"{path}: {name} holds {value.dtype}, the {whose}'s {target.dtype}"
            )


def byte_size(tensors: Mapping[str, Tensor]) -> int:
    """Return the bytes that the values of the tensors take."""
    return sum(value.numel() * value.element_size() for value in tensors.values())


def serialize(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a safetensors file piece by piece, without a copy of all tensors as `save_file` makes it.

    The pieces are the length of the header with the header (JSON: type, shape and bounds of each tensor), and then the
    bytes of each tensor. Raises CheckpointError for a type that the format lacks.
    """
    # the largest entries come first, so that each tensor is aligned
    ordered = sorted(tensors.items(), key=lambda pair: (-pair[1].element_size(), pair[0]))
    yield _header(ordered)
    for _, value in ordered:
        if value.numel():
            flat = value.detach().cpu().contiguous().view(-1)
            yield memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]  # typed from Python 3.12 on


def _header(tensors: list[tuple[str, Tensor]]) -> bytes:
    entries: dict[str, PlainDict] = {}
    end = 0
    for name, value in tensors:
        if value.dtype not in TYPE_NAMES:
            raise CheckpointError(
                f"'{name}' is of type {value.dtype}, which a checkpoint cannot hold"
            )
        start, end = end, end + value.numel() * value.element_size()
        entries[name] = {
            "dtype": TYPE_NAMES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
