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

from fwk.contracts.json_files import fitted, read_object, require_file_name
from fwk.contracts.plain import PlainDict
from fwk.contracts.shapes import shown
from fwk.data.arrays import read_counts
from fwk.data.tokenizers import Tokenizer, load
from fwk.errors import DataError, did_you_mean
from fwk.files import digest, user_path

MANIFEST = "manifest.json"
FORMAT, VERSION = "fwk-token-store", 1
PARTS = ("tokens", "documents", "sentences")
# types of the entries of a manifest
_MANIFEST = {
    "format": "str",
    "version": "int",
    "dtype": "Literal['uint16', 'uint32']",
    "vocabulary": "dict[str, Any]",
    "splits": "dict[str, dict[str, Any]]",
    "fingerprint": "str",
}
_VOCABULARY = {"size": "int", "fingerprint": "str"}
_SPLIT = {"shards": "list[dict[str, Any], ...]"}
_NAME = {"name": "str", "sha256": "dict[str, str]"}


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
    vocabulary: int = 1 << 32  # every token is below it

    def path(self, part: str) -> Path:
        """Return the path of one of the PARTS."""
        return self.stem.with_name(f"{self.stem.name}.{part}")

    def map(self, part: str) -> np.ndarray:
        """Return one of the PARTS as a memory map. Raises DataError where the file cannot be mapped."""
        dtype = np.dtype(self.dtype if part == "tokens" else "uint32").newbyteorder("<")
        length = self.tokens if part == "tokens" else getattr(self, part) + 1
        try:
            array = np.memmap(self.path(part), dtype=dtype, mode="r", shape=(length,))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(
                f"{self.path(part)} cannot be read: {reason}; the token store was changed after it was opened. "
                "Restore it and start the same command again"
            ) from error
        if part != "tokens":
            self._check_starts(array, part)
        return array

    def _check_starts(self, starts: np.ndarray, part: str) -> None:
        """Raise DataError unless starts of documents or sentences rise from 0 to the number of tokens."""
        if starts[0] != 0 or starts[-1] != self.tokens or not (starts[1:] > starts[:-1]).all():
            raise DataError(
                f"{self.path(part)} is damaged: the starts of its {part} do not rise from 0 to {self.tokens}; "
                "preprocess the text again"
            )

    def check_tokens(self, tokens: np.ndarray) -> np.ndarray:
        """Return tokens of this shard. Raises DataError where one is not in the vocabulary."""
        if len(tokens) and (largest := int(tokens.max())) >= self.vocabulary:
            raise DataError(
                f"{self.path('tokens')} is damaged: it holds the token {largest}, but the vocabulary has "
                f"{self.vocabulary}; preprocess the text again"
            )
        return tokens


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
        return self.tokens_of(shard, int(starts[inside]), int(starts[inside + 1]))

    def tokens_of(self, shard: int, start: int, stop: int) -> np.ndarray:
        """Return tokens [start, stop) of a shard, a view of the memory map. All are in the vocabulary."""
        return self.shards[shard].check_tokens(self.map(shard, "tokens")[start:stop])

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
        if low == high or cuts[low] != first:
            raise DataError(
                f"{self.shards[shard].path('sentences')} is damaged: document {inside} does not begin with a "
                "sentence; preprocess the text again"
            )
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
            self.folder / entry["name"],
            self.dtype,
            entry["tokens"],
            entry["documents"],
            entry["sentences"],
            self.manifest["vocabulary"]["size"],
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
        size = self.manifest["vocabulary"]["size"]
        if tokenizer.size != size:
            raise DataError(
                f"{self.folder / MANIFEST} is damaged: it lists {size} tokens, and the tokenizer has {tokenizer.size}"
            )
        return tokenizer

    def unigrams(self) -> np.ndarray:
        """Return how often each id occurs in the training split; int64 [V]."""
        path = self.folder / "unigrams.npy"
        try:
            counts = read_counts(path, self.manifest["vocabulary"]["size"])
        except OSError:
            raise DataError(f"{path} is missing or damaged; preprocess the text again") from None
        return counts.astype(np.int64)

    def verify(self) -> None:
        """Raise DataError where a shard does not match its hash in the manifest. Reads every file."""
        for split in self.manifest["splits"].values():
            for entry in split["shards"]:
                for part in PARTS:
                    path = self.folder / f"{entry['name']}.{part}"
                    if digest(path) != entry["sha256"][part]:
                        raise DataError(
                            f"{path} does not match its hash in the manifest: it was changed"
                        )


def _read_manifest(folder: Path) -> PlainDict:
    """Return the manifest of a store. Raises DataError where it is missing, damaged or of another version."""
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"{folder} is not a token store: it has no readable {MANIFEST}")
    manifest = read_object(path)
    if "format" in manifest and manifest["format"] != FORMAT:
        raise DataError(f"{path} describes a {shown(manifest['format'])}, expected a {FORMAT}")
    if "version" in manifest and manifest["version"] != VERSION:
        raise DataError(
            f"{path.parent} has token store version {shown(manifest['version'])}, this fwk reads version {VERSION}"
        )
    fitted(manifest, _MANIFEST, path)
    fitted(manifest["vocabulary"], _VOCABULARY, f"{path}: vocabulary", low=1, high=1 << 31)
    for name, split in manifest["splits"].items():
        for entry in fitted(split, _SPLIT, f"{path}: splits.{name[:40]}")["shards"]:
            _check_entry(entry, path)
    if manifest["fingerprint"] != fingerprint_of(manifest):
        raise DataError(f"{path} was changed: its fingerprint does not match its entries")
    return manifest


def _check_entry(entry: PlainDict, path: Path) -> None:
    """Raise DataError where an entry does not describe a shard."""
    where = f"{path}: an entry of a shard"
    fitted(entry, _NAME, where)
    # starts are 32-bit numbers
    fitted(entry, dict.fromkeys(PARTS, "int"), where, low=0, high=(1 << 32) - 1)
    fitted(entry["sha256"], dict.fromkeys(PARTS, "str"), f"{where}: sha256")
    require_file_name(entry["name"], path)
