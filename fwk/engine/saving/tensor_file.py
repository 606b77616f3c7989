"""Writing tensors as bytes in the safetensors format, and comparing those that were read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fwk.contracts.plain import PlainDict
from fwk.data.weights import TYPE_NAMES
from fwk.errors import CheckpointError


@dataclass(frozen=True)
class SavedTensors:
    """Tensors by name, and where they were read from."""

    path: Path  # for messages
    tensors: Mapping[str, Tensor]
    assets: Path | None = None  # RUN/tokenizer, where they are those of a run


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
