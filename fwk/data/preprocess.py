"""Preprocessing: text becomes a tokenizer and a token store, in two passes over the input as a stream.

    pass 1   read everything once: the encoding is checked, documents are counted, and a keyed sample of them trains
             the tokenizer (`first_pass`)
    pass 2   cut the documents into shards of about `shard_size` characters, which processes turn into tokens; a rerun
             skips finished shards (`shards`)
    commit   write the manifest and put the store in place (`commit`)

The store is built in `.STORE.NAME.partial`, where NAME is unpredictable, and renamed when it is complete. Its content
depends on the input and the options only, never on the number of processes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from fwk.contracts.json_files import fitted, read_json
from fwk.data import store as stores
from fwk.data.commit import commit
from fwk.data.first_pass import FirstPass, Sample, count_documents
from fwk.data.locking import lock
from fwk.data.progress import Progress
from fwk.data.shards import ShardText, cut_into_shards, tokenize_shards
from fwk.data.text import FORMATS, Reader, find_files, is_json
from fwk.data.tokenizers import Tokenizer, check_kind, load, train
from fwk.errors import ConfigError, DataError, FwkError
from fwk.files import digest, user_path, write_atomically
from fwk.files.kinds import MARKER, STORE, UNFINISHED_STORE
from fwk.files.outputs import make_public
from fwk.files.replacing import (
    find_temporary,
    make_temporary,
    mark,
    put_in_place,
    remove_empty,
    remove_file,
    remove_owned,
    remove_temporary,
    rename,
)

PARTIAL = ".partial"  # suffix of a folder in which a store or a tokenizer is made

_LONGEST_NAME = 230  # bytes; a lock and the unfinished store have longer names in the same folder


@dataclass(frozen=True, kw_only=True)
class TokenizerSpec:
    """The tokenizer to train, or (`path`) the one to use."""

    kind: str = "unigram"
    size: int = 32000  # tokens
    lower: bool = True  # lower-case the text
    path: str | None = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything besides input and tokenizer that determines the content of a store."""

    documents: str = "empty-line"  # separator of documents: empty-line | line | file
    field: str = "text"  # of a JSONL record
    format: str = "auto"  # auto (`format_of`) | text | jsonl
    valid_share: float = 0.01  # of the documents that are held out
    shard_size: int = 1 << 24  # characters
    sample_size: int = 1 << 25  # characters of text that train the tokenizer
    seed: int = 1

    def check(self) -> None:
        """Raise ConfigError where a value is out of its range."""
        if self.documents not in ("empty-line", "line", "file"):
            raise ConfigError(
                "documents", f"'{self.documents}' is unknown, expected empty-line, line or file"
            )
        if self.format not in FORMATS:
            raise ConfigError(
                "format", f"'{self.format}' is unknown, expected {', '.join(FORMATS)}"
            )
        if not 0 <= self.valid_share < 1:
            raise ConfigError(
                "valid_share", f"{self.valid_share} is not a share, expected 0 <= share < 1"
            )
        if self.shard_size < 1 or self.sample_size < 1:
            raise ConfigError("shard_size", "expected a positive number of characters")

    def reader(
        self,
        files: Sequence[str],
        advance: Callable[[int], object] = lambda n: None,
        names: dict[str, str] | None = None,
    ) -> Reader:
        """Return a reader of the documents of files; the other arguments are those of `Reader`."""
        return Reader(files, self.documents, self.field, self.format, advance, names)


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
    """Build the token store `folder` from text, and return it.

    A store made from the same input with the same options is left unchanged; any other store is an error unless
    `overwrite` is given. valid: separate text for the validation split (nothing is held out then). identity: identifies
    the input, for a caller who knows its content (by default names, sizes and times of the files do). Raises DataError
    for input that cannot be used, naming file and line.
    """
    options.check()
    files = find_files([str(entry) for entry in inputs])
    valid_files = find_files([str(entry) for entry in valid])
    if not files:
        raise DataError("no input was named")
    if files.count("-") + valid_files.count("-") > 1:
        raise DataError("standard input can be read only once")
    tokenizer = _load_or_check(tokenizer)
    progress = progress or Progress(True)
    with _target(folder, overwrite) as folder, _lock_folder(folder, progress):
        return _Build(
            files=files,
            valid_files=valid_files,
            folder=folder,
            tokenizer=tokenizer,
            options=options,
            processes=max(processes, 1),
            overwrite=overwrite,
            progress=progress,
            identity=identity,
        ).run()


def train_tokenizer(
    inputs: Sequence[str | Path],
    folder: str | Path,
    spec: TokenizerSpec,
    *,
    options: Options = Options(),
    progress: Progress | None = None,
) -> Tokenizer:
    """Train a tokenizer without a store, save it in `folder` and return it; load it where `folder` exists."""
    options.check()
    folder, progress = user_path(folder), progress or Progress(True)
    files = find_files([str(entry) for entry in inputs])
    with _lock_folder(folder, progress):
        if folder.is_dir():
            return load(folder)
        sample = Sample(options.sample_size, options.seed)
        progress.stage("reading text", _bytes(files))
        for number, document in enumerate(options.reader(files, progress.advance)):
            sample.add(number, document)
        tokenizer = _train(spec, sample, progress)

        partial = make_temporary(folder, PARTIAL)
        try:
            tokenizer.save(partial)
            make_public(partial, folder)
            rename(partial, folder)
        except BaseException:
            remove_temporary(partial)
            raise
        return tokenizer


def _load_or_check(tokenizer: Tokenizer | TokenizerSpec) -> Tokenizer | TokenizerSpec:
    """Load the tokenizer where the spec has a path. Raises ConfigError for an unknown kind."""
    if not isinstance(tokenizer, TokenizerSpec):
        return tokenizer
    if not tokenizer.path:
        check_kind(tokenizer.kind, "tokenizer")
        return tokenizer
    return load(tokenizer.path, tokenizer.lower if tokenizer.path.endswith(".txt") else None)


def _train(spec: TokenizerSpec, sample: Sample, progress: Progress) -> Tokenizer:
    progress.stage(f"training a {spec.kind} vocabulary of {spec.size}")
    return train(sample.texts(), spec.kind, spec.size, spec.lower)


def _bytes(files: Sequence[str]) -> int:
    return sum(os.path.getsize(file) for file in files)


@contextmanager
def _lock_folder(folder: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of a folder that is being built."""
    message = f"waiting for another process that builds {folder}"
    with lock(folder.with_name(f".{folder.name}.lock"), message, quiet=progress.quiet):
        yield


@contextmanager
def _target(folder: str | Path, overwrite: bool) -> Iterator[Path]:
    """Provide the path of a store to build, with its parents created; they are removed again if the build fails.

    Raises DataError where no store can be written to `folder`.
    """
    path = user_path(folder)
    created: list[Path] = []
    try:
        path = _checked_name(path)
        created = [parent for parent in path.parents if not parent.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        occupied = _is_occupied(path, overwrite)
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except (OSError, ValueError) as error:
        _remove_empty(created)
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"no token store can be written to {str(path)!r} ({reason}); name another folder"
        ) from None
    if occupied:
        raise DataError(
            f"{path} exists and is not a token store that may be replaced; name another folder"
        )
    try:
        yield path
    except FwkError:
        _remove_empty(created)
        raise


def _checked_name(path: Path) -> Path:
    """Return the path, absolute where it has no name of its own. Raises ValueError where no folder can have it."""
    if path.name in ("", ".."):
        path = Path(os.path.abspath(path))
    if "\0" in str(path):
        raise ValueError("it holds a zero byte")
    if not path.name:
        raise ValueError("it has no name")
    if len(os.fsencode(path.name)) > _LONGEST_NAME:
        raise ValueError("the name is too long")
    return path


def _is_occupied(path: Path, overwrite: bool) -> bool:
    """Return whether something exists at `path` that is neither a store nor an empty folder.

    overwrite: it would be replaced, so it must be a store by its content, and no link.
    """
    if stores.is_store(path):
        return overwrite and (path.is_symlink() or not STORE.holds(path))
    return path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir())))


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, innermost first, up to the first that is not empty."""
    with suppress(OSError, ValueError):
        for folder in folders:
            if not remove_empty(folder):
                return


@dataclass(kw_only=True)
class _Build:
    """The construction of one store."""

    files: list[str]  # training text
    valid_files: list[str]  # validation text; empty: it is held out of the training text
    folder: Path  # of the store
    tokenizer: Tokenizer | TokenizerSpec
    options: Options
    processes: int
    overwrite: bool
    progress: Progress
    identity: str | None  # of the input

    def __post_init__(self) -> None:
        # the one that an interrupted build left, or a new one
        unfinished = [*find_temporary(self.folder, PARTIAL, UNFINISHED_STORE)]
        self.partial = unfinished[0] if unfinished else make_temporary(self.folder, PARTIAL)
        for other in unfinished[1:]:
            remove_owned(other, UNFINISHED_STORE)
        mark(self.partial, UNFINISHED_STORE)
        self._stdin_copy = self.partial / "stdin.txt"
        self._stdin_hash = ""
        self._names = {str(self._stdin_copy): "standard input"}

    def run(self) -> Path:
        """Build the store unless it exists. An error of ours removes the unfinished store; a crash keeps it."""
        try:
            self._copy_standard_input()
            key = self._request_key()
            if stores.is_store(self.folder) and not self.overwrite:
                self._require_same_request(key)
                remove_owned(self.partial, UNFINISHED_STORE)
                self.progress.say(f"{self.folder} exists already, made from the same input")
                return self.folder
            passes, tokenizer = self._first_pass(key)
            self._second_pass(key, passes, tokenizer)
        except FwkError:
            remove_owned(self.partial, UNFINISHED_STORE)
            raise
        return self.folder

    # -- the request -------------------------------------------------------------------------------------------------

    def _copy_standard_input(self) -> None:
        """Replace '-' by a copy of standard input: it is read twice, and needed again after a crash."""
        for files in (self.files, self.valid_files):
            if "-" not in files:
                continue
            hashed = hashlib.sha256()
            unfinished = self.partial / "stdin.tmp"
            with open(unfinished, "wb") as file:
                while block := sys.stdin.buffer.read(1 << 20):
                    hashed.update(block)
                    file.write(block)
            self._stdin_hash = hashed.hexdigest()
            if self._stdin_copy.exists() and digest(self._stdin_copy) == self._stdin_hash:
                remove_file(unfinished)  # the same text again: finished shards stay valid
            else:
                put_in_place(unfinished, self._stdin_copy, overwrite=True)
            files[files.index("-")] = str(self._stdin_copy)

    def _request_key(self) -> str:
        """Return a hash of everything that determines the content of the store."""
        tokenizer: object
        if isinstance(self.tokenizer, TokenizerSpec):
            tokenizer = asdict(self.tokenizer)
        else:
            tokenizer = self.tokenizer.fingerprint
        inputs = [
            [self._input_key(file) for file in files] for files in (self.files, self.valid_files)
        ]
        request = {
            "input": self.identity or inputs,
            "options": asdict(self.options),
            "tokenizer": tokenizer,
            "version": stores.VERSION,
        }
        if self.options.format == "auto" and any(map(is_json, (*self.files, *self.valid_files))):
            request["json"] = "lines"  # earlier versions read them as text
        return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()

    def _input_key(self, file: str) -> list[str | int]:
        """Return what identifies an input file without reading it; standard input is identified by its hash."""
        if file == str(self._stdin_copy):
            return ["-", self._stdin_hash]
        status = os.stat(file)
        return [os.path.abspath(file), status.st_size, status.st_mtime_ns]

    def _require_same_request(self, key: str) -> None:
        if stores.Store(self.folder).manifest.get("asked") != key:
            raise DataError(
                f"{self.folder} is a token store made from other input or with other options; name "
                "another folder, or give --overwrite to replace it"
            )

    # -- pass 1 ------------------------------------------------------------------------------------------------------

    def _first_pass(self, key: str) -> tuple[dict[str, FirstPass], Tokenizer]:
        """Return the results of pass 1 by split, and the tokenizer; those of an interrupted build, if they fit."""
        kept = self._read_plan(key)
        if kept is not None:
            return kept
        remove_owned(self.partial, UNFINISHED_STORE, keep=(MARKER, self._stdin_copy.name))

        sample = None
        if isinstance(self.tokenizer, TokenizerSpec):
            sample = Sample(self.options.sample_size, self.options.seed)
        self.progress.stage("reading text", _bytes(self.files) + _bytes(self.valid_files))
        valid_share = 0.0 if self.valid_files else self.options.valid_share
        passes = {"train": self._count(self.files, valid_share, sample)}
        if self.valid_files:
            passes["valid"] = self._count(self.valid_files)

        if isinstance(self.tokenizer, TokenizerSpec):
            assert sample is not None
            tokenizer = _train(self.tokenizer, sample, self.progress)
        else:
            tokenizer = self.tokenizer
        tokenizer.save(self.partial / "tokenizer")
        plan = {"asked": key, "plans": {name: asdict(result) for name, result in passes.items()}}
        write_atomically(self.partial / "plan.json", json.dumps(plan).encode())
        return passes, tokenizer

    def _read_plan(self, key: str) -> tuple[dict[str, FirstPass], Tokenizer] | None:
        """Return what an interrupted build kept of pass 1; None where it kept nothing, or for another request."""
        try:
            path = self.partial / "plan.json"
            plan = fitted(
                read_json(path), {"asked": "str", "plans": "dict[str, dict[str, int]]"}, path
            )
            if plan["asked"] != key:
                return None
            passes = {name: FirstPass(**result) for name, result in plan["plans"].items()}
            return passes, load(self.partial / "tokenizer")
        except (TypeError, DataError):
            return None

    def _count(
        self, files: Sequence[str], valid_share: float = 0.0, sample: Sample | None = None
    ) -> FirstPass:
        """Count the documents of files. Raises DataError where there are none."""
        reader = self.options.reader(files, self.progress.advance, self._names)
        result = count_documents(reader, self.options.seed, valid_share, sample)
        if not result.documents:
            names = ", ".join(self._names.get(file, file) for file in files[:3])
            more = " ..." if len(files) > 3 else ""
            purpose = ", named for validation" if files is self.valid_files else ""
            raise DataError(f"there is no text in {names}{more}{purpose}")
        return result

    # -- pass 2 ------------------------------------------------------------------------------------------------------

    def _second_pass(self, key: str, passes: dict[str, FirstPass], tokenizer: Tokenizer) -> None:
        """Tokenize all documents, and put the store in place."""
        self.progress.stage("tokenizing", sum(result.characters for result in passes.values()))
        dtype = "uint16" if tokenizer.size <= 1 << 16 else "uint32"
        records = []
        for record, size in tokenize_shards(
            self._shards(passes), self.partial, dtype, tokenizer, self.processes
        ):
            records.append(record)
            self.progress.advance(size)
        about = {"options": asdict(self.options), "asked": key}
        commit(records, self.partial, self.folder, tokenizer, dtype, about)

    def _shards(self, passes: dict[str, FirstPass]) -> Iterator[ShardText]:
        """Yield the documents cut into shards, in order."""
        size, seed = self.options.shard_size, self.options.seed
        training = passes["train"]
        documents = self.options.reader(self.files, names=self._names)
        yield from cut_into_shards(
            documents, "train", size, lambda number: training.is_valid(seed, number)
        )
        if self.valid_files:
            documents = self.options.reader(self.valid_files, names=self._names)
            yield from cut_into_shards(documents, "valid", size, lambda number: True)


__all__ = ["Options", "TokenizerSpec", "build_store", "train_tokenizer"]
