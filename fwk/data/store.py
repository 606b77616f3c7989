"""The token store: a folder of flat memory-mapped shards.

    STORE/manifest.json              counts, hashes, vocabulary fingerprint; written last: a store is complete or absent
    STORE/tokenizer/                 the tokenizer that the tokens come from
    STORE/unigrams.npy               int64 [V], how often each id occurs in the training split
    STORE/train-00000.tokens         uint16 or uint32, little-endian: the documents of the shard end to end, no specials
    STORE/train-00000.documents      uint32 [documents + 1], where each document starts (in tokens of this shard)
    STORE/train-00000.sentences      uint32 [sentences + 1], where each sentence starts

Opening a store reads the manifest and checks file sizes, which does not take longer for more tokens. The store's
fingerprint covers the hashes of its shards, and `verify` checks them. The manifest is the newest file of a store: a
shard that is newer was changed or copied, and is hashed when the store is opened. During training every file is
checked again before each batch, so that a truncated or overwritten file is noticed before its tokens are used.
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fwk.contracts.plain import PlainDict
from fwk.data.tokenizers import Tokenizer, load
from fwk.errors import DataError, did_you_mean
from fwk.files import digest, user_path

MANIFEST = "manifest.json"
FORMAT, VERSION = "fwk-token-store", 1
PARTS = ("tokens", "documents", "sentences")


def is_store(path: str | Path) -> bool:
    """Return whether the folder `path` holds a token store."""
    return (user_path(path) / MANIFEST).is_file()


def fingerprint_of(manifest: PlainDict) -> str:
    """Return the sha256 of the vocabulary's fingerprint and of every shard's name, sizes and hashes."""
    text = json.dumps(
        [manifest["vocabulary"]["fingerprint"], manifest["dtype"], manifest["splits"]],
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Shard:
    """One shard of a split: the paths and sizes of its three files."""

    stem: Path  # path of its files without the suffix
    dtype: str  # of tokens: uint16 or uint32
    tokens: int
    documents: int
    sentences: int

    def path(self, part: str) -> Path:
        """Return the path of one of the PARTS."""
        return self.stem.with_name(f"{self.stem.name}.{part}")

    def map(self, part: str) -> np.ndarray:
        """Return one of the PARTS as a memory map. Raises DataError where the file cannot be mapped."""
        dtype = np.dtype(self.dtype if part == "tokens" else "uint32").newbyteorder("<")
        length = self.tokens if part == "tokens" else getattr(self, part) + 1
        try:
            return np.memmap(self.path(part), dtype=dtype, mode="r", shape=(length,))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(
                f"{self.path(part)} cannot be read: {reason}; the token store was changed after it was opened. "
                "Restore it and start the same command again"
            ) from error


class Split:
    """One split of a store: documents and tokens by number, over all shards. Pickles as paths and counts."""

    def __init__(self, name: str, shards: list[Shard]) -> None:
        self.name, self.shards = name, shards
        self.token_ends = np.cumsum([0, *(s.tokens for s in shards)], dtype=np.int64)
        self.document_ends = np.cumsum([0, *(s.documents for s in shards)], dtype=np.int64)
        self._maps: dict[tuple[int, str], np.ndarray] = {}
        # device, inode, size and time of change of each file when it was mapped
        self._stats: dict[tuple[int, str], tuple[int, ...]] = {}
        self._checked: set[tuple[int, str]] = set()  # files checked since `recheck_files`

    def __reduce__(self) -> tuple[type[Split], tuple[str, list[Shard]]]:
        return Split, (self.name, self.shards)

    @property
    def tokens(self) -> int:
        """The number of tokens."""
        return int(self.token_ends[-1])

    @property
    def documents(self) -> int:
        """The number of documents."""
        return int(self.document_ends[-1])

    def map(self, shard: int, part: str) -> np.ndarray:
        """Return one of the PARTS of a shard as a memory map. Raises DataError where its file has changed."""
        key = (shard, part)
        if key not in self._checked:
            self._check(key)
        return self._maps[key]

    def recheck_files(self) -> None:
        """Check every file again before its next read.

        Reading a memory map of a truncated file kills the process with SIGBUS, and an overwritten file holds other
        tokens.
        """
        self._checked.clear()

    def _check(self, key: tuple[int, str]) -> None:
        """Map a file at its first use, later make sure that it is unchanged."""
        shard, part = self.shards[key[0]], key[1]
        if key not in self._maps:
            self._maps[key] = shard.map(part)
        with suppress(OSError):  # the map of a deleted file stays intact
            status = os.stat(shard.path(part))
            now = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            before = self._stats.setdefault(key, now)
            # another inode is another file under the same name: the map still shows the one that was opened
            if now[:2] == before[:2] and now != before:
                raise DataError(
                    f"{shard.path(part)} was changed while it was read: restore the token store and start the "
                    "same command again; it resumes from the last checkpoint, if there is one"
                )
        self._checked.add(key)

    def locate(self, document: int) -> tuple[int, int]:
        """Return the shard of a document and the document's number in it."""
        if not 0 <= document < self.documents:
            raise IndexError(f"document {document} of {self.documents}")
        shard = int(np.searchsorted(self.document_ends, document, side="right")) - 1
        return shard, document - int(self.document_ends[shard])

    def document(self, document: int) -> np.ndarray:
        """Return the tokens of one document, a view of the memory map."""
        shard, inside = self.locate(document)
        starts = self.map(shard, "documents")
        return self.map(shard, "tokens")[int(starts[inside]) : int(starts[inside + 1])]

    def lengths(self) -> np.ndarray:
        """Return the number of tokens of every document; int64 [documents]."""
        parts = [
            np.diff(self.map(i, "documents").astype(np.int64)) for i in range(len(self.shards))
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def sentence_starts(self, document: int) -> np.ndarray:
        """Return where the sentences of a document start, relative to it; the first is 0. int64 [sentences]."""
        shard, inside = self.locate(document)
        starts, cuts = self.map(shard, "documents"), self.map(shard, "sentences")
        first, last = int(starts[inside]), int(starts[inside + 1])
        low = bisect_right(cuts, first - 1) if first else 0
        high = bisect_right(cuts, last - 1)
        return np.asarray(cuts[low:high], dtype=np.int64) - first


class Store:
    """An open token store.

    vocabulary: the fingerprint of the tokenizer that the store must come from (None: any). Raises DataError where the
    folder is no intact store.
    """

    def __init__(self, folder: str | Path, vocabulary: str | None = None) -> None:
        self.folder = user_path(folder)
        self.manifest = _read_manifest(self.folder)
        fingerprint = self.manifest["vocabulary"]["fingerprint"]
        if vocabulary is not None and vocabulary != fingerprint:
            raise DataError(
                f"the token store {self.folder} was made with another vocabulary: its fingerprint is "
                f"{fingerprint[:12]}, the tokenizer's is {vocabulary[:12]}; preprocess the text again with this "
                "tokenizer"
            )
        self.fingerprint = self.manifest["fingerprint"]
        self.dtype = self.manifest["dtype"]
        self._splits: dict[str, Split] = {}
        self._written = (self.folder / MANIFEST).stat().st_mtime_ns
        self._hashed = 0  # files that were hashed while the store was opened
        for name, split in self.manifest["splits"].items():
            shards = [self._open_shard(entry) for entry in split["shards"]]
            self._splits[name] = Split(name, [shard for shard in shards if shard.tokens])
        if self._hashed:  # a newer manifest saves the next opening the same work
            with suppress(OSError):
                os.utime(self.folder / MANIFEST)

    def _open_shard(self, entry: PlainDict) -> Shard:
        """Return the shard that an entry of the manifest describes, with its files checked."""
        shard = Shard(
            self.folder / Path(entry["name"]).name,
            self.dtype,
            entry["tokens"],
            entry["documents"],
            entry["sentences"],
        )
        self._check_sizes(shard)
        self._check_newer_files(shard, entry)
        return shard

    def _check_newer_files(self, shard: Shard, entry: PlainDict) -> None:
        """Raise DataError where a file is newer than the manifest and does not match its hash."""
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
        """Raise DataError where a file is missing or has the wrong size."""
        width = np.dtype(shard.dtype).itemsize
        sizes = {
            "tokens": shard.tokens * width,
            "documents": 4 * (shard.documents + 1),
            "sentences": 4 * (shard.sentences + 1),
        }
        for part, expected in sizes.items():
            path = shard.path(part)
            try:
                size = path.stat().st_size
            except OSError:
                raise DataError(
                    f"the token store {self.folder} lacks {path.name}, which its manifest lists"
                ) from None
            if size != expected:
                raise DataError(
                    f"{path} has {size} bytes, the manifest lists {expected}: the shard was truncated or "
                    "changed; preprocess the text again"
                )

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits that have tokens."""
        return tuple(name for name, split in self._splits.items() if split.tokens)

    def split(self, name: str) -> Split:
        """Return a split by name. Raises DataError where the store has none of that name."""
        if name not in self._splits:
            raise DataError(
                f"the token store {self.folder} has no split '{name}'{did_you_mean(name, self._splits)}"
            )
        return self._splits[name]

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer of the store. Raises DataError where it is not the one that the tokens come from."""
        tokenizer = load(self.folder / "tokenizer")
        if tokenizer.fingerprint != self.manifest["vocabulary"]["fingerprint"]:
            raise DataError(
                f"the tokenizer in {self.folder} is not the one the store was made with"
            )
        return tokenizer

    def unigrams(self) -> np.ndarray:
        """Return how often each id occurs in the training split; int64 [V]."""
        path, size = self.folder / "unigrams.npy", self.manifest["vocabulary"]["size"]
        try:
            counts = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            raise DataError(f"{path} is missing or damaged; preprocess the text again") from None
        if counts.shape != (size,) or counts.dtype.kind not in "iu":
            raise DataError(f"{path} holds counts of shape {counts.shape}, expected ({size},)")
        return counts.astype(np.int64)

    def verify(self) -> None:
        """Raise DataError where a shard does not match its hash in the manifest. Reads every file."""
        for split in self.manifest["splits"].values():
            for entry in split["shards"]:
                for part in PARTS:
                    path = self.folder / f"{Path(entry['name']).name}.{part}"
                    if digest(path) != entry["sha256"][part]:
                        raise DataError(
                            f"{path} does not match its hash in the manifest: it was changed"
                        )


def _read_manifest(folder: Path) -> PlainDict:
    """Return the manifest of a store. Raises DataError where it is missing, damaged or of another version."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise DataError(f"{folder} is not a token store: it has no readable {MANIFEST}") from None
    except ValueError:
        raise DataError(f"{path} is damaged: it is not JSON") from None
    try:
        _check_manifest(manifest, path)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(
            f"{path} is damaged: entries of a token store's manifest are missing"
        ) from None
    return manifest


def _check_manifest(manifest: PlainDict, path: Path) -> None:
    """Raise DataError where a manifest is not as expected; any other error means that it lacks something."""
    if manifest["format"] != FORMAT:
        raise DataError(f"{path} describes a '{manifest['format']}', expected a {FORMAT}")
    if manifest["version"] != VERSION:
        raise DataError(
            f"{path.parent} has token store version {manifest['version']}, this fwk reads version {VERSION}"
        )
    if manifest["dtype"] not in ("uint16", "uint32"):
        raise DataError(
            f"{path} names tokens of type {manifest['dtype']!r}, expected uint16 or uint32"
        )
    int(manifest["vocabulary"]["size"])
    for split in manifest["splits"].values():
        for entry in split["shards"]:
            counts = [entry[part] for part in PARTS]
            if not all(isinstance(count, int) and count >= 0 for count in counts):
                raise TypeError("counts are numbers that are not negative")
    if manifest["fingerprint"] != fingerprint_of(manifest):
        raise DataError(f"{path} was changed: its fingerprint does not match its entries")
