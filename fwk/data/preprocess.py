"""Text -> tokenizer + token store: two passes over the input as a stream.

    pass 1   read everything once: encoding and counts are checked before anything is kept, a keyed sample of the
             documents trains the tokenizer
    pass 2   one reader cuts the documents into shards of about `shard_size` characters; processes turn shards into
             tokens and write them beside, fsync, rename, and leave a record; a rerun skips shards that have one

The store is built in `STORE.partial` and renamed when it is whole. What is written depends on the input and the options
only, never on the number of processes.
"""

from __future__ import annotations

import errno
import hashlib
import heapq
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from fwk.data import store as stores
from fwk.data.progress import Progress
from fwk.data.text import Document, Reader, find_files, split_sentences
from fwk.data.tokenizers import KINDS, Tokenizer, check_kind, load, train
from fwk.errors import ConfigError, DataError, FwkError, RunError
from fwk.files import digest, sync, write_atomically


@dataclass(frozen=True, kw_only=True)
class TokenizerSpec:
    """What to train, or (path) which one to use."""

    kind: str = "unigram"
    size: int = 32000
    lower: bool = True
    path: str | None = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything besides input and tokenizer that decides what is in a store."""

    documents: str = "empty-line"  # what separates documents: empty-line | line | file
    field: str = "text"
    format: str = "auto"  # auto (by suffix) | text | jsonl
    valid_share: float = 0.01
    shard_size: int = 1 << 24  # characters
    sample_size: int = 1 << 25  # characters of text that train the tokenizer
    seed: int = 1

    def check(self) -> None:
        if self.documents not in ("empty-line", "line", "file"):
            raise ConfigError(
                "documents", f"'{self.documents}' is unknown, expected empty-line, line or file"
            )
        if not 0 <= self.valid_share < 1:
            raise ConfigError(
                "valid_share", f"{self.valid_share} is not a share, expected 0 <= share < 1"
            )
        if self.shard_size < 1 or self.sample_size < 1:
            raise ConfigError("shard_size", "expected a positive number of characters")


@dataclass
class FirstPass:
    """What pass 1 found out. held: documents that make up the valid split, decided by hash below `threshold`, or the
    single document `chosen` when none or all would be."""

    documents: int = 0
    characters: int = 0
    threshold: int = 0
    chosen: int = -1
    valid_documents: int = 0
    fields: dict[str, Any] = field(default_factory=dict)

    def is_valid(self, seed: int, document: int) -> bool:
        return (
            document == self.chosen if self.chosen >= 0 else _hash(seed, document) < self.threshold
        )


def _hash(seed: int, document: int, purpose: str = "valid") -> int:
    """63 bits that depend on seed, purpose and document number only."""
    key = f"{seed}\x1f{purpose}\x1f{document}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


class _Sample:
    """The documents with the smallest hashes, up to `limit` characters: a uniform sample in bounded memory that does
    not depend on the order of arrival of anything but the documents themselves."""

    def __init__(self, limit: int, seed: int):
        self.limit, self.seed, self.held = limit, seed, 0
        self.heap: list[tuple[int, int, tuple[str, ...], int]] = []  # largest hash first

    def add(self, number: int, document: Document) -> None:
        heapq.heappush(
            self.heap, (-_hash(self.seed, number, "sample"), number, document.lines, document.size)
        )
        self.held += document.size
        while len(self.heap) > 1 and self.held - self.heap[0][3] >= self.limit:
            self.held -= heapq.heappop(self.heap)[3]

    def texts(self) -> list[str]:
        ordered = sorted(self.heap, key=lambda entry: entry[1])
        texts = [line for _, _, lines, _ in ordered for line in lines]
        if sum(map(len, texts)) > 2 * self.limit:  # a few huge documents: a sample of their lines
            step = sum(map(len, texts)) // self.limit
            texts = texts[::step]
        return texts


def _readable(files: Sequence[str]) -> list[list[Any]]:
    """What identifies the input without reading it, for the resume of an interrupted run."""
    listed: list[list[Any]] = []
    for file in files:
        status = os.stat(file)
        listed.append([os.path.abspath(file), status.st_size, status.st_mtime_ns])
    return listed


@contextmanager
def lock(
    path: Path, waiting: str = "", quiet: bool = False, timeout: float = 3600.0
) -> Iterator[None]:
    """An exclusive lock between processes: a file beside what it protects, there only while it is held. The system
    releases it when the holder dies."""
    try:
        import fcntl
    except ImportError:  # Windows: who comes second may build twice; renames keep the result whole
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    began, said = time.monotonic(), False
    while True:
        file = open(path, "ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # the holder removes the file at the end: a lock on a removed file protects nothing
            if os.path.exists(path) and os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                break
        except OSError:
            pass
        file.close()
        if waiting and not said and not quiet and time.monotonic() - began > 2:
            print(f"fwk: {waiting}", file=sys.stderr, flush=True)
            said = True
        if time.monotonic() - began > timeout:
            raise RunError(f"waited {timeout:.0f} s for another process that holds {path}")
        time.sleep(0.05)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


@contextmanager
def _place(folder: str | Path) -> Iterator[Path]:
    """The path of a store to be, with its parents made, which go again when nothing comes of it. DataError when no store
    can be there."""
    path, made = Path(folder), []
    try:
        if path.name in ("", ".."):
            path = Path(os.path.abspath(path))
        if "\0" in str(path):
            raise ValueError("it holds a zero byte")
        if (
            not path.name or len(os.fsencode(path.name)) > 240
        ):  # beside it stand a lock and what is not whole yet
            raise ValueError("the name is too long" if path.name else "it has no name")
        made = [parent for parent in path.parents if not parent.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        taken = not stores.is_store(path) and (
            path.is_symlink()
            and not path.exists()
            or path.exists()
            and (not path.is_dir() or any(path.iterdir()))
        )
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except (OSError, ValueError) as error:
        _remove_empty(made)
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"no token store can be written to {str(path)!r} ({reason}); name another folder"
        ) from None
    if taken:
        raise DataError(f"{path} exists and is not a token store; name another folder")
    try:
        yield path
    except FwkError:
        _remove_empty(made)
        raise


def _remove_empty(folders: Sequence[Path]) -> None:
    """Innermost first, until one is not empty."""
    with suppress(OSError, ValueError):
        for folder in folders:
            folder.rmdir()


def build_store(
    inputs: Sequence[str | Path],
    folder: str | Path,
    tokenizer: Tokenizer | TokenizerSpec,
    *,
    options: Options = Options(),
    valid: Sequence[str | Path] = (),
    processes: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
    identity: str | None = None,
) -> Path:
    """Build the token store `folder` from text; returns it. A store made from the same input with the same options is
    left as it is; another one there is an error unless `overwrite`. valid: text of its own for the valid split (then
    nothing is held out). identity: what the input is, for a caller who knows its content (by default names, sizes and
    times of the files). Raises DataError for input that cannot be used, naming file and line."""
    options.check()
    files, valid_files = find_files([str(i) for i in inputs]), find_files([str(v) for v in valid])
    if not files:
        raise DataError("no input was named")
    if files.count("-") + valid_files.count("-") > 1:
        raise DataError("standard input can be read only once")
    if isinstance(tokenizer, TokenizerSpec):
        if tokenizer.path:
            tokenizer = load(
                tokenizer.path, tokenizer.lower if tokenizer.path.endswith(".txt") else None
            )
        else:
            check_kind(tokenizer.kind, "tokenizer")
    with (
        _place(folder) as folder,
        lock(
            folder.with_name(f".{folder.name}.lock"),
            f"waiting for another process that builds {folder}",
            quiet=bool(progress and progress.quiet),
        ),
    ):
        build = _Build(
            files,
            valid_files,
            folder,
            tokenizer,
            options,
            processes,
            overwrite,
            progress or Progress(True),
        )
        build.identity = identity
        return build.run()


def train_tokenizer(
    inputs: Sequence[str | Path],
    folder: str | Path,
    spec: TokenizerSpec,
    *,
    options: Options = Options(),
    progress: Progress | None = None,
) -> Tokenizer:
    """Train a tokenizer alone and keep it in `folder`; one that is there already is loaded."""
    options.check()
    folder, progress = Path(folder), progress or Progress(True)
    files = find_files([str(i) for i in inputs])
    with lock(
        folder.with_name(f".{folder.name}.lock"),
        f"waiting for another process that builds {folder}",
        quiet=progress.quiet,
    ):
        if folder.is_dir():
            return load(folder)
        sample = _Sample(options.sample_size, options.seed)
        progress.stage("reading text", sum(os.path.getsize(file) for file in files))
        reader = Reader(files, options.documents, options.field, options.format, progress.advance)
        for number, document in enumerate(reader):
            sample.add(number, document)
        progress.stage(f"training a {spec.kind} vocabulary of {spec.size}")
        tokenizer = train(sample.texts(), spec.kind, spec.size, spec.lower)
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        tokenizer.save(partial)
        os.replace(partial, folder)
        return tokenizer


class _Build:
    identity: str | None = None

    def __init__(
        self,
        files: list[str],
        valid_files: list[str],
        folder: Path,
        tokenizer: Tokenizer | TokenizerSpec,
        options: Options,
        processes: int,
        overwrite: bool,
        progress: Progress,
    ):
        self.files, self.valid_files, self.folder, self.options = (
            files,
            valid_files,
            folder,
            options,
        )
        self.tokenizer, self.processes = tokenizer, max(processes, 1)
        self.overwrite, self.progress = overwrite, progress
        self.partial = folder.with_name(folder.name + ".partial")

    def run(self) -> Path:
        self.partial.mkdir(exist_ok=True)
        try:
            self._spool()
            asked = self._asked()
            if stores.is_store(self.folder):
                if not self.overwrite and stores.Store(self.folder).manifest.get("asked") == _key(
                    asked
                ):
                    shutil.rmtree(self.partial)
                    self.progress.say(f"{self.folder} is already there, made from the same input")
                    return self.folder
                if not self.overwrite:
                    raise DataError(
                        f"{self.folder} is a token store made from other input or with other options; name "
                        "another folder or say --overwrite"
                    )
            plan, tokenizer = self._plan(asked)
            self._write(asked, plan, tokenizer)
        except FwkError:
            shutil.rmtree(self.partial, ignore_errors=True)
            raise
        return self.folder

    def _spool(self) -> None:
        """Standard input is read twice and may be needed after a crash: keep a copy in the working folder."""
        for files in (self.files, self.valid_files):
            if "-" not in files:
                continue
            copy = self.partial / "stdin.txt"
            hashed = hashlib.sha256()
            beside = self.partial / "stdin.tmp"
            with open(beside, "wb") as out:
                while block := sys.stdin.buffer.read(1 << 20):
                    hashed.update(block)
                    out.write(block)
            if copy.exists() and digest(copy) == hashed.hexdigest():
                beside.unlink()  # the same text again: finished shards stay valid
            else:
                os.replace(beside, copy)
            self._stdin = ("-", hashed.hexdigest())
            files[files.index("-")] = str(copy)

    def _asked(self) -> dict[str, Any]:
        tokenizer = self.tokenizer
        listed = [self._listed(self.files), self._listed(self.valid_files)]
        return {
            "input": self.identity or listed,
            "options": asdict(self.options),
            "tokenizer": asdict(tokenizer)
            if isinstance(tokenizer, TokenizerSpec)
            else tokenizer.fingerprint,
            "version": stores.VERSION,
        }

    def _listed(self, files: list[str]) -> list[Any]:
        copy = str(self.partial / "stdin.txt")
        return [list(self._stdin) if file == copy else _readable([file])[0] for file in files]

    def _reader(self, files: list[str], advanced: Any) -> Reader:
        o = self.options
        return _Named(
            files, o.documents, o.field, o.format, advanced, str(self.partial / "stdin.txt")
        )

    def _bytes(self, files: list[str]) -> int:
        return sum(os.path.getsize(file) for file in files)

    def _plan(self, asked: dict[str, Any]) -> tuple[dict[str, FirstPass], Tokenizer]:
        """Pass 1, or what an interrupted run kept of it."""
        kept = self.partial / "plan.json"
        if kept.is_file():
            try:
                saved = json.loads(kept.read_text())
                if saved["asked"] == _key(asked):
                    plans = {name: FirstPass(**plan) for name, plan in saved["plans"].items()}
                    return plans, load(self.partial / "tokenizer")
            except (ValueError, KeyError, TypeError, DataError):
                pass  # a damaged plan is made again
        for old in self.partial.iterdir():
            if old.name != "stdin.txt":
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        o = self.options
        sample = (
            _Sample(o.sample_size, o.seed) if isinstance(self.tokenizer, TokenizerSpec) else None
        )
        self.progress.stage("reading text", self._bytes(self.files) + self._bytes(self.valid_files))
        train_plan = self._count(self.files, sample, 0.0 if self.valid_files else o.valid_share)
        if not train_plan.documents:
            named = ", ".join(self.files[:3]).replace(
                str(self.partial / "stdin.txt"), "standard input"
            )
            raise DataError(f"there is no text in {named}{' ...' if len(self.files) > 3 else ''}")
        plans = {"train": train_plan}
        if self.valid_files:
            plans["valid"] = self._count(self.valid_files, None, 0.0)
            if not plans["valid"].documents:
                raise DataError(
                    f"there is no text in {', '.join(self.valid_files[:3])}, named for validation"
                )
        if sample is not None:
            spec = self.tokenizer
            assert isinstance(spec, TokenizerSpec)
            self.progress.stage(f"training a {spec.kind} vocabulary of {spec.size}")
            tokenizer: Tokenizer = train(sample.texts(), spec.kind, spec.size, spec.lower)
        else:
            assert isinstance(self.tokenizer, Tokenizer)
            tokenizer = self.tokenizer
        tokenizer.save(self.partial / "tokenizer")
        saved = {
            "asked": _key(asked),
            "plans": {name: asdict(plan) for name, plan in plans.items()},
        }
        write_atomically(kept, json.dumps(saved).encode())
        return plans, tokenizer

    def _count(self, files: list[str], sample: _Sample | None, share: float) -> FirstPass:
        plan = FirstPass(threshold=int(share * (1 << 63)))
        smallest = (1 << 64, -1)
        for number, document in enumerate(self._reader(files, self.progress.advance)):
            plan.documents += 1
            plan.characters += document.size
            if sample is not None:
                sample.add(number, document)
            if share:
                hashed = _hash(self.options.seed, number)
                plan.valid_documents += hashed < plan.threshold
                smallest = min(smallest, (hashed, number))
        if share and plan.documents > 1 and plan.valid_documents in (0, plan.documents):
            plan.chosen, plan.valid_documents = (
                smallest[1],
                1,
            )  # small corpora still get something to validate on
        elif share and plan.documents == 1:
            plan.threshold = plan.valid_documents = 0
        return plan

    def _shards(self, plans: dict[str, FirstPass]) -> Iterator[dict[str, Any]]:
        """The work: documents cut into shards, in order."""
        for name, files in (("train", self.files), ("valid", self.valid_files)):
            if name not in plans or not files:
                continue
            plan, seed = plans[name], self.options.seed
            texts: list[list[tuple[str, ...]]] = [[], []]
            size = number = shard = 0
            for number, document in enumerate(self._reader(files, lambda n: None)):
                held_out = name == "valid" or (
                    plan.valid_documents > 0 and plan.is_valid(seed, number)
                )
                texts[held_out].append(document.lines)
                size += document.size
                if size >= self.options.shard_size:
                    yield {
                        "pass": name,
                        "shard": shard,
                        "train": texts[0],
                        "valid": texts[1],
                        "size": size,
                    }
                    texts, size, shard = [[], []], 0, shard + 1
            if size:
                yield {
                    "pass": name,
                    "shard": shard,
                    "train": texts[0],
                    "valid": texts[1],
                    "size": size,
                }

    def _write(
        self, asked: dict[str, Any], plans: dict[str, FirstPass], tokenizer: Tokenizer
    ) -> None:
        self.progress.stage("tokenizing", sum(plan.characters for plan in plans.values()))
        dtype = "uint16" if tokenizer.size <= 1 << 16 else "uint32"
        records: list[dict[str, Any]] = []
        for record, size in self._records(self._shards(plans), tokenizer, dtype):
            records.append(record)
            self.progress.advance(size)
        splits: dict[str, Any] = {}
        counts = np.zeros(tokenizer.size, np.int64)
        for record in records:
            counts += np.load(self.partial / record["counts"], allow_pickle=False)
            for name, shard in record["shards"].items():
                split = splits.setdefault(
                    name, {"tokens": 0, "documents": 0, "sentences": 0, "shards": []}
                )
                split["shards"].append(shard)
                for part in stores.PARTS:
                    split[part] += shard[part]
        if not splits.get("train", {}).get("tokens"):
            raise DataError("the text gave no tokens")
        if splits.get("valid", {"tokens": 1})["tokens"] == 0:
            del splits["valid"]
        np.save(self.partial / "unigrams.npy", counts, allow_pickle=False)
        sync(self.partial / "unigrams.npy")
        manifest = {
            "format": stores.FORMAT,
            "version": stores.VERSION,
            "dtype": dtype,
            "vocabulary": {"size": tokenizer.size, "fingerprint": tokenizer.fingerprint},
            "splits": splits,
            "options": asdict(self.options),
            "asked": _key(asked),
        }
        manifest["fingerprint"] = stores.fingerprint_of(manifest)
        for record in records:
            (self.partial / record["counts"]).unlink()
            (self.partial / record["record"]).unlink()
        for left in (
            self.partial / "plan.json",
            self.partial / "stdin.txt",
            *self.partial.glob(".*.tmp"),
            *self.partial.glob("tokenizer/.*.tmp"),
        ):
            left.unlink(missing_ok=True)
        write_atomically(
            self.partial / stores.MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode()
        )
        sync(self.partial)
        if self.folder.exists():
            old = self.folder.with_name(f".{self.folder.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            os.replace(self.folder, old)
            os.replace(self.partial, self.folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(self.partial, self.folder)
        sync(self.folder.parent)

    def _records(
        self, work: Iterator[dict[str, Any]], tokenizer: Tokenizer, dtype: str
    ) -> Iterator[tuple[dict, int]]:
        folder = str(self.partial)
        if self.processes == 1:
            for item in work:
                yield _make_shard(item, folder, dtype, tokenizer), item["size"]
            return
        import multiprocessing
        from collections import deque
        from concurrent.futures import ProcessPoolExecutor
        from concurrent.futures.process import BrokenProcessPool

        pool = ProcessPoolExecutor(
            self.processes,
            multiprocessing.get_context("spawn"),
            _begin_worker,
            (str(self.partial / "tokenizer"), os.getpid()),
        )
        try:
            waiting: deque = deque()
            for item in work:
                waiting.append((pool.submit(_work, item, folder, dtype), item["size"]))
                while len(waiting) > self.processes:  # bounds what is held in memory
                    future, size = waiting.popleft()
                    yield future.result(), size
            for future, size in waiting:
                yield future.result(), size
        except BrokenProcessPool:
            raise RunError(
                "a preprocessing process died (killed, or out of memory); run the same command again to go "
                "on, with fewer --processes if memory was short"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class _Named(Reader):
    """A reader whose messages say 'standard input' for its spooled copy."""

    def __init__(
        self, files: list[str], split: str, field: str, format: str, advanced: Any, stdin: str
    ):
        super().__init__(files, split, field, format, advanced)
        self._stdin = stdin

    def _documents(self, file: str, jsonl: bool) -> Iterator[Document]:
        try:
            yield from super()._documents(file, jsonl)
        except DataError as error:
            if file != self._stdin:
                raise
            raise DataError(str(error).replace(file, "standard input")) from None


def _key(asked: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


_BATCH = 2048  # sentences given to the tokenizer at once, or a few more

_worker_tokenizer: Tokenizer | None = None


def _begin_worker(tokenizer: str, parent: int) -> None:
    global _worker_tokenizer
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:  # a killed parent leaves no orphans
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    _worker_tokenizer = load(tokenizer)


def _work(item: dict[str, Any], folder: str, dtype: str) -> dict[str, Any]:
    assert _worker_tokenizer is not None
    return _make_shard(item, folder, dtype, _worker_tokenizer)


def _encode(
    documents: Sequence[Sequence[str]], tokenizer: Tokenizer, dtype: str
) -> dict[str, np.ndarray]:
    """Lines by document -> the tokens of all, and where documents and sentences begin in them, with the end of the last.
    Those that give no token are left out."""
    tokens, lengths, per_document, batch = [np.zeros(0, dtype)], [np.zeros(1, np.int64)], [0], []
    for number, lines in enumerate(documents, 1):
        cut = split_sentences(lines)
        per_document.append(len(cut))
        batch += cut
        if len(batch) >= _BATCH or number == len(documents):
            encoded = tokenizer.encode_batch(batch)
            lengths.append(np.fromiter(map(len, encoded), np.int64, len(encoded)))
            tokens.append(np.fromiter(chain.from_iterable(encoded), dtype, int(lengths[-1].sum())))
            batch = []
    ends = np.cumsum(np.concatenate(lengths))  # of each sentence, after a 0
    of_documents = ends[np.cumsum(per_document)]
    return {
        "tokens": np.concatenate(tokens),
        "documents": np.unique(of_documents).astype(np.uint32),
        "sentences": np.unique(ends).astype(np.uint32),
    }


def _make_shard(
    item: dict[str, Any], folder: str, dtype: str, tokenizer: Tokenizer
) -> dict[str, Any]:
    """Tokenize one shard and write it, unless an earlier run did."""
    where = Path(folder)
    stem = f"{item['pass']}-{item['shard']:05d}"
    record_name = f"record-{stem}.json"
    hashed = hashlib.blake2b(f"{tokenizer.fingerprint}{dtype}".encode(), digest_size=16)
    for name in ("train", "valid"):
        for lines in item[name]:
            hashed.update("\n".join(lines).encode() + b"\x00")
        hashed.update(b"\x01")
    text_hash = hashed.hexdigest()
    try:
        record = json.loads((where / record_name).read_text())
        if record["text"] == text_hash:
            return record
    except (OSError, ValueError, KeyError):
        pass
    shards: dict[str, Any] = {}
    counts = np.zeros(tokenizer.size, np.int64)
    for name in ("train", "valid"):
        if not item[name]:
            continue
        arrays = _encode(item[name], tokenizer, dtype)
        # `valid` shards cut from the training input and shards of a --valid file never meet: one of the two exists
        shard_stem = f"{name}-{item['shard']:05d}"
        if name == "train":
            counts += np.bincount(arrays["tokens"], minlength=tokenizer.size)
        hashes = {}
        for part, array in arrays.items():
            data = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
            hashes[part] = hashlib.sha256(data).hexdigest()
            write_atomically(where / f"{shard_stem}.{part}", data)
        shards[name] = {
            "name": shard_stem,
            "tokens": len(arrays["tokens"]),
            "documents": len(arrays["documents"]) - 1,
            "sentences": len(arrays["sentences"]) - 1,
            "sha256": hashes,
        }
    counts_name = f"counts-{stem}.npy"
    np.save(where / counts_name, counts, allow_pickle=False)
    record = {"text": text_hash, "shards": shards, "counts": counts_name, "record": record_name}
    write_atomically(where / record_name, json.dumps(record).encode())
    return record


__all__ = ["KINDS", "Options", "TokenizerSpec", "build_store", "lock", "train_tokenizer"]
