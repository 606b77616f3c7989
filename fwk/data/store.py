"""The token store: a folder of flat memory-mapped shards.

    STORE/manifest.json              counts, hashes, vocabulary fingerprint; written last, so a store is whole or absent
    STORE/tokenizer/                 the tokenizer that made it
    STORE/unigrams.npy               int64 [V], how often each id occurs in the training split
    STORE/train-00000.tokens         uint16 or uint32, little-endian: the documents of the shard end to end, no specials
    STORE/train-00000.documents      uint32 [documents + 1], where each document starts (in tokens of this shard)
    STORE/train-00000.sentences      uint32 [sentences + 1], where each sentence starts

Opening reads the manifest and looks at file sizes: it costs nothing that grows with the number of tokens. The shards'
hashes are checked by `verify`, and are what the store's fingerprint is made of. The manifest is the newest file: one
that is newer was changed, or copied, and is hashed when the store is opened. While it is read, a file is looked at
before each batch: what was cut or overwritten is noticed before it is trained on.
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fwk.errors import DataError, did_you_mean
from fwk.files import digest

MANIFEST = "manifest.json"
FORMAT, VERSION = "fwk-token-store", 1
PARTS = ("tokens", "documents", "sentences")


def is_store(path: str | Path) -> bool:
    return (Path(path) / MANIFEST).is_file()


def fingerprint_of(manifest: dict[str, Any]) -> str:
    """sha256 over the vocabulary's fingerprint and every shard's name, sizes and hashes."""
    text = json.dumps(
        [manifest["vocabulary"]["fingerprint"], manifest["dtype"], manifest["splits"]],
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Shard:
    stem: Path
    dtype: str
    tokens: int
    documents: int
    sentences: int

    def path(self, part: str) -> Path:
        return self.stem.with_name(f"{self.stem.name}.{part}")

    def map(self, part: str) -> np.ndarray:
        dtype = np.dtype(self.dtype if part == "tokens" else "uint32").newbyteorder("<")
        length = self.tokens if part == "tokens" else getattr(self, part) + 1
        try:
            return np.memmap(self.path(part), dtype=dtype, mode="r", shape=(length,))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(
                f"{self.path(part)} cannot be read: {reason}; the token store was changed after it was opened, "
                "restore it and start the same command again"
            ) from error


class Split:
    """One split of a store: documents and tokens by number, over all shards. Pickles as paths and counts."""

    def __init__(self, name: str, shards: list[Shard]):
        self.name, self.shards = name, shards
        self.token_ends = np.cumsum([0, *(s.tokens for s in shards)], dtype=np.int64)
        self.document_ends = np.cumsum([0, *(s.documents for s in shards)], dtype=np.int64)
        self._maps: dict[tuple[int, str], np.ndarray] = {}
        self._seen: dict[
            tuple[int, str], tuple[int, ...]
        ] = {}  # what each mapped file was when it was mapped
        self._looked_at: set[tuple[int, str]] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "shards": self.shards}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    @property
    def tokens(self) -> int:
        return int(self.token_ends[-1])

    @property
    def documents(self) -> int:
        return int(self.document_ends[-1])

    def map(self, shard: int, part: str) -> np.ndarray:
        key = (shard, part)
        if key not in self._looked_at:
            self._look_at(key)
        return self._maps[key]

    def look_again(self) -> None:
        """From here on each file is looked at once more before it is read: a map of one that was cut would end this
        process with a signal, and one that was overwritten gives other tokens."""
        self._looked_at.clear()

    def _look_at(self, key: tuple[int, str]) -> None:
        shard, part = self.shards[key[0]], key[1]
        if key not in self._maps:
            self._maps[key] = shard.map(part)
        with suppress(OSError):  # a file that was deleted is still mapped, as it was
            status = os.stat(shard.path(part))
            now = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            before = self._seen.setdefault(key, now)
            if (
                now[:2] == before[:2] and now != before
            ):  # the same file; another one under its name is not the one we read
                raise DataError(
                    f"{shard.path(part)} was changed while it was read: restore the token store and start the "
                    "same command again; it goes on from the last checkpoint"
                )
        self._looked_at.add(key)

    def locate(self, document: int) -> tuple[int, int]:
        """The shard of a document and its number there."""
        if not 0 <= document < self.documents:
            raise IndexError(f"document {document} of {self.documents}")
        shard = int(np.searchsorted(self.document_ends, document, side="right")) - 1
        return shard, document - int(self.document_ends[shard])

    def document(self, document: int) -> np.ndarray:
        """The tokens of one document, a view of the memory map."""
        shard, inside = self.locate(document)
        starts = self.map(shard, "documents")
        return self.map(shard, "tokens")[int(starts[inside]) : int(starts[inside + 1])]

    def lengths(self) -> np.ndarray:
        """Tokens of every document, int64 [documents]."""
        parts = [
            np.diff(self.map(i, "documents").astype(np.int64)) for i in range(len(self.shards))
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def sentence_starts(self, document: int) -> np.ndarray:
        """Where the sentences of a document start, relative to it; the first is 0. int64 [sentences]."""
        shard, inside = self.locate(document)
        starts, cuts = self.map(shard, "documents"), self.map(shard, "sentences")
        first, last = int(starts[inside]), int(starts[inside + 1])
        low = bisect_right(cuts, first - 1) if first else 0
        high = bisect_right(cuts, last - 1)
        return np.asarray(cuts[low:high], dtype=np.int64) - first


class Store:
    """An opened token store. vocabulary: fingerprint the store must have been made with (None: any)."""

    def __init__(self, folder: str | Path, vocabulary: str | None = None):
        self.folder = Path(folder)
        self.manifest = _manifest(self.folder)
        found = self.manifest["vocabulary"]["fingerprint"]
        if vocabulary is not None and vocabulary != found:
            raise DataError(
                f"the token store {self.folder} was made with another vocabulary: its fingerprint is "
                f"{found[:12]}, the tokenizer's is {vocabulary[:12]}; preprocess the text again with this "
                "tokenizer"
            )
        self.fingerprint = self.manifest["fingerprint"]
        self.dtype = self.manifest["dtype"]
        self._splits: dict[str, Split] = {}
        self._written, self._hashed = (
            (self.folder / MANIFEST).stat().st_mtime_ns,
            0,
        )  # files hashed on opening
        for name, split in self.manifest["splits"].items():
            shards = []
            for entry in split["shards"]:
                shard = Shard(
                    self.folder / Path(entry["name"]).name,
                    self.dtype,
                    entry["tokens"],
                    entry["documents"],
                    entry["sentences"],
                )
                self._check_sizes(shard)
                self._check_changed(shard, entry)
                if shard.tokens:
                    shards.append(shard)
            self._splits[name] = Split(name, shards)
        if self._hashed:  # not again next time
            with suppress(OSError):
                os.utime(self.folder / MANIFEST)

    def _check_changed(self, shard: Shard, entry: dict[str, Any]) -> None:
        """DataError where a file is newer than the manifest, and not what the manifest says."""
        for part in PARTS:
            path = shard.path(part)
            if path.stat().st_mtime_ns > self._written:
                if digest(path) != entry["sha256"][part]:
                    raise DataError(
                        f"{path} was changed since the token store was made: it does not match its hash in the "
                        "manifest; restore it, or preprocess the text again"
                    )
                self._hashed += 1

    def _check_sizes(self, shard: Shard) -> None:
        width = np.dtype(shard.dtype).itemsize
        wanted = {
            "tokens": shard.tokens * width,
            "documents": 4 * (shard.documents + 1),
            "sentences": 4 * (shard.sentences + 1),
        }
        for part, size in wanted.items():
            path = shard.path(part)
            try:
                is_size = path.stat().st_size
            except OSError:
                raise DataError(
                    f"the token store {self.folder} lacks {path.name}, which its manifest lists"
                ) from None
            if is_size != size:
                raise DataError(
                    f"{path} has {is_size} bytes, the manifest says {size}: the shard was truncated or "
                    "changed; preprocess the text again"
                )

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(name for name, split in self._splits.items() if split.tokens)

    def split(self, name: str) -> Split:
        if name not in self._splits:
            raise DataError(
                f"the token store {self.folder} has no split '{name}'{did_you_mean(name, self._splits)}"
            )
        return self._splits[name]

    def tokenizer(self) -> Any:
        from fwk.data.tokenizers import load

        tokenizer = load(self.folder / "tokenizer")
        if tokenizer.fingerprint != self.manifest["vocabulary"]["fingerprint"]:
            raise DataError(
                f"the tokenizer in {self.folder} is not the one the store was made with"
            )
        return tokenizer

    def unigrams(self) -> np.ndarray:
        """int64 [V]: how often each id occurs in the training split."""
        path, size = self.folder / "unigrams.npy", self.manifest["vocabulary"]["size"]
        try:
            counts = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            raise DataError(f"{path} is missing or damaged; preprocess the text again") from None
        if counts.shape != (size,) or counts.dtype.kind not in "iu":
            raise DataError(f"{path} holds counts of shape {counts.shape}, expected ({size},)")
        return counts.astype(np.int64)

    def verify(self) -> None:
        """Compare every shard with its hash in the manifest (reads everything)."""
        for split in self.manifest["splits"].values():
            for entry in split["shards"]:
                for part in PARTS:
                    path = self.folder / f"{Path(entry['name']).name}.{part}"
                    if digest(path) != entry["sha256"][part]:
                        raise DataError(
                            f"{path} does not match its hash in the manifest: it was changed"
                        )


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise DataError(f"{folder} is not a token store: it has no readable {MANIFEST}") from None
    except ValueError:
        raise DataError(f"{path} is damaged: it is not JSON") from None
    try:
        if manifest["format"] != FORMAT:
            raise DataError(f"{path} describes a '{manifest['format']}', expected a {FORMAT}")
        if manifest["version"] != VERSION:
            raise DataError(
                f"{folder} has token store version {manifest['version']}, this fwk reads version {VERSION}"
            )
        if manifest["dtype"] not in ("uint16", "uint32"):
            raise DataError(
                f"{path} names tokens of type {manifest['dtype']!r}, expected uint16 or uint32"
            )
        int(manifest["vocabulary"]["size"])
        for split in manifest["splits"].values():
            for entry in split["shards"]:
                counts = [entry[k] for k in PARTS]
                if not all(isinstance(c, int) and c >= 0 for c in counts):
                    raise TypeError
        if manifest["fingerprint"] != fingerprint_of(manifest):
            raise DataError(f"{path} was changed: its fingerprint does not match what it lists")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(f"{path} is damaged: it lacks what a token store's manifest has") from None
    return manifest
