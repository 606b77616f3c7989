"""What the options of a text task name: sources of text, validation text, and a tokenizer.

Everything is looked up before any work begins, so that a wrong path is reported at once, at its key.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fwk.contracts.option_paths import HUB
from fwk.contracts.plain import PlainDict, PlainMapping
from fwk.data.hub import TOKENIZER_FILES, model_folder
from fwk.data.store import is_store
from fwk.data.text import find_files, path_not_found
from fwk.data.tokenizers import KINDS, check_kind
from fwk.errors import ConfigError, DataError, did_you_mean
from fwk.files import user_path

# `task.data` as the config has it: a path, a list of paths, or a mapping of names to paths or {path, weight}
DataOption = str | tuple[str, ...] | PlainDict | None


class TextOptions(Protocol):
    """The options that name text and tokenizer, and determine how text becomes a token store."""

    @property
    def data(self) -> DataOption:
        """The training text; None: the demo corpus."""

    @property
    def valid(self) -> str | tuple[str, ...] | None:
        """The validation text; None: documents held out of the training text."""

    @property
    def valid_share(self) -> float:
        """The share of the documents that is held out."""

    @property
    def tokenizer(self) -> str:
        """A kind of tokenizer to train, or the path of an existing one."""

    @property
    def vocabulary(self) -> int | None:
        """The tokens in a vocabulary that is trained; None: by the size of the text."""

    @property
    def lower(self) -> bool:
        """Whether text is lower-cased."""

    @property
    def documents(self) -> str:
        """What separates documents in text files."""

    @property
    def format(self) -> str:
        """How text files are read: one of `fwk.data.text.FORMATS`."""

    @property
    def field(self) -> str:
        """The field of JSONL records that holds the text."""

    @property
    def processes(self) -> int:
        """The number of processes that tokenize text."""


@dataclass(frozen=True)
class NamedText:
    """The paths that the options name; all of them exist."""

    sources: dict[str, list[str]]  # paths by name of the training source; empty: the demo corpus
    weights: dict[str, float]  # by name of the source; empty: in proportion to the sizes
    texts: dict[str, list[str]]  # text files by name of the source; an empty list: a token store
    valid: list[str]  # paths
    valid_texts: list[str]  # text files; empty: a token store, or no validation text
    tokenizer: Path | None  # None: it is trained, or comes with a token store


def find_named_text(options: TextOptions) -> NamedText:
    """Return the paths that the options name. Raises ConfigError or DataError for one that cannot be used."""
    sources, weights = parse_sources(options.data)
    valid = valid_paths(options)
    tokenizer = tokenizer_path(options.tokenizer)
    texts = {name: text_files(paths, "task.data") for name, paths in sources.items()}
    return NamedText(sources, weights, texts, valid, text_files(valid, "task.valid"), tokenizer)


def idle_options(options: TextOptions) -> dict[str, str]:
    """Return the options that cannot act beside the others, with the reason."""
    sources = parse_sources(options.data)[0]
    valid = valid_paths(options)
    stores = [paths[0] for paths in (*sources.values(), valid) if paths and is_store(paths[0])]
    trained_on = [paths for paths in sources.values() if not is_store(paths[0])]
    idle: dict[str, str] = {}
    if options.tokenizer not in KINDS:
        reason = f"the tokenizer {options.tokenizer} exists already"
        idle |= dict.fromkeys(("vocabulary", "lower"), reason)
    elif stores:
        reason = f"the token store {stores[0]} brings its own tokenizer"
        idle |= dict.fromkeys(("tokenizer", "vocabulary", "lower"), reason)
    if sources and not trained_on:
        idle["valid_share"] = "a token store was divided when it was made"
    if valid:
        idle["valid_share"] = "task.valid names the text to validate on"
    if not trained_on and (not valid or valid[0] in stores):
        reason = "there is no text file to read" if sources else "the demo corpus has one form"
        idle |= dict.fromkeys(("documents", "field", "format"), reason)
    return idle


def parse_sources(data: DataOption) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Return the paths of each source in `task.data`, and the weights of the sources that have one."""
    if data is None:
        return {}, {}
    if isinstance(data, str):
        return {"text": [data]}, {}
    if not isinstance(data, Mapping):
        return _sources_of_list(data), {}
    if not data:
        raise ConfigError("task.data", "the mapping is empty, expected at least one source")
    sources: dict[str, list[str]] = {}
    weights: dict[str, float] = {}
    for name, value in data.items():
        key, paths = f"task.data.{name}", value
        if isinstance(value, Mapping):
            paths, weight = _path_and_weight(key, value)
            if weight is not None:
                weights[name] = weight
        sources[name] = _list_of_paths(key, paths)
    return sources, weights


def _sources_of_list(paths: Sequence[str]) -> dict[str, list[str]]:
    """Return the sources in a list of paths: each token store by the name of its folder, all others as 'text'."""
    if not paths:
        raise ConfigError("task.data", "the list is empty, expected at least one path")
    stores = [path for path in paths if is_store(path)]
    if not stores:
        return {"text": list(paths)}
    sources = {user_path(path).resolve().name: [path] for path in stores}
    if len(sources) < len(stores):
        raise ConfigError(
            "task.data", "two token stores have the same name; give a mapping of names to paths"
        )
    others = [path for path in paths if path not in stores]
    if others:
        sources["text"] = others
    return sources


def _path_and_weight(key: str, entry: PlainMapping) -> tuple[Any, float | None]:
    """Return the values of {path, weight}; the path is not checked."""
    unknown = [name for name in entry if name not in ("path", "weight")]
    if unknown:
        advice = did_you_mean(unknown[0], ["path", "weight"])
        raise ConfigError(f"{key}.{unknown[0]}", f"unknown key{advice}")
    if "path" not in entry:
        raise ConfigError(f"{key}.path", "is missing, expected a token store or text files")
    weight = entry.get("weight")
    if weight is None:
        return entry["path"], None
    is_number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not is_number or not 0 <= weight < math.inf:
        raise ConfigError(f"{key}.weight", f"expected a number of at least 0, got {weight!r}")
    return entry["path"], float(weight)


def _list_of_paths(key: str, value: Any) -> list[str]:
    """Return a path or a list of paths as a list. Raises ConfigError for any other value."""
    paths = [value] if isinstance(value, str) else value
    is_list = isinstance(paths, (list, tuple)) and len(paths) > 0
    if not is_list or not all(isinstance(path, str) for path in paths):
        raise ConfigError(
            key, f"expected a path, a list of paths or {{path, weight}}, got {value!r}"
        )
    return list(paths)


def valid_paths(options: TextOptions) -> list[str]:
    """Return the paths in `task.valid`."""
    return [options.valid] if isinstance(options.valid, str) else list(options.valid or ())


def text_files(paths: Sequence[str], key: str) -> list[str]:
    """Return the text files behind paths; empty for a token store.

    Raises DataError for paths that do not exist, ConfigError for token stores among other paths and standard input.
    """
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


def tokenizer_path(tokenizer: str) -> Path | None:
    """Return the path in the option `tokenizer`; None where it is a kind to train."""
    if tokenizer.startswith(HUB):
        return model_folder(tokenizer, "task.tokenizer", TOKENIZER_FILES)
    if tokenizer not in KINDS:
        path = user_path(tokenizer)
        if path.exists():
            return path
        if os.sep in tokenizer or path.suffix:
            raise DataError(f"task.tokenizer: {path_not_found(str(path))}")
    check_kind(tokenizer)
    return None
