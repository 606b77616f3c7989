"""The end of preprocessing: finished shards become a token store, which is put in place in one step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fwk.contracts.plain import PlainDict
from fwk.data import store as stores
from fwk.data.shards import Record
from fwk.data.tokenizers import Tokenizer
from fwk.errors import DataError
from fwk.files import sync, write_atomically
from fwk.files.kinds import MARKER, STORE
from fwk.files.outputs import make_public, warn_of_rest
from fwk.files.replacing import remove_file, replace_folder


def commit(
    records: Sequence[Record],
    partial: Path,
    folder: Path,
    tokenizer: Tokenizer,
    dtype: str,
    about: Mapping[str, object],
) -> None:
    """Turn the folder `partial`, which holds finished shards, into the token store `folder`.

    about: what the manifest says of the build (its options and request). Raises DataError where the text gave no
    training tokens.
    """
    manifest = {
        "format": stores.FORMAT,
        "version": stores.VERSION,
        "dtype": dtype,
        "vocabulary": {"size": tokenizer.size, "fingerprint": tokenizer.fingerprint},
        "splits": _splits(records),
        **about,
    }
    manifest["fingerprint"] = stores.fingerprint_of(manifest)
    _write_unigrams(records, partial, tokenizer.size)
    _remove_working_files(records, partial)
    write_atomically(partial / stores.MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    sync(partial)
    make_public(partial, folder)
    remove_file(partial / MARKER)  # the manifest says what the folder is
    warn_of_rest(folder, replace_folder(partial, folder, STORE))
    sync(folder.parent)


def _splits(records: Sequence[Record]) -> dict[str, PlainDict]:
    """Return the splits as the manifest lists them: counts, and the entries of their shards."""
    splits: dict[str, PlainDict] = {}
    for record in records:
        for name, entry in record["shards"].items():
            split = splits.setdefault(
                name, {"tokens": 0, "documents": 0, "sentences": 0, "shards": []}
            )
            split["shards"].append(entry)
            split["tokens"] += entry["tokens"]
            split["documents"] += entry["documents"]
            split["sentences"] += entry["sentences"]
    if not splits.get("train", {}).get("tokens"):
        raise DataError("the text gave no tokens")
    if "valid" in splits and not splits["valid"]["tokens"]:
        del splits["valid"]
    return splits


def _write_unigrams(records: Sequence[Record], partial: Path, size: int) -> None:
    """Write how often each id occurs in the training split."""
    counts = np.zeros(size, np.int64)
    for record in records:
        counts += np.load(partial / record["counts"], allow_pickle=False)
    np.save(partial / "unigrams.npy", counts, allow_pickle=False)
    sync(partial / "unigrams.npy")


def _remove_working_files(records: Sequence[Record], partial: Path) -> None:
    """Remove the files that only an interrupted build needs."""
    for record in records:
        remove_file(partial / record["counts"])
        remove_file(partial / record["record"])
    for path in (
        partial / "plan.json",
        partial / "stdin.txt",
        *partial.glob(".*.tmp"),
        *partial.glob("tokenizer/.*.tmp"),
    ):
        remove_file(path)
