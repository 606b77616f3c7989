"""Weights in safetensors files: one file, or the folder of a model of `transformers`. Nothing is unpickled."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import Tensor

from fwk.contracts.json_files import fitted, read_json, require_file_name
from fwk.errors import CheckpointError, DataError, UserError

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
# names of weights that were converted from TensorFlow checkpoints
RENAMED = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
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


def read_tensors(path: Path, error: type[UserError] = CheckpointError) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name. Raises `error` where it is none."""
    try:
        tensors = load_file(path) if is_text(path) else load(path.read_bytes())
    except _FILE_ERRORS as problem:
        reason = " ".join(str(problem).split())[:100] or type(problem).__name__
        raise error(f"{path} cannot be read: {reason}") from problem
    for name, value in tensors.items():
        if value.dtype not in TYPE_NAMES or value.dim() > MOST_DIMENSIONS:
            raise error(
                f"{path} is damaged: {name[:80]} is of type {value.dtype} with {value.dim()} dimensions"
            )
    return tensors


def is_text(path: Path) -> bool:
    """Return whether a path is UTF-8, as the library of safetensors expects of files that it opens."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def read_folder_weights(folder: Path) -> dict[str, Tensor]:
    """Return all weights in a folder of `transformers`, under today's names.

    Raises DataError where a file is missing or damaged, and where there is only a pickle, which is not read.
    """
    tensors: dict[str, Tensor] = {}
    for file in _weight_files(folder):
        if not file.is_file():
            raise DataError(f"{file} does not exist{_pickle_advice(folder)}")
        tensors.update(read_tensors(file, DataError))
    for name in list(tensors):
        for old, new in RENAMED.items():
            if name.endswith(old):
                tensors[name.removesuffix(old) + new] = tensors.pop(name)
    return tensors


def _weight_files(folder: Path) -> list[Path]:
    """Return the files of weights: one, or several where an index lists them."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    names = fitted(read_json(index), {"weight_map": "dict[str, str]"}, index)["weight_map"]
    return sorted({folder / require_file_name(name, index) for name in names.values()})


def _pickle_advice(folder: Path) -> str:
    if not (folder / "pytorch_model.bin").exists():
        return ""
    return " (pytorch_model.bin is a pickle, which is not read: save the model as safetensors)"
