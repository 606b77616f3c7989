"""Masked language modelling data: blocks of plain text.

The task only provides text. Noisers decide what is masked, and criteria what is learned from it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from fwk.components.registry import register
from fwk.contracts.context import Vocabulary
from fwk.contracts.options import option
from fwk.contracts.task import SizeOnly, Source, Task
from fwk.contracts.views import Batch
from fwk.data.blocks import Blocks, Example, Layout, stack
from fwk.data.findings import findings
from fwk.data.named_text import find_named_text, idle_options, parse_sources
from fwk.data.run_assets import RunAssets, TrainedOn
from fwk.data.store import Split
from fwk.data.text_corpus import TextCorpus, open_corpus, open_valid, show_progress
from fwk.data.tokenizers import KINDS, Tokenizer, load
from fwk.data.tokenizers.vocabulary import framing_ids, vocabulary_of
from fwk.errors import DataError, did_you_mean

logger = logging.getLogger(__name__)


@register("task", "mlm")
class MaskedLanguageModelling(Task["MaskedLanguageModelling.Config"]):
    """Plain text in blocks of `length` tokens, for every objective that reads text without labels."""

    tokenizer: Tokenizer
    _corpus: TextCorpus
    _layout: Layout
    _weights: Mapping[str, float]  # by name of the source; empty: in proportion to the sizes
    _names: tuple[str, ...]  # of all sources
    _blocks: dict[str, dict[str, Blocks]]  # by split and source
    _sources: dict[str, dict[str, Source]]  # by split and name; includes `_blocks`
    _trained_on: TrainedOn | None  # of a run whose training text was not read

    @dataclass(frozen=True, kw_only=True)
    class Config:
        data: str | tuple[str, ...] | dict[str, Any] | None = option(
            None,
            "token store, text files, globs or folders; a mapping name -> path or {path, weight} mixes sources; "
            "null: the built-in demo corpus",
            paths=("path",),
        )
        valid: str | tuple[str, ...] | None = option(
            None,
            "text or token store to validate on, all of it; null: documents held out of the data",
            paths=(),
        )
        valid_share: float = option(
            0.01,
            "share of the documents held out when the task tokenizes text (demo corpus: at least 0.03)",
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
            paths=(),
            names=KINDS,
        )
        vocabulary: int | None = option(
            None,
            "tokens in a vocabulary that the task trains; null: 4096, above 50 MB of text 32000",
            low=16,
            high=10_000_000,
        )
        lower: bool = option(True, "lower-case the text (uncased vocabulary)")
        documents: Literal["empty-line", "line", "file"] = option(
            "empty-line", "what separates documents in text files"
        )
        format: Literal["auto", "text", "jsonl"] = option(
            "auto",
            "how text files are read: as text, JSON lines (jsonl), or by suffix (auto: .jsonl, and .json with an "
            "object per line)",
        )
        field: str = option("text", "the field of JSONL records that holds the text")
        processes: int = option(1, "processes that tokenize text", low=1, high=1024)

    def __init__(self, config: Config, seed: int = 1) -> None:
        super().__init__(config, seed)
        named = find_named_text(config)
        with show_progress() as progress:
            corpus = open_corpus(config, named, progress)
        self._set_up(corpus, corpus.unigrams())
        self._weights = named.weights
        self._blocks["train"] = {
            name: Blocks(store.split("train"), self._layout, name)
            for name, store in corpus.stores.items()
        }
        held_out = corpus.valid_splits()
        if held_out:
            self._blocks["valid"] = {
                name: Blocks(split, self._layout, name) for name, split in held_out.items()
            }
        self._sources = {split: dict(blocks) for split, blocks in self._blocks.items()}
        self._names = super().source_names()
        for sentence in findings(config, named, corpus, self._blocks["train"]):
            logger.warning("%s", sentence)

    @classmethod
    def idle_options(cls, config: Config) -> Mapping[str, str]:
        """Return the options about text and tokenizer that a token store or an existing tokenizer overrules."""
        return idle_options(config)

    @classmethod
    def without_data(cls, config: Config, seed: int, folder: Path) -> MaskedLanguageModelling:
        """Return the task with the tokenizer in FOLDER/tokenizer and without text."""
        task = cls.__new__(cls)
        Task.__init__(task, config, seed)
        tokenizer = load(folder / "tokenizer")
        assets = RunAssets.read(folder / "tokenizer", tokenizer.size)
        task._set_up(TextCorpus(tokenizer, {}, None), assets.counts)
        task._names, task._trained_on = assets.sources, assets.trained_on
        return task

    @classmethod
    def for_evaluation(
        cls, config: Config, seed: int, folder: Path, split: str, trained: Config
    ) -> MaskedLanguageModelling:
        """Return a task that reads only the validation text, where it is separate and the only option that differs."""
        same = replace(config, valid=None) == replace(trained, valid=None)
        if split != "valid" or config.valid is None or not same:
            return cls(config, seed)
        task = cls.without_data(config, seed, folder)
        if task._trained_on is None:  # the run is of an older version
            return cls(config, seed)
        task._corpus = open_valid(config, task.tokenizer)
        task._weights = parse_sources(config.data)[1]
        (text,) = task._corpus.valid_splits().values()
        # the model knows only the names of the sources of its run
        name = "valid" if "valid" in task._names or not task._names else task._names[0]
        task._blocks = {"valid": {name: Blocks(text, task._layout, name)}}
        task._sources = {
            "train": {name: SizeOnly(name, size) for name, size in task._trained_on.sizes.items()},
            "valid": dict(task._blocks["valid"]),
        }
        return task

    def _set_up(self, corpus: TextCorpus, unigrams: np.ndarray | None) -> None:
        """Set everything that follows from config and tokenizer.

        unigrams: occurrences of each token, [V], where they are known.
        """
        config, self.tokenizer = self.config, corpus.tokenizer
        self._corpus, self._trained_on = corpus, None
        self._weights, self._names, self._blocks, self._sources = {}, (), {}, {}
        self._layout = Layout(
            kind=config.blocks,
            length=config.length,
            cls=self.tokenizer.cls,
            sep=self.tokenizer.sep,
            placement=config.placement,
        )
        self._vocabulary = vocabulary_of(self.tokenizer, unigrams)
        self._framing = list(framing_ids(self.tokenizer))
        automatic = "fixed" if config.blocks == "contiguous" else "dynamic"
        padding = automatic if config.padding == "auto" else config.padding
        self._padded_length = config.length if padding == "fixed" else None

    def splits(self) -> tuple[str, ...]:
        """Return `train`, and `valid` where there is validation text."""
        return tuple(self._sources)

    def sources(self, split: str) -> Mapping[str, Source]:
        """Return the sources of a split by name. Raises DataError for a split that does not exist."""
        if split not in self._sources:
            raise DataError(f"there is no split '{split}'{did_you_mean(split, self._sources)}")
        return self._sources[split]

    def source_names(self) -> tuple[str, ...]:
        """Return the names of all sources, those of training first."""
        return self._names

    def mixture(self) -> Mapping[str, float]:
        """Return the configured weights, 1 where one is missing; without any, the sizes."""
        sizes = super().mixture()
        if not self._weights:
            return sizes
        return {name: self._weights.get(name, 1.0) for name in sizes}

    def collate(self, examples: Sequence[Example], draws: np.ndarray, sources: np.ndarray) -> Batch:
        """Return a batch of blocks, padded to `length` or to the longest."""
        arrays = stack(examples, self.tokenizer.pad, self._framing, self._padded_length)
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
        """Return the ids of one text with the special tokens of `placement`."""
        return self._layout.frame([ids]).ids

    def batch_of(self, ids: np.ndarray) -> Batch:
        """Return a batch of framed texts of equal length, int64 [B, T]."""
        tokens = torch.from_numpy(ids)
        inputs = {"tokens": tokens}
        if self.config.blocks == "pairs":
            inputs["segments"] = torch.zeros_like(tokens)
        return Batch(
            inputs=inputs,
            draws=torch.arange(len(ids)),
            mask=torch.ones_like(tokens, dtype=torch.bool),
            special=torch.from_numpy(np.isin(ids, self._framing)),
            source=torch.zeros(len(ids), dtype=torch.int64),
        )

    def fixed_shape(self) -> bool:
        """Return whether blocks are padded to `length`."""
        return self._padded_length is not None

    def vocabulary(self) -> Vocabulary:
        """Return the vocabulary of the tokenizer."""
        return self._vocabulary

    def length(self) -> int:
        """Return the number of tokens of the longest block."""
        return self.config.length

    def fingerprint(self) -> str:
        """Return a hash of tokenizer, layout and text."""
        if self._trained_on is not None:
            return self._trained_on.fingerprint
        layout = asdict(self._layout)
        parts = [self.tokenizer.fingerprint, layout, *self._corpus.fingerprints()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def save_assets(self, folder: Path) -> None:
        """Write the tokenizer, and what `without_data` and `for_evaluation` read."""
        self.tokenizer.save(folder)
        trained_on, counts = self._trained_on, self._vocabulary.counts
        if trained_on is None and "train" in self._sources:
            sizes = {name: len(source) for name, source in self._sources["train"].items()}
            trained_on = TrainedOn(self.fingerprint(), sizes)
        RunAssets(self._names, None if counts is None else counts.numpy(), trained_on).write(
            Path(folder)
        )

    def documents(self, split: str) -> int | None:
        """Return the number of documents of a split; None where its text was not read."""
        if split not in self._blocks:
            return None
        return sum(blocks.split.documents for blocks in self._blocks[split].values())

    def describe(self) -> dict[str, dict[str, float]]:
        """Return tokens, documents, examples and the share of padding of each split, for reports."""
        return {split: _describe(list(blocks.values())) for split, blocks in self._blocks.items()}

    def token_splits(self, split: str) -> list[Split]:
        """Return the splits of the token stores behind a split of this task, for statistics over all tokens."""
        return [blocks.split for blocks in self._blocks[split].values()]


def _describe(sources: Sequence[Blocks]) -> dict[str, float]:
    examples = sum(len(blocks) for blocks in sources)
    padding = sum(len(blocks) * blocks.padding_share() for blocks in sources)
    return {
        "tokens": sum(blocks.split.tokens for blocks in sources),
        "documents": sum(blocks.split.documents for blocks in sources),
        "examples": examples,
        "padding_share": padding / examples,
    }
