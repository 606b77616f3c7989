"""A token store as the text that it was made of: its training and its held-out documents, in the order of that text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from fwk.data.first_pass import FirstPass, count_documents
from fwk.data.store import PARTS, Shard, Split, Store
from fwk.data.text import Document

NAME = "all"  # of the split that holds every document


def whole_split(store: Store) -> Split:
    """Return all documents of a store as one split.

    They are in the order of the text, so that a store gives the examples that its text gives. Where the order cannot
    be told (the two splits come from different texts), those of `train` come first.
    """
    splits = [store.split(name) for name in store.splits]
    if len(splits) == 1:
        return splits[0]
    train, valid = store.split("train"), store.split("valid")
    pairs = list(_pairs(train, valid))
    plan = _plan(store, sum(pair.documents for pair in pairs))
    start, merged = 0, []
    for pair in pairs:
        held_out = plan[start : start + pair.documents]
        start += pair.documents
        if np.count_nonzero(held_out) != (pair.valid.documents if pair.valid else 0):
            return Split(NAME, [*train.shards, *valid.shards])
        merged.append(_Merged(pair, held_out))
    return _WholeSplit(merged)


def _plan(store: Store, documents: int) -> np.ndarray:
    """Return which documents preprocessing held out, by their numbers in the text; bool [documents]."""
    options = store.manifest.get("options", {})
    seed, share = options.get("seed", 1), options.get("valid_share", 0.0)
    plan: FirstPass = count_documents(repeat(Document((), 0), documents), seed, share)
    return np.fromiter((plan.is_valid(seed, n) for n in range(documents)), bool, documents)


@dataclass(frozen=True)
class _Pair:
    """The shards of both splits that were cut from the same stretch of text; one of them may have no tokens."""

    train: Shard | None
    valid: Shard | None

    @property
    def present(self) -> list[Shard]:
        return [shard for shard in (self.train, self.valid) if shard is not None]

    @property
    def documents(self) -> int:
        return sum(shard.documents for shard in self.present)


def _pairs(train: Split, valid: Split) -> Iterator[_Pair]:
    """Yield the shards of two splits by their numbers."""
    by_number = [
        {shard.stem.name.rpartition("-")[2]: shard for shard in split.shards}
        for split in (train, valid)
    ]
    for number in sorted({number for shards in by_number for number in shards}):
        yield _Pair(by_number[0].get(number), by_number[1].get(number))


@dataclass(frozen=True)
class _Merged:
    """A pair of shards, and which documents of its text are in the one of `valid`."""

    pair: _Pair
    held_out: np.ndarray  # bool [documents]

    def shard(self) -> Shard:
        """Return the counts of the pair as those of one shard."""
        parts = self.pair.present
        tokens, documents, sentences = (sum(getattr(s, part) for s in parts) for part in PARTS)
        return Shard(parts[0].stem, parts[0].dtype, tokens, documents, sentences)


class _WholeSplit(Split):
    """Two splits of a store as one. The arrays of the shard that was read last are kept in memory."""

    def __init__(self, merged: list[_Merged]) -> None:
        super().__init__(NAME, [entry.shard() for entry in merged])
        self._merged = merged
        self._parts = [
            Split(NAME, entry.pair.present) for entry in merged
        ]  # which check the files they map
        self._arrays: dict[tuple[int, str], np.ndarray] = {}

    def __reduce__(self) -> tuple[type[Split], tuple[list[_Merged]]]:  # type: ignore[override]
        return _WholeSplit, (self._merged,)

    def recheck_files(self) -> None:
        for part in self._parts:
            part.recheck_files()

    def map(self, shard: int, part: str) -> np.ndarray:
        files = self._parts[shard]
        for number in range(len(files.shards)):  # raises where a file has changed
            files.map(number, part)
        key = (shard, part)
        if key not in self._arrays:
            self._arrays = {k: array for k, array in self._arrays.items() if k[0] == shard}
            self._arrays[key] = self._merge(shard, part)
        return self._arrays[key]

    def _merge(self, shard: int, part: str) -> np.ndarray:
        """Return one of the PARTS of a pair of shards, with the documents in the order of the text."""
        files = self._parts[shard]
        if len(files.shards) == 1:
            return files.map(0, part)
        held_out = self._merged[shard].held_out
        documents = [np.diff(files.map(n, "documents").astype(np.int64)) for n in (0, 1)]
        if part == "documents":
            return _ends(_scatter(documents, held_out))
        if part == "tokens":
            per_document = _scatter(documents, held_out)
            return _scatter([files.map(n, part) for n in (0, 1)], np.repeat(held_out, per_document))

        starts = [files.map(n, "sentences").astype(np.int64) for n in (0, 1)]
        sentences = [  # of each document
            np.diff(np.searchsorted(starts[n], np.append(0, np.cumsum(documents[n]))))
            for n in (0, 1)
        ]
        in_order = np.repeat(held_out, _scatter(sentences, held_out))
        return _ends(_scatter([np.diff(starts[n]) for n in (0, 1)], in_order))


def _scatter(values: list[np.ndarray], second: np.ndarray) -> np.ndarray:
    """Return the values of two arrays in one: `second` says which places those of the second one take."""
    merged = np.empty(len(second), values[0].dtype)
    merged[~second], merged[second] = values
    return merged


def _ends(lengths: np.ndarray) -> np.ndarray:
    """Return where each piece starts, with the end of the last; uint32 [pieces + 1]."""
    return np.append(0, np.cumsum(lengths)).astype(np.uint32)
