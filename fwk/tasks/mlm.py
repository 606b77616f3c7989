"""Masked language modelling data: blocks of plain text. What is masked, and what is learned from it, is the business of
noisers and criteria; this task only hands out text.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch

from fwk.components.registry import register
from fwk.contracts.context import Vocabulary
from fwk.contracts.options import option
from fwk.contracts.task import SizeOnly, Source, Task
from fwk.contracts.views import Batch
from fwk.data.blocks import Blocks, Example, Layout, stack
from fwk.data.preprocess import Options, TokenizerSpec, build_store, train_tokenizer
from fwk.data.progress import Progress
from fwk.data.store import Store, is_store
from fwk.data.text import find_files, path_not_found
from fwk.data.tokenizers import KINDS, Tokenizer, check_kind, load
from fwk.errors import ConfigError, DataError, did_you_mean
from fwk.files import cache_folder, digest, write_atomically

COUNTS, SOURCES, TRAINED_ON = (
    "counts.npy",
    "sources.json",
    "trained_on.json",
)  # beside a run's tokenizer
_SMALL = 50_000_000  # bytes of text (as stored) below which the vocabulary is small by default


@register("task", "mlm")
class MaskedLanguageModelling(Task["MaskedLanguageModelling.Config"]):
    """Plain text in blocks of `length` tokens, for every objective that reads text without labels."""

    # what a run says that it was trained on, where its data was not read
    _trained_on: dict[str, Any] | None = None

    @dataclass(frozen=True, kw_only=True)
    class Config:
        data: str | tuple[str, ...] | dict[str, Any] | None = option(
            None,
            "token store, text files, globs or folders; a mapping name -> path or {path, weight} mixes sources; "
            "null: the built-in demo corpus",
        )
        valid: str | tuple[str, ...] | None = option(
            None, "text or token store to validate on; null: documents held out of the data"
        )
        valid_share: float = option(
            0.01,
            "share of the documents held out when text is preprocessed here (demo "
            "corpus: at least 0.03)",
            low=0,
            high=0.5,
        )
        length: int = option(128, "tokens per example, [CLS] and [SEP] included", low=8, high=65536)
        blocks: Literal["contiguous", "within", "document", "pairs"] = option(
            "contiguous",
            "how documents become examples: cut end to end (contiguous), each by itself (within), one "
            "truncated (document), two segments (pairs)",
        )
        placement: Literal["cls_sep", "cls", "sep", "none"] = option(
            "cls_sep", "which special tokens frame an example"
        )
        padding: Literal["auto", "fixed", "dynamic"] = option(
            "auto",
            "pad to `length` (fixed) or to the longest example of the micro-batch (dynamic); auto: fixed for "
            "contiguous blocks",
        )
        tokenizer: str = option(
            "unigram",
            f"kind to train on the text ({', '.join(KINDS)}) or the path of an existing tokenizer; a token "
            "store brings its own",
        )
        vocabulary: int | None = option(
            None,
            "tokens in a vocabulary trained here; null: 4096, above 50 MB of text 32000",
            low=16,
            high=10_000_000,
        )
        lower: bool = option(True, "lower-case the text (uncased vocabulary)")
        documents: Literal["empty-line", "line", "file"] = option(
            "empty-line", "what separates documents in text files"
        )
        field: str = option("text", "the field of JSONL records that holds the text")
        processes: int = option(1, "processes that tokenize text given here", low=1, high=1024)

    def __init__(self, config: Config, seed: int = 1) -> None:
        super().__init__(config, seed)
        entries, self._weights = _entries(config.data)
        valid = _valid_paths(config)
        kind_or_path = _tokenizer_path(config)
        texts = {name: _text_files(paths, "task.data") for name, paths in entries.items()}
        valid_files = _text_files(valid, "task.valid")
        # everything named is there: now the work may begin
        progress = Progress(quiet=os.environ.get("RANK", "0") != "0")
        with progress:
            self._open(entries, texts, valid, valid_files, kind_or_path, progress)
        self._prepare(sum(store.unigrams() for store in self._stores.values()))
        self._sources = {
            "train": {
                name: Blocks(store.split("train"), self._layout, name)
                for name, store in self._stores.items()
            }
        }
        held_out = {
            name: Blocks(split, self._layout, name) for name, split in self._valid_splits().items()
        }
        if held_out:
            self._sources["valid"] = held_out
        self._names = super().source_names()

    @classmethod
    def without_data(cls, config: Config, seed: int, folder: Path) -> MaskedLanguageModelling:
        """The task as a trained model needs it elsewhere: the tokenizer in FOLDER/tokenizer, and no text."""
        task = cls.__new__(cls)
        Task.__init__(task, config, seed)
        assets = folder / "tokenizer"
        task.tokenizer, task._stores, task._sources, task._valid_store = load(assets), {}, {}, None
        task._trained_on = _asset(assets / TRAINED_ON, _read_trained_on)
        task._names = tuple(
            _asset(assets / SOURCES, lambda file: [str(name) for name in json.load(file)]) or ()
        )
        counts = _asset(assets / COUNTS, lambda file: np.load(file, allow_pickle=False))
        if counts is not None and (
            counts.shape != (task.tokenizer.size,) or counts.dtype.kind not in "iuf"
        ):
            raise DataError(
                f"{assets / COUNTS} holds {counts.dtype} {list(counts.shape)}, expected one number for each of "
                f"the {task.tokenizer.size} tokens"
            )
        task._prepare(counts)
        return task

    @classmethod
    def for_evaluation(
        cls, config: Config, seed: int, folder: Path, split: str, trained: Any
    ) -> Task:
        """Of text of its own to validate on, that alone is read, with the run's tokenizer."""
        if (
            split != "valid"
            or config.valid is None
            or replace(config, valid=None) != replace(trained, valid=None)
        ):
            return cls(config, seed)
        task = cls.without_data(config, seed, folder)
        if task._trained_on is None:  # the run is of an older version
            return cls(config, seed)
        valid = _valid_paths(config)
        files = _text_files(valid, "task.valid")
        with Progress(quiet=os.environ.get("RANK", "0") != "0") as progress:
            task._valid_store = (
                task._build(files, task.tokenizer, 0.0, progress) if files else Store(valid[0])
            )
        task._same_vocabulary()
        task._weights = _entries(config.data)[1]
        train = {name: SizeOnly(name, size) for name, size in task._trained_on["sizes"].items()}
        (held_out,) = task._valid_splits().values()
        name = (
            "valid" if "valid" in task._names else task._names[0]
        )  # a model knows the names of its run's sources alone
        task._sources = {"train": train, "valid": {name: Blocks(held_out, task._layout, name)}}
        return task

    def _prepare(self, unigrams: np.ndarray | None) -> None:
        """What follows from config and tokenizer. unigrams: token counts [V], where the text is at hand."""
        config, special = self.config, self.tokenizer.special
        self._layout = Layout(
            kind=config.blocks,
            length=config.length,
            cls=self.tokenizer.cls,
            sep=self.tokenizer.sep,
            placement=config.placement,
        )
        if self.tokenizer.pad < 0:
            raise DataError("the tokenizer has no padding token; expected one of [PAD], <pad>")
        self._vocabulary = Vocabulary(
            size=self.tokenizer.size,
            pad=self.tokenizer.pad,
            cls=self.tokenizer.cls,
            sep=self.tokenizer.sep,
            mask=self.tokenizer.mask,
            unk=self.tokenizer.unk,
            special=special,
            counts=None
            if unigrams is None
            else torch.from_numpy(np.asarray(unigrams, dtype=np.float64)),
        )
        self._framing = np.array(
            [i for i in special if i != self.tokenizer.unk]
        )  # [UNK] stands for text
        dynamic = config.padding == "dynamic" or (
            config.padding == "auto" and config.blocks != "contiguous"
        )
        self._fixed = None if dynamic else config.length

    # -- opening ----------------------------------------------------------------------------------------------------

    def _open(
        self,
        entries: dict[str, list[str]],
        texts: dict[str, list[str]],
        valid: list[str],
        valid_files: list[str],
        path: Path | None,
        progress: Progress,
    ) -> None:
        """Open stores, and build those that are missing."""
        config = self.config
        stores = {
            name: Store(paths[0])
            for name, paths in entries.items()
            if name not in texts or not texts[name]
        }
        self._valid_store: Store | None = None
        if valid and not valid_files:
            self._valid_store = Store(valid[0])
        given: Tokenizer | TokenizerSpec
        opened = [*stores.values(), *([self._valid_store] if self._valid_store else [])]
        if path is not None:
            given = load(path, None)
        elif opened:
            given = opened[0].tokenizer()
        else:
            files = [file for found in texts.values() for file in found]
            bytes_of_text = sum(os.path.getsize(file) for file in files)
            size = config.vocabulary or (4096 if not entries or bytes_of_text < _SMALL else 32000)
            given = TokenizerSpec(kind=config.tokenizer, size=size, lower=config.lower)
        if isinstance(given, Tokenizer):
            for store in opened:
                Store(store.folder, given.fingerprint)  # refuses another vocabulary
        if not entries:
            self._stores = {"demo": self._demo(given, bool(valid), progress)}
        else:
            if isinstance(given, TokenizerSpec) and len(texts) > 1:
                given = self._joint_tokenizer(
                    [f for found in texts.values() for f in found], given, progress
                )
            share = 0.0 if valid else config.valid_share
            self._stores = {
                name: stores[name]
                if name in stores
                else self._build(texts[name], given, share, progress)
                for name in entries
            }
        self.tokenizer = next(iter(self._stores.values())).tokenizer()
        if valid_files:
            self._valid_store = self._build(valid_files, self.tokenizer, 0.0, progress)
        self._same_vocabulary()

    def _same_vocabulary(self) -> None:
        if (
            self._valid_store
            and self._valid_store.manifest["vocabulary"]["fingerprint"]
            != self.tokenizer.fingerprint
        ):
            raise DataError(
                f"the token store {self._valid_store.folder} named by task.valid was made with another "
                "vocabulary than task.data; preprocess it with the same tokenizer"
            )

    def _demo(self, tokenizer: Tokenizer | TokenizerSpec, valid: bool, progress: Progress) -> Store:
        from fwk.data.demo import corpus

        path = corpus(progress)
        # the corpus is small: a hundredth of it would validate on too few tokens
        share = 0.0 if valid else max(self.config.valid_share, 0.03)
        return self._build([str(path)], tokenizer, share, progress, plain=True)

    def _build(
        self,
        files: list[str],
        tokenizer: Tokenizer | TokenizerSpec,
        share: float,
        progress: Progress,
        plain: bool = False,
    ) -> Store:
        """The token store of text files, kept in the cache by content."""
        options = Options(
            documents="empty-line" if plain else self.config.documents,
            field=self.config.field,
            valid_share=share,
        )
        identity = _identity(files, tokenizer, options)
        folder = cache_folder() / "stores" / identity[:24]
        if not is_store(folder):
            _make(folder.parent)
            build_store(
                files,
                folder,
                tokenizer,
                options=options,
                processes=self.config.processes,
                progress=progress,
                identity=identity,
            )
        return Store(folder)

    def _joint_tokenizer(
        self, files: list[str], spec: TokenizerSpec, progress: Progress
    ) -> Tokenizer:
        """One vocabulary for several sources, trained on all of their text."""
        options = Options(documents=self.config.documents, field=self.config.field)
        folder = cache_folder() / "tokenizers" / _identity(files, spec, options)[:24]
        _make(folder.parent)
        return train_tokenizer(files, folder, spec, options=options, progress=progress)

    def _valid_splits(self) -> dict[str, Any]:
        if self._valid_store is not None:
            splits = self._valid_store.splits
            return {"valid": self._valid_store.split("valid" if "valid" in splits else "train")}
        return {
            name: store.split("valid")
            for name, store in self._stores.items()
            if "valid" in store.splits
        }

    # -- the contract -----------------------------------------------------------------------------------------------

    def splits(self) -> tuple[str, ...]:
        return tuple(self._sources)

    def sources(self, split: str) -> Mapping[str, Source]:
        if split not in self._sources:
            raise DataError(f"there is no split '{split}'{did_you_mean(split, self._sources)}")
        return self._sources[split]

    def source_names(self) -> tuple[str, ...]:
        return self._names

    def mixture(self) -> Mapping[str, float]:
        sizes = super().mixture()
        if not self._weights:
            return sizes
        return {name: self._weights.get(name, 1.0) for name in sizes}

    def collate(self, examples: Sequence[Example], draws: np.ndarray, sources: np.ndarray) -> Batch:
        arrays = stack(examples, self.tokenizer.pad, self._framing, self._fixed)
        inputs = {"tokens": torch.from_numpy(arrays["tokens"])}
        if self.config.blocks == "pairs":
            inputs["segments"] = torch.from_numpy(arrays["segments"])
        return Batch(
            inputs=inputs,
            draws=torch.from_numpy(np.array(draws, dtype=np.int64)),
            mask=torch.from_numpy(arrays["mask"]),
            special=torch.from_numpy(arrays["special"]),
            source=torch.from_numpy(np.array(sources, dtype=np.int64)),
        )

    def framed(self, ids: np.ndarray) -> np.ndarray:
        return self._layout.frame([ids]).ids

    def batch_of(self, ids: np.ndarray) -> Batch:
        tokens = torch.from_numpy(ids)
        inputs = {"tokens": tokens} | (
            {"segments": torch.zeros_like(tokens)} if self.config.blocks == "pairs" else {}
        )
        return Batch(
            inputs=inputs,
            draws=torch.arange(len(ids)),
            mask=torch.ones_like(tokens, dtype=torch.bool),
            special=torch.from_numpy(np.isin(ids, self._framing)),
            source=torch.zeros(len(ids), dtype=torch.int64),
        )

    def fixed_shape(self) -> bool:
        return self._fixed is not None

    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    def length(self) -> int:
        return self.config.length

    def fingerprint(self) -> str:
        if self._trained_on is not None:
            return self._trained_on["fingerprint"]
        parts: list[Any] = [self.tokenizer.fingerprint, asdict(self._layout)]
        parts += [[name, store.fingerprint] for name, store in self._stores.items()]
        parts += [self._valid_store.fingerprint] if self._valid_store else []
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def save_assets(self, folder: Path) -> None:
        self.tokenizer.save(folder)
        write_atomically(Path(folder) / SOURCES, (json.dumps(self._names) + "\n").encode())
        if "train" in self._sources or self._trained_on is not None:
            told = self._trained_on or {
                "fingerprint": self.fingerprint(),
                "sizes": {name: len(source) for name, source in self._sources["train"].items()},
            }
            write_atomically(Path(folder) / TRAINED_ON, (json.dumps(told) + "\n").encode())
        if self._vocabulary.counts is not None:
            content = io.BytesIO()
            np.save(content, self._vocabulary.counts.numpy(), allow_pickle=False)
            write_atomically(Path(folder) / COUNTS, content.getvalue())

    # -- for reports ------------------------------------------------------------------------------------------------

    def describe(self) -> dict[str, dict[str, Any]]:
        """Per split: tokens, documents, examples and the share of padding."""
        about = {}
        for split, sources in self._sources.items():
            examples = sum(len(blocks) for blocks in sources.values())
            padding = (
                sum(len(blocks) * blocks.padding_share() for blocks in sources.values()) / examples
            )
            about[split] = {
                "tokens": sum(blocks.split.tokens for blocks in sources.values()),
                "documents": sum(blocks.split.documents for blocks in sources.values()),
                "examples": examples,
                "padding_share": padding,
            }
        return about

    def token_splits(self, split: str) -> list[Any]:
        """The token store's splits behind a split of this task, for statistics over all tokens."""
        return [blocks.split for blocks in self._sources[split].values()]


def _entries(data: Any) -> tuple[dict[str, list[str]], dict[str, float]]:
    """task.data -> paths by source name, and weights by source name (empty: in proportion to the sizes)."""
    if data is None:
        return {}, {}
    if isinstance(data, str):
        return {"text": [data]}, {}
    if not isinstance(data, Mapping):
        if not data:
            raise ConfigError("task.data", "the list is empty, expected at least one path")
        stores = [path for path in data if is_store(path)]
        if not stores:
            return {"text": list(data)}, {}
        entries = {f"{Path(path).resolve().name}": [path] for path in stores}
        if len(entries) < len(stores):
            raise ConfigError(
                "task.data", "two token stores have the same name; give a mapping of names to paths"
            )
        rest = [path for path in data if path not in stores]
        return {**entries, **({"text": rest} if rest else {})}, {}
    if not data:
        raise ConfigError("task.data", "the mapping is empty, expected at least one source")
    entries, weights = {}, {}
    for name, value in data.items():
        key = f"task.data.{name}"
        if isinstance(value, Mapping):
            unknown = [k for k in value if k not in ("path", "weight")]
            if unknown:
                raise ConfigError(
                    f"{key}.{unknown[0]}",
                    f"unknown key{did_you_mean(unknown[0], ['path', 'weight'])}",
                )
            if "path" not in value:
                raise ConfigError(f"{key}.path", "is missing, expected a token store or text files")
            weight = value.get("weight")
            if weight is not None:
                if (
                    isinstance(weight, bool)
                    or not isinstance(weight, (int, float))
                    or not 0 <= weight < float("inf")
                ):
                    raise ConfigError(
                        f"{key}.weight", f"expected a number of at least 0, got {weight!r}"
                    )
                weights[name] = float(weight)
            value = value["path"]
        paths = (
            [value]
            if isinstance(value, str)
            else list(value)
            if isinstance(value, (list, tuple))
            else []
        )
        if not paths or not all(isinstance(path, str) for path in paths):
            raise ConfigError(
                key, f"expected a path, a list of paths or {{path, weight}}, got {value!r}"
            )
        entries[name] = paths
    return entries, weights


def _asset(path: Path, read: Callable[[IO[bytes]], Any]) -> Any:
    """What a file beside the tokenizer holds; None when there is none (runs of before it was written)."""
    try:
        with open(path, "rb") as file:
            return read(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def _read_trained_on(file: IO[bytes]) -> dict[str, Any]:
    """The fingerprint and the sizes of the training data."""
    told = json.load(file)
    if (
        not isinstance(told, dict)
        or not isinstance(told.get("fingerprint"), str)
        or not isinstance(told.get("sizes"), dict)
    ):
        raise ValueError("it does not hold a fingerprint and sizes")
    return {
        "fingerprint": told["fingerprint"],
        "sizes": {str(name): int(size) for name, size in told["sizes"].items()},
    }


def _valid_paths(config: Any) -> list[str]:
    return [config.valid] if isinstance(config.valid, str) else list(config.valid or ())


def _text_files(paths: Sequence[str], key: str) -> list[str]:
    """The text files behind paths; empty for a token store. DataError for what is not there."""
    stores = [path for path in paths if is_store(path)]
    if stores and len(paths) > 1:
        raise ConfigError(
            key,
            f"{stores[0]} is a token store; name stores one by one, as a mapping of names to paths",
        )
    if stores:
        return []
    if "-" in paths:
        raise ConfigError(
            key, "standard input cannot be trained on; run fwk-preprocess on it first"
        )
    try:
        return find_files(paths)
    except DataError as error:
        raise DataError(f"{key}: {error}") from None


def _tokenizer_path(config: Any) -> Path | None:
    """The path in `tokenizer`, or None when it is a kind to train."""
    if config.tokenizer in KINDS:
        check_kind(config.tokenizer)
        return None
    path = Path(config.tokenizer).expanduser()
    if path.exists():
        return path
    if os.sep in config.tokenizer or path.suffix:
        raise DataError(f"task.tokenizer: {path_not_found(str(path))}")
    check_kind(config.tokenizer)
    return None


def _identity(files: list[str], tokenizer: Tokenizer | TokenizerSpec, options: Options) -> str:
    """A hash of what a store would be made from, file names aside."""
    spec: Any = asdict(tokenizer) if isinstance(tokenizer, TokenizerSpec) else tokenizer.fingerprint
    # the suffix decides how a file is read
    contents = [[digest(Path(file)), "".join(Path(file).suffixes[-2:]).lower()] for file in files]
    return hashlib.sha256(
        json.dumps([contents, spec, asdict(options), 1], sort_keys=True).encode()
    ).hexdigest()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"the cache folder {folder} cannot be made ({error.strerror}); set FWK_CACHE to a folder that "
            "can be written"
        ) from None
