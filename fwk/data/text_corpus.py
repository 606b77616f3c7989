"""Token stores behind the options of a text task: existing ones are opened, and missing ones are built in the cache."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fwk.data.named_text import NamedText, TextOptions, parse_sources, text_files, valid_paths
from fwk.data.preprocess import Options, TokenizerSpec, build_store, train_tokenizer
from fwk.data.progress import Progress
from fwk.data.store import Split, Store, is_store
from fwk.data.text import is_json
from fwk.data.tokenizers import Tokenizer, load
from fwk.data.whole import whole_split
from fwk.errors import DataError
from fwk.files import cache_folder, digest, user_path
from fwk.files.shared_cache import create_in_cache, require_own

logger = logging.getLogger(__name__)

SMALL = 50_000_000  # bytes of text (as stored) below which the vocabulary is small by default
SMALL_VOCABULARY, LARGE_VOCABULARY = 4096, 32000
# the least share of the demo corpus that is held out: a hundredth of it has too few tokens to validate on
DEMO_VALID_SHARE = 0.03


@dataclass(frozen=True)
class TextCorpus:
    """Opened token stores with one vocabulary. Raises DataError where the validation store has another one."""

    tokenizer: Tokenizer
    stores: dict[str, Store]  # by name of the training source
    valid: Store | None  # separate validation text; None: documents held out in `stores`
    valid_is_trained_on: bool = False  # `valid` is one of the training stores

    def __post_init__(self) -> None:
        if self.valid is None:
            return
        if self.valid.manifest["vocabulary"]["fingerprint"] != self.tokenizer.fingerprint:
            raise DataError(
                f"the token store {self.valid.folder} named by task.valid was made with another vocabulary than "
                "task.data; preprocess it with the same tokenizer"
            )

    def valid_splits(self) -> dict[str, Split]:
        """Return the validation text by name of the source: all of `valid`, or what no source trains on."""
        if self.valid is not None:
            if self.valid_is_trained_on and "valid" in self.valid.splits:
                return {"valid": self.valid.split("valid")}
            return {"valid": whole_split(self.valid)}
        return {
            name: store.split("valid")
            for name, store in self.stores.items()
            if "valid" in store.splits
        }

    def unigrams(self) -> np.ndarray:
        """Return the number of occurrences of each token in the training text, [V]."""
        return np.sum([store.unigrams() for store in self.stores.values()], axis=0)

    def fingerprints(self) -> list[str | list[str]]:
        """Return what identifies the text: [source, fingerprint] pairs, then that of the validation store."""
        parts: list[str | list[str]] = [
            [name, store.fingerprint] for name, store in self.stores.items()
        ]
        return parts + ([self.valid.fingerprint] if self.valid else [])


def open_corpus(options: TextOptions, named: NamedText, progress: Progress) -> TextCorpus:
    """Return the stores of all text that the options name; stores that are missing are built."""
    existing = {
        name: Store(paths[0]) for name, paths in named.sources.items() if not named.texts[name]
    }
    valid = Store(named.valid[0]) if named.valid and not named.valid_texts else None
    opened = [*existing.values(), *([valid] if valid else [])]
    tokenizer = _tokenizer_for(options, named, opened)
    if isinstance(tokenizer, Tokenizer):
        for store in opened:
            _require_vocabulary(store, tokenizer, options)

    builder = _StoreBuilder(options, progress)
    if not named.sources:
        stores = {"demo": builder.demo(tokenizer, hold_out=not named.valid)}
    else:
        if isinstance(tokenizer, TokenizerSpec) and len(named.texts) > 1:
            tokenizer = builder.joint_tokenizer(_all_texts(named), tokenizer)
        share = 0.0 if named.valid else options.valid_share
        stores = {
            name: existing[name]
            if name in existing
            else builder.store(named.texts[name], tokenizer, share)
            for name in named.sources
        }
    trained = next(iter(stores.values())).tokenizer()
    if named.valid_texts:
        valid = builder.store(named.valid_texts, trained, valid_share=0.0)
    return TextCorpus(trained, stores, valid, _is_trained_on(named.valid, named.sources))


def _require_vocabulary(store: Store, tokenizer: Tokenizer, options: TextOptions) -> None:
    """Raise DataError where a token store was made with another tokenizer than the one that the options name."""
    fingerprint = store.manifest["vocabulary"]["fingerprint"]
    if fingerprint != tokenizer.fingerprint:
        raise DataError(
            f"the token store {store.folder} was made with another vocabulary ({fingerprint[:12]}) than that of "
            f"task.tokenizer={options.tokenizer} ({tokenizer.fingerprint[:12]}), which is given, or comes with the "
            "weights that the run starts from; preprocess the text again with it (fwk-preprocess --tokenizer)"
        )


def open_valid(options: TextOptions, tokenizer: Tokenizer) -> TextCorpus:
    """Return the validation text that `task.valid` names, without any training text."""
    paths = valid_paths(options)
    files = text_files(paths, "task.valid")
    with show_progress() as progress:
        builder = _StoreBuilder(options, progress)
        store = builder.store(files, tokenizer, valid_share=0.0) if files else Store(paths[0])
    return TextCorpus(tokenizer, {}, store, _is_trained_on(paths, parse_sources(options.data)[0]))


def _is_trained_on(valid: Sequence[str], sources: Mapping[str, Sequence[str]]) -> bool:
    """Return whether the validation text is the token store of a training source."""
    if len(valid) != 1 or not is_store(valid[0]):
        return False
    place = user_path(valid[0]).resolve()
    trained_on = any(
        user_path(path).resolve() == place for paths in sources.values() for path in paths
    )
    if trained_on:
        logger.info(
            "task.valid names %s, which is also trained on: the documents that it holds out are evaluated",
            valid[0],
        )
    return trained_on


def show_progress() -> Progress:
    """Return the progress of building stores, shown by rank 0 alone."""
    return Progress(quiet=os.environ.get("RANK", "0") != "0")


def _all_texts(named: NamedText) -> list[str]:
    return [file for files in named.texts.values() for file in files]


def _tokenizer_for(
    options: TextOptions, named: NamedText, opened: Sequence[Store]
) -> Tokenizer | TokenizerSpec:
    """Return the named tokenizer, that of an opened store, or the spec of one to train."""
    if named.tokenizer is not None:
        return load(named.tokenizer, None)
    if opened:
        return opened[0].tokenizer()
    size = options.vocabulary
    if size is None:
        characters = sum(os.path.getsize(file) for file in _all_texts(named))
        size = SMALL_VOCABULARY if not named.sources or characters < SMALL else LARGE_VOCABULARY
    return TokenizerSpec(kind=options.tokenizer, size=size, lower=options.lower)


@dataclass(frozen=True)
class _StoreBuilder:
    """Builds token stores and tokenizers in the cache, where they are kept by the content of their text."""

    options: TextOptions
    progress: Progress

    def store(
        self,
        files: list[str],
        tokenizer: Tokenizer | TokenizerSpec,
        valid_share: float,
        documents: str | None = None,
    ) -> Store:
        """Return the token store of text files. documents: separator of documents; None: as in the options."""
        options = Options(
            documents=documents or self.options.documents,
            field=self.options.field,
            format=self.options.format,
            valid_share=valid_share,
        )
        identity = _identity(files, tokenizer, options)
        folder = cache_folder() / "stores" / identity[:24]
        require_own(folder)
        if not is_store(folder):
            create_in_cache(folder.parent)
            build_store(
                files,
                folder,
                tokenizer,
                options=options,
                processes=self.options.processes,
                progress=self.progress,
                identity=identity,
            )
        return Store(folder)

    def demo(self, tokenizer: Tokenizer | TokenizerSpec, hold_out: bool) -> Store:
        """Return the token store of the demo corpus."""
        from fwk.data.demo import corpus

        share = max(self.options.valid_share, DEMO_VALID_SHARE) if hold_out else 0.0
        path = corpus(self.progress)
        return self.store([str(path)], tokenizer, share, documents="empty-line")

    def joint_tokenizer(self, files: list[str], spec: TokenizerSpec) -> Tokenizer:
        """Return one tokenizer for several sources, trained on all of their text."""
        options = Options(
            documents=self.options.documents,
            field=self.options.field,
            format=self.options.format,
        )
        folder = cache_folder() / "tokenizers" / _identity(files, spec, options)[:24]
        require_own(folder)
        create_in_cache(folder.parent)
        return train_tokenizer(files, folder, spec, options=options, progress=self.progress)


def _identity(files: list[str], tokenizer: Tokenizer | TokenizerSpec, options: Options) -> str:
    """Return a hash of everything that determines the content of a store; names of files do not."""
    spec = asdict(tokenizer) if isinstance(tokenizer, TokenizerSpec) else tokenizer.fingerprint
    # the suffix determines how a file is read
    contents = [[digest(Path(file)), "".join(Path(file).suffixes[-2:]).lower()] for file in files]
    parts = [contents, spec, asdict(options), 1]
    if options.format == "auto" and any(map(is_json, files)):
        parts.append("JSON lines")  # earlier versions read them as text
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
