"""The content of a folder of `transformers`: configuration, weights and tokenizer. Nothing is unpickled."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fwk.contracts.plain import PlainDict, PlainMapping
from fwk.data import tokenizers
from fwk.errors import DataError
from fwk.hf.families import ARCHITECTURES, Architecture

# classes that hold the weights of another one, and more that is not imported
SUPERSETS = {"BertForPreTraining": "BertForMaskedLM"}
# names of weights that were converted from TensorFlow checkpoints
RENAMED = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


@dataclass(frozen=True)
class SourceFolder:
    """A folder of `transformers`, read."""

    path: Path
    architecture: Architecture
    config: PlainDict
    tensors: dict[str, Tensor]  # under the names of transformers
    tokenizer: tokenizers.Tokenizer


def read_folder(path: Path) -> SourceFolder:
    """Read a folder. Raises DataError for files that are missing, damaged or inconsistent."""
    config = _read_config(path)
    architecture = _architecture(config, path)
    tensors = _read_tensors(path)
    tokenizer = tokenizers.load(path, lower=_lower_case(path))
    size = config.get("vocab_size")
    if tokenizer.size != size:
        raise DataError(
            f"{path}: the tokenizer has {tokenizer.size:,} tokens, but vocab_size in config.json is "
            f"{size!r}; expected the same"
        )
    return SourceFolder(path, architecture, config, tensors, tokenizer)


def _read_config(folder: Path) -> PlainDict:
    path = folder / "config.json"
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder; expected one with config.json, model.safetensors and a tokenizer"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({str(error)[:80]})") from None
    if not isinstance(config, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(config).__name__}")
    return config


def _architecture(config: PlainMapping, folder: Path) -> Architecture:
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else names
    if isinstance(name, str):
        name = SUPERSETS.get(name, name)
        if name in ARCHITECTURES:
            return ARCHITECTURES[name]
    raise DataError(
        f"{folder / 'config.json'}: the architecture is {name!r}; expected one of {', '.join(ARCHITECTURES)}"
    )


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """Return all weights, under today's names."""
    tensors: dict[str, Tensor] = {}
    for file in _weight_files(folder):
        if not file.is_file():
            raise DataError(f"{file} does not exist{_pickle_advice(folder)}")
        try:
            tensors.update(load_file(file))
        except (SafetensorError, OSError) as error:
            raise DataError(f"{file} cannot be read ({str(error)[:100]})") from None
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
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return sorted({folder / Path(name).name for name in names})
    except (ValueError, KeyError, AttributeError, TypeError):
        raise DataError(f"{index} is not an index of weights") from None


def _pickle_advice(folder: Path) -> str:
    if not (folder / "pytorch_model.bin").exists():
        return ""
    return " (pytorch_model.bin is a pickle, which is not read: save the model as safetensors)"


def _lower_case(folder: Path) -> bool | None:
    """Return whether a vocab.txt is lower-case, as tokenizer_config.json says; None where it does not.

    Raises DataError for settings that a vocab.txt cannot be read with.
    """
    path = folder / "tokenizer_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        lower = config.get("do_lower_case")
        accents = config.get("strip_accents")
        chinese = config.get("tokenize_chinese_chars")
    except (OSError, ValueError, AttributeError):
        return None
    if (folder / "tokenizer.json").is_file():
        return lower
    if accents not in (None, lower) or chinese is False:
        raise DataError(
            f"{path}: strip_accents {accents} with do_lower_case {lower}, or tokenize_chinese_chars "
            "false, is read from a tokenizer.json only; save the tokenizer as one"
        )
    return lower
