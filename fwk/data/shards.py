"""The second pass of preprocessing: documents are cut into shards, and processes tokenize them.

A shard is written once: its record holds a hash of the text, and a rerun skips shards whose record fits.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypedDict, cast

import numpy as np

from fwk.components.working_directory import kept_from_children
from fwk.contracts.json_files import fitted, read_json
from fwk.data.main_guard import explain_death
from fwk.data.text import Document, split_sentences
from fwk.data.tokenizers import Tokenizer, load
from fwk.errors import DataError
from fwk.files import write_atomically
from fwk.limits import library_threads, require_threads

_BATCH = 2048  # sentences that the tokenizer encodes at once, or a few more


@dataclass(frozen=True)
class ShardText:
    """The text of one shard, which goes to a process that tokenizes it."""

    input: str  # the input it comes from: train or valid
    number: int  # among the shards of that input
    train: list[tuple[str, ...]]  # lines of each document of the training split
    valid: list[tuple[str, ...]]  # lines of each document of the validation split
    size: int  # characters


class Entry(TypedDict):
    """A shard of one split, as the manifest lists it."""

    name: str
    tokens: int
    documents: int
    sentences: int
    sha256: dict[str, str]  # of each of its files


class Record(TypedDict):
    """What is known of a finished shard."""

    text: str  # hash of the text and of the tokenizer
    shards: dict[str, Entry]  # by split
    counts: str  # name of the file with the counts of its training tokens
    record: str  # name of the file with this record


_RECORD = {  # types of the entries of a record in its file
    "text": "str",
    "shards": "dict[str, dict[str, Any]]",
    "counts": "str",
    "record": "str",
}


def cut_into_shards(
    documents: Iterable[Document], input: str, shard_size: int, is_valid: Callable[[int], bool]
) -> Iterator[ShardText]:
    """Yield documents as shards of about `shard_size` characters, in order.

    is_valid: returns whether a document, by number, belongs to the validation split.
    """
    train: list[tuple[str, ...]] = []
    valid: list[tuple[str, ...]] = []
    size = shard = 0
    for number, document in enumerate(documents):
        split = valid if is_valid(number) else train
        split.append(document.lines)
        size += document.size
        if size >= shard_size:
            yield ShardText(input, shard, train, valid, size)
            train, valid = [], []
            size, shard = 0, shard + 1
    if size:
        yield ShardText(input, shard, train, valid, size)


def tokenize_shards(
    shards: Iterable[ShardText], folder: Path, dtype: str, tokenizer: Tokenizer, processes: int
) -> Iterator[tuple[Record, int]]:
    """Write shards to `folder`; yield the record and the characters of each, in order.

    The tokenizer must be saved as `folder`/tokenizer. Raises RunError where a process dies, UserError where the script
    that started it has no main guard.
    """
    if processes == 1:
        for shard in shards:
            yield write_shard(shard, folder, dtype, tokenizer), shard.size
        return

    pool = _make_pool(processes, folder)
    waiting: deque[tuple[Future[Record], int]] = deque()
    started: set[BaseProcess] = set()
    try:
        for shard in shards:
            with kept_from_children():  # processes start when there is work for them
                waiting.append((pool.submit(_work, shard, folder, dtype), shard.size))
            started.update(multiprocessing.active_children())
            while len(waiting) > processes:  # bounds the text in memory
                future, size = waiting.popleft()
                yield future.result(), size
        for future, size in waiting:
            yield future.result(), size
    except BrokenProcessPool:
        pool.shutdown(wait=True)  # then their exit statuses are known
        raise explain_death(started, processes) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _make_pool(processes: int, folder: Path) -> ProcessPoolExecutor:
    # one that tracks resources, and in each process a thread that watches its parent
    require_threads(1 + processes * (2 + library_threads()), "lower --processes")
    with kept_from_children():  # the pool's locks start a process
        return ProcessPoolExecutor(
            processes,
            multiprocessing.get_context("spawn"),
            _start_worker,
            (str(folder / "tokenizer"), os.getpid()),
        )


_worker_tokenizer: Tokenizer | None = None


def _start_worker(tokenizer: str, parent: int) -> None:
    """Set up a process that tokenizes: it leaves Ctrl-C to its parent, and ends when the parent has died."""
    global _worker_tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    _worker_tokenizer = load(tokenizer)


def _work(shard: ShardText, folder: Path, dtype: str) -> Record:
    assert _worker_tokenizer is not None
    return write_shard(shard, folder, dtype, _worker_tokenizer)


def write_shard(shard: ShardText, folder: Path, dtype: str, tokenizer: Tokenizer) -> Record:
    """Tokenize one shard, write its files and return its record, unless an earlier run has done so."""
    stem = f"{shard.input}-{shard.number:05d}"
    record_name, counts_name = f"record-{stem}.json", f"counts-{stem}.npy"
    text_hash = _hash_text(shard, tokenizer, dtype)
    finished = _read_record(folder / record_name, text_hash)
    if finished is not None:
        return finished

    entries: dict[str, Entry] = {}
    counts = np.zeros(tokenizer.size, np.int64)
    # Validation shards come either from the training input or from --valid, so their names never collide.
    for split, documents in (("train", shard.train), ("valid", shard.valid)):
        if not documents:
            continue
        arrays = encode_documents(documents, tokenizer, dtype)
        if split == "train":
            counts += np.bincount(arrays["tokens"], minlength=tokenizer.size)
        entries[split] = _write_arrays(folder, f"{split}-{shard.number:05d}", arrays)

    np.save(folder / counts_name, counts, allow_pickle=False)
    record: Record = {
        "text": text_hash,
        "shards": entries,
        "counts": counts_name,
        "record": record_name,
    }
    write_atomically(folder / record_name, json.dumps(record).encode())
    return record


def _hash_text(shard: ShardText, tokenizer: Tokenizer, dtype: str) -> str:
    """Return a hash of everything that determines the files of a shard."""
    hashed = hashlib.blake2b(f"{tokenizer.fingerprint}{dtype}".encode(), digest_size=16)
    for documents in (shard.train, shard.valid):
        for lines in documents:
            hashed.update("\n".join(lines).encode() + b"\x00")
        hashed.update(b"\x01")
    return hashed.hexdigest()


def _read_record(path: Path, text_hash: str) -> Record | None:
    """Return the record of a shard with this text; None where it is missing, damaged or of another text."""
    try:
        record = fitted(read_json(path), _RECORD, path)
        for entry in record["shards"].values():
            fitted(entry, {"name": "str", "sha256": "dict[str, str]"}, path)
            fitted(entry, dict.fromkeys(("tokens", "documents", "sentences"), "int"), path, low=0)
    except DataError:
        return None
    return cast(Record, record) if record["text"] == text_hash else None


def encode_documents(
    documents: Sequence[Sequence[str]], tokenizer: Tokenizer, dtype: str
) -> dict[str, np.ndarray]:
    """Return the arrays of a shard: all tokens, and the starts of documents and sentences with the end of the last.

    documents: the lines of each. Documents and sentences without tokens are left out.
    """
    tokens = [np.zeros(0, dtype)]
    lengths = [np.zeros(1, np.int64)]  # tokens of each sentence, after a 0
    per_document = [0]  # sentences of each document, after a 0
    batch: list[str] = []
    for number, lines in enumerate(documents, 1):
        sentences = split_sentences(lines)
        per_document.append(len(sentences))
        batch += sentences
        if len(batch) >= _BATCH or number == len(documents):
            encoded = tokenizer.encode_batch(batch)
            lengths.append(np.fromiter(map(len, encoded), np.int64, len(encoded)))
            tokens.append(np.fromiter(chain.from_iterable(encoded), dtype, int(lengths[-1].sum())))
            batch = []

    sentence_ends = np.cumsum(np.concatenate(lengths))  # after a 0
    document_ends = sentence_ends[np.cumsum(per_document)]
    return {
        "tokens": np.concatenate(tokens),
        "documents": np.unique(document_ends).astype(np.uint32),
        "sentences": np.unique(sentence_ends).astype(np.uint32),
    }


def _write_arrays(folder: Path, stem: str, arrays: dict[str, np.ndarray]) -> Entry:
    """Write the three files of a shard of one split; return its entry for the manifest."""
    hashes = {}
    for part, array in arrays.items():
        data = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
        hashes[part] = hashlib.sha256(data).hexdigest()
        write_atomically(folder / f"{stem}.{part}", data)
    return {
        "name": stem,
        "tokens": len(arrays["tokens"]),
        "documents": len(arrays["documents"]) - 1,
        "sentences": len(arrays["sentences"]) - 1,
        "sha256": hashes,
    }
