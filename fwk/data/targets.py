"""Stored targets: what a model computes for every example of a split, for other runs to learn from.

A file in the safetensors format. For each source S and label L of the split:

    S/L        [N, ...] in fp32: what `Criterion.predict` returned (logits of classes and choices, numbers), one row per
               example of the source, in its order; NaN where nothing was predicted
    S/keys     int64 [N, 2]: 63 bits of a hash of each example's key, and of its texts and labels (-1: unknown)

An answer in a text has logits [1 + M, 2] of its start and end: of "no answer", then of each token of the text. The
metadata say where the numbers come from: checkpoint, update, split, the sha256 of the weights, the fingerprint of the
task's data and of its tokenizer, and kind and values of each label. Files of format 1 have keys [N], and no labels in
the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fwk.contracts.json_files import parse_json
from fwk.contracts.keyed import fold
from fwk.contracts.plain import PlainDict, PlainMapping
from fwk.contracts.task import Predictions
from fwk.data.weights import read_tensors
from fwk.errors import DataError

FORMAT = "fwk targets 2"
FORMATS = ("fwk targets 1", FORMAT)  # that are read
UNKNOWN = -1  # hash of an example whose task does not say what it holds
KEYS = "keys"


@dataclass(frozen=True)
class StoredTargets:
    """The content of a file of targets."""

    tensors: Mapping[str, Mapping[str, Tensor]]  # by source and label
    keys: Mapping[str, Tensor]  # by source, int64 [N]
    digests: Mapping[
        str, Tensor
    ]  # by source, int64 [N]: of texts and labels; UNKNOWN where they are not known
    origin: PlainMapping  # checkpoint, update, split, fingerprint, tokenizer, labels


def hashed_keys(keys: Sequence[str]) -> Tensor:
    """Return a hash of each example's key, int64 [N]."""
    return torch.tensor([fold(0, "key", key) >> 1 for key in keys], dtype=torch.int64)


def pack_targets(
    predictions: Predictions,
    keys: Mapping[str, Sequence[str]],
    origin: Mapping[str, object],
    digests: Mapping[str, Sequence[int] | None] | None = None,
) -> bytes:
    """Return the bytes of a file of targets.

    keys: by source, the key of every example. origin: JSON data. digests: by source, `Task.example_digests`.
    """
    tensors: dict[str, Tensor] = {}
    for source, names in keys.items():
        known = (digests or {}).get(source)
        content = torch.full((len(names),), UNKNOWN) if known is None else torch.tensor(known)
        tensors[f"{source}/{KEYS}"] = torch.stack([hashed_keys(names), content], 1)
        for label, rows in predictions.get(source, {}).items():
            tensors[f"{source}/{label}"] = _stacked(rows, len(names))
    return save(tensors, {"format": FORMAT, "origin": json.dumps(origin)})


def _stacked(rows: Mapping[int, Tensor], count: int) -> Tensor:
    """Return the predictions of N examples, [N, ...]. Rows of different sizes are padded with -inf, as logits are."""
    shapes = [row.shape for row in rows.values()]
    largest = [max(sizes) for sizes in zip(*shapes)]
    result = torch.full((count, *largest), torch.nan)
    for number, row in rows.items():
        target = result[number]
        if row.dim():
            target.fill_(-torch.inf)
            target[tuple(slice(size) for size in row.shape)] = row.float()
        else:
            result[number] = row.float()
    return result


def _read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a file of targets. Raises DataError where it is none."""
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    if metadata.get("format") not in FORMATS:
        raise DataError(f"{path} holds no targets; fwk-evaluate --targets writes them")
    return metadata


def read_origin(path: Path) -> PlainDict:
    """Return where the targets in a file come from. Raises DataError where it holds none."""
    try:
        origin = parse_json(_read_metadata(path).get("origin", ""))
    except ValueError as error:
        raise DataError(f"{path} is damaged: its origin is not JSON ({str(error)[:100]})") from None
    if not isinstance(origin, dict):
        raise DataError(f"{path} is damaged: its origin is not a JSON object")
    return origin


def read_targets(path: Path) -> StoredTargets:
    """Return the targets in a file. Raises DataError where it is none, or damaged."""
    tensors = read_tensors(path, DataError)
    origin = read_origin(path)
    old = _read_metadata(path)["format"] != FORMAT
    by_source: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        source, _, label = name.rpartition("/")
        by_source.setdefault(source, {})[label] = value
    keys: dict[str, Tensor] = {}
    digests: dict[str, Tensor] = {}
    for source, values in by_source.items():
        known = values.pop(KEYS, torch.zeros(()))
        if (
            known.dtype != torch.int64
            or known.shape[1:] != (() if old else (2,))
            or not known.dim()
        ):
            raise DataError(f"{path} is damaged: the keys of '{source[:60]}' are missing")
        keys[source] = known if old else known[:, 0]
        digests[source] = torch.full_like(known, UNKNOWN) if old else known[:, 1]
        for label, value in values.items():
            if not value.dim() or len(value) != len(keys[source]) or not value.is_floating_point():
                raise DataError(
                    f"{path} is damaged: '{source[:60]}/{label[:60]}' does not fit its keys"
                )
    return StoredTargets(by_source, keys, digests, origin)


def described_labels(labels: Mapping[str, Sequence[str]], kinds: Mapping[str, str]) -> PlainMapping:
    """Return what a file of targets says of labels. labels, kinds: as `Task` gives them."""
    return {
        name: {"kind": kinds.get(name, ""), "values": list(values)}
        for name, values in labels.items()
    }
