"""Tensors as bytes in the safetensors format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from fwk.contracts.plain import PlainDict
from fwk.errors import CheckpointError

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
