"""The first pass of preprocessing: counts of the text, its held-out documents, and a sample that trains a tokenizer."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from fwk.data.text import Document

_HASHES = 1 << 63  # document hashes are below


@dataclass
class FirstPass:
    """What the first pass over some files determined.

    A share of the documents is held out: those with a hash below `threshold`, or the one document `chosen` if that
    would be none of them, or all.
    """

    documents: int = 0
    characters: int = 0
    threshold: int = 0
    chosen: int = -1  # number of the one document that is held out; -1: `threshold` decides
    valid_documents: int = 0  # documents that are held out

    def is_valid(self, seed: int, document: int) -> bool:
        """Return whether a document, by number, belongs to the validation split."""
        if not self.valid_documents:
            return False
        if self.chosen >= 0:
            return document == self.chosen
        return _document_hash(seed, document, "valid") < self.threshold


def _document_hash(seed: int, document: int, purpose: str) -> int:
    """Return 63 bits that depend on seed, purpose and document number only."""
    key = f"{seed}\x1f{purpose}\x1f{document}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


class Sample:
    """A uniform sample of documents in bounded memory: those with the smallest hashes, up to `limit` characters."""

    def __init__(self, limit: int, seed: int) -> None:
        self.limit, self.seed = limit, seed
        self._size = 0  # characters
        # (-hash, number, lines, characters) of each document: the largest hash first
        self._heap: list[tuple[int, int, tuple[str, ...], int]] = []

    def add(self, number: int, document: Document) -> None:
        """Add a document to the population, of which the sample keeps a part."""
        hashed = _document_hash(self.seed, number, "sample")
        heapq.heappush(self._heap, (-hashed, number, document.lines, document.size))
        self._size += document.size
        while len(self._heap) > 1 and self._size - self._heap[0][3] >= self.limit:
            self._size -= heapq.heappop(self._heap)[3]

    def texts(self) -> list[str]:
        """Return the lines of the sampled documents, in the order of their numbers."""
        by_number = sorted(self._heap, key=lambda entry: entry[1])
        texts = [line for _, _, lines, _ in by_number for line in lines]
        size = sum(map(len, texts))
        if size > 2 * self.limit:  # a few huge documents: a sample of their lines
            texts = texts[:: size // self.limit]
        return texts


def count_documents(
    documents: Iterable[Document], seed: int, valid_share: float, sample: Sample | None = None
) -> FirstPass:
    """Return counts of the documents and which of them are held out, and add the documents to the sample.

    valid_share: the share that is held out. A small corpus has at least one document for validation, if it has two.
    """
    result = FirstPass(threshold=int(valid_share * _HASHES))
    smallest = (_HASHES, -1)  # hash and number of the document with the smallest hash
    for number, document in enumerate(documents):
        result.documents += 1
        result.characters += document.size
        if sample is not None:
            sample.add(number, document)
        if valid_share:
            hashed = _document_hash(seed, number, "valid")
            result.valid_documents += hashed < result.threshold
            smallest = min(smallest, (hashed, number))

    if valid_share and result.documents == 1:
        result.threshold = result.valid_documents = 0
    elif valid_share and result.documents and result.valid_documents in (0, result.documents):
        result.chosen, result.valid_documents = smallest[1], 1
    return result
