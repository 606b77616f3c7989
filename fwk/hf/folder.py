"""The content of a folder of `transformers`: configuration, weights and tokenizer. Nothing is unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fwk.contracts.json_files import read_object
from fwk.contracts.plain import PlainDict, PlainMapping
from fwk.contracts.shapes import shown
from fwk.data import tokenizers
from fwk.data.weights import read_folder_weights
from fwk.errors import DataError
from fwk.hf.families import ARCHITECTURES, Architecture
from fwk.hf.task_heads import TaskHead, read_task_head, with_problem

# classes that hold the weights of another one, and more that is not imported
SUPERSETS = {"BertForPreTraining": "BertForMaskedLM"}


@dataclass(frozen=True)
class SourceFolder:
    """A folder of `transformers`, read."""

    path: Path
    architecture: Architecture
    config: PlainDict
    tensors: dict[str, Tensor]  # under the names of transformers
    tokenizer: tokenizers.Tokenizer
    head: TaskHead | None  # for a task

    @property
    def has_dense(self) -> bool:
        """Whether the head has all of its dense layers."""
        return self.head is None or self.head.has_dense


def read_folder(path: Path) -> SourceFolder:
    """Read a folder. Raises DataError for files that are missing, damaged or inconsistent."""
    config = _read_config(path)
    architecture = with_problem(_architecture(config, path), config, path / "config.json")
    tensors = read_folder_weights(path)
    _check_sizes(path, config, tensors)
    tokenizer = tokenizers.load(path)
    size = config.get("vocab_size")
    if tokenizer.size != size:
        raise DataError(
            f"{path}: the tokenizer has {tokenizer.size:,} tokens, but vocab_size in config.json is "
            f"{size!r}; expected the same"
        )
    head = read_task_head(architecture, config, tensors, path / "config.json")
    return SourceFolder(path, architecture, config, tensors, tokenizer, head)


def _check_sizes(folder: Path, config: PlainMapping, tensors: Mapping[str, Tensor]) -> None:
    """Raise DataError for a size in config.json beyond those of the weights, before a model of that size is made."""
    sizes = {size for tensor in tensors.values() for size in tensor.shape}
    for key in ("hidden_size", "intermediate_size", "max_position_embeddings"):
        value = config.get(key)
        if isinstance(value, int) and value > max(sizes, default=0):
            raise DataError(
                f"{folder / 'config.json'}: {key} is {shown(value)}, and no weight is so large"
            )
    layers = config.get("num_hidden_layers")
    if isinstance(layers, int) and layers > len(tensors):
        raise DataError(
            f"{folder / 'config.json'}: there are {len(tensors)} weights for {shown(layers)} layers"
        )


def _read_config(folder: Path) -> PlainDict:
    path = folder / "config.json"
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder; expected one with config.json, model.safetensors and a tokenizer"
        )
    return read_object(path)


def _architecture(config: PlainMapping, folder: Path) -> Architecture:
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else names
    if isinstance(name, str):
        name = SUPERSETS.get(name, name)
        if name in ARCHITECTURES:
            return ARCHITECTURES[name]
    raise DataError(
        f"{folder / 'config.json'}: the architecture is {name!r}; expected one of {', '.join(ARCHITECTURES)}; "
        f"others are trained as they are by --model hf model.path={folder}"
    )
