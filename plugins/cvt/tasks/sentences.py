"""Sentences of words, labelled or not: data for taggers and parsers, for one task or many at once.

Every update draws its sentences from one source, a labelled set or the unlabelled text (`one_source_per_update`),
in shares that stay the same over the whole run. A label that a sentence does not have is ABSENT, -1, at all of its
words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fwk import Batch, Source, Task, Vocabulary, option, register
from fwk.contracts.plain import PlainDict
from fwk.contracts.task import RawText, SizeOnly
from fwk.errors import ConfigError, UserError
from fwk_plugins.cvt.corpora.assets import ASSETS_FILE, Assets
from fwk_plugins.cvt.corpora.corpus import Corpus, read_corpus, read_held_out
from fwk_plugins.cvt.corpora.example_builder import ExampleBuilder
from fwk_plugins.cvt.corpora.examples import (
    UNLABELLED,
    Example,
    LabelledSentences,
    PretrainedInputs,
    words_of,
)
from fwk_plugins.cvt.corpora.label_spaces import LabelSpaces
from fwk_plugins.cvt.corpora.labelled_sets import (
    HELD_OUT,
    LabelledSet,
    labelled_sets,
    shares_of_sets,
    without_evaluation,
)
from fwk_plugins.cvt.corpora.lexicon import PAD, UNK, Lexicon
from fwk_plugins.cvt.corpora.vectors import WordVocabulary
from fwk_plugins.cvt.corpora.words import choose_words
from fwk_plugins.cvt.models.pretrained import (
    PieceInputs,
    WordInputs,
    load_pretrained,
    weights_digest,
)
from fwk_plugins.cvt.scoring import predictions as prediction_files

PRETRAINED = "pretrained"  # folder in RUN/tokenizer: the encoder of `task.pretrained`


@register("task", "sentences")
class SentencesTask(Task["SentencesTask.Config"]):
    """Sentences for taggers and parsers: labelled ones in CoNLL-U or columns, and unlabelled ones."""

    _counts: Tensor | None  # frequencies of words; None without the training data
    _sizes: dict[str, int] | None  # of the training sources; None in runs of older versions

    @dataclass(frozen=True, kw_only=True)
    class Config:
        data: dict[str, Any] = option(  # each value is checked as a `LabelledSet.Config`
            {},
            "labelled sets: name -> {path, labels: {LABEL: COLUMN, {spans: COLUMN} or tree}, format: conllu or "
            "columns, columns, separator, valid, test, fraction (of the sentences that keep their labels), weight "
            "(among labelled updates), punctuation (xpos tags that UAS and LAS leave out; default: upos PUNCT)}",
            paths=("path", "valid", "test"),
        )
        unlabelled: tuple[str, ...] = option(
            (),
            "files or globs of unlabelled text, one sentence per line, words separated by spaces; or token stores",
            paths=(),
        )
        unlabelled_share: float = option(
            0.5,
            "share of the updates that draw unlabelled sentences (CVT: every other one)",
            low=0,
            high=1,
        )
        length: int = option(
            100, "words; longer sentences are left out of training", low=2, high=100_000
        )
        lower: bool = option(
            True, "words are looked up in lower case; their characters stay as they are"
        )
        fewest: int = option(
            2, "occurrences in the training text that give a word a vector of its own", low=1
        )
        vectors: str | None = option(
            None,
            "word vectors (GloVe, word2vec; .gz, .xz, .zst) for the encoder to begin with; they make words known",
            paths=(),
        )
        longest_word: int = option(
            32,
            "characters (bytes of UTF-8) of a word; longer words lose their middle",
            low=4,
            high=1000,
        )
        pretrained: str | None = option(
            None,
            "run or checkpoint of a trained encoder, of this task or of text in pieces (masked_lm), that is read "
            "beside the words, frozen: mixed into the inputs of 'cnn_bilstm', or alone as 'frozen'",
            paths=(),
        )
        pieces: int = option(
            8,
            "pieces of a word that such an encoder of pieces reads; the rest of a word is left out",
            low=1,
            high=1000,
        )
        clean: bool = option(
            True,
            "do not train on sentences that are, word for word, in the valid or test file of any set",
        )

    def __init__(self, config: Config, seed: int = 1) -> None:
        super().__init__(config, seed)
        self._sets = labelled_sets(config.data)
        check_sources(self._sets, config.unlabelled_share)
        self._pretrained = config.pretrained
        inputs, weights = pretrained_inputs(config)
        corpus = read_corpus(self._sets, config.unlabelled, config.length, config.clean, seed)
        spaces = LabelSpaces.from_sentences(
            self._sets.values(), corpus.train, corpus.held_out.values()
        )
        lexicon, self._vectors, self._counts = choose_words(
            corpus, config.lower, config.fewest, config.vectors
        )
        self._vectors_width = self._vectors.width if self._vectors else 0
        self._builder = ExampleBuilder(lexicon, spaces, config.longest_word, inputs)
        self._held_out = corpus.held_out
        self._fingerprint = corpus.fingerprint(lexicon.words, spaces.values, weights)
        self._sources = self._make_sources(corpus)
        self._sizes = {name: len(source) for name, source in self._sources["train"].items()}

    def _make_sources(self, corpus: Corpus) -> dict[str, dict[str, Source]]:
        sources = {"train": self._builder.labelled_sources(corpus.train, self._sets)}
        for split, sentences in corpus.held_out.items():
            if sentences:
                sources[split] = self._builder.labelled_sources(sentences, self._sets)
        if len(corpus.unlabelled) and self.config.unlabelled_share:
            sources["train"][UNLABELLED] = self._builder.unlabelled_source(corpus.unlabelled)
        return sources

    # -- a trained model without its training data

    @classmethod
    def without_data(cls, config: Config, seed: int, folder: Path) -> SentencesTask:
        """Return a task that can encode sentences, from the assets in FOLDER/tokenizer."""
        task = cls.__new__(cls)
        Task.__init__(task, config, seed)
        assets = Assets.read(folder / "tokenizer")
        spaces = LabelSpaces(assets.labels, assets.schemes)
        task._sets = labelled_sets(config.data)
        for labelled_set in task._sets.values():
            spaces.check_has(labelled_set, where=folder / "tokenizer" / ASSETS_FILE)

        task._pretrained = str(folder / "tokenizer" / PRETRAINED) if config.pretrained else None
        inputs, _ = pretrained_inputs(replace(config, pretrained=task._pretrained))
        lexicon = Lexicon(assets.words, config.lower)
        task._builder = ExampleBuilder(lexicon, spaces, config.longest_word, inputs)
        task._vectors, task._counts, task._vectors_width = None, None, assets.vectors
        task._fingerprint, task._sizes = assets.fingerprint, assets.sizes
        empty = LabelledSentences("", [])
        task._sources = {"train": dict.fromkeys([*task._sets, UNLABELLED], empty)}
        task._held_out = {}
        return task

    @classmethod
    def for_evaluation(
        cls, config: Config, seed: int, folder: Path, split: str, trained: Config
    ) -> SentencesTask:
        """Return a task that reads the files of one split only; words, labels and tagging schemes are those of the run.

        If anything besides the evaluated files changed, only the training data can show whether words and labels are
        unchanged, so the task is built in full.
        """
        data, trained_data = without_evaluation(config.data), without_evaluation(trained.data)
        if split == "train" or replace(config, data=data) != replace(trained, data=trained_data):
            return cls(config, seed)
        task = cls.without_data(config, seed, folder)
        if task._sizes is None:
            return cls(config, seed)
        task._sources = {
            "train": {name: SizeOnly(name, size) for name, size in task._sizes.items()}
        }
        for name in HELD_OUT:
            if any(labelled_set.file_of(name) for labelled_set in task._sets.values()):
                sentences = read_held_out(task._sets, name) if name == split else {}
                task._held_out[name] = sentences
                task._sources[name] = task._builder.labelled_sources(sentences, task._sets)
        return task

    def save_assets(self, folder: Path) -> None:
        """Write words, labels and the frozen encoder, so that the run depends on no other run."""
        Assets(
            words=self.words,
            labels=self._builder.spaces.values,
            vectors=self._vectors_width,
            schemes=self._builder.spaces.schemes,
            fingerprint=self._fingerprint,
            sizes=self._sizes,
        ).write(folder)
        if self._pretrained:
            load_pretrained(self._pretrained).save(folder / PRETRAINED)

    # -- examples and batches

    def splits(self) -> tuple[str, ...]:
        return tuple(self._sources)

    def sources(self, split: str) -> Mapping[str, Source]:
        return self._sources[split]

    def one_source_per_update(self) -> bool:
        return True

    def mixture(self) -> Mapping[str, float]:
        share = self.config.unlabelled_share if UNLABELLED in self._sources["train"] else 0.0
        shares = shares_of_sets(self._sets, 1 - share)
        return {**shares, UNLABELLED: share} if share else shares

    def missing_sources(self) -> Mapping[str, str]:
        if UNLABELLED in self._sources["train"]:
            return {}
        return {UNLABELLED: why_no_unlabelled(self.config.unlabelled_share)}

    def collate(self, examples: Sequence[Example], draws: np.ndarray, sources: np.ndarray) -> Batch:
        """Return a batch of B sentences, padded to the longest one."""
        return self._builder.batch(examples, draws, sources, labelled_sets=len(self._sets))

    def encode(self, words: Sequence[str]) -> Example:
        """Return the example of a sentence without labels."""
        return self._builder.unlabelled(words)

    def example_of(self, text: RawText) -> Example:
        return self.encode(words_of(text))

    def source_of(self, label: str) -> str | None:
        """Return the set that has the label, where each set mixes the layers of `task.pretrained` differently."""
        if self._builder.pretrained is None or len(self._sets) == 1:
            return None
        for labelled_set in self._sets.values():
            if labelled_set.predicts(label):
                return labelled_set.name
        return None

    # -- predictions

    def check_predictions(self, split: str, targets: Mapping[str, Path]) -> None:
        if split not in self._held_out:
            raise UserError(
                f"--predictions: can be written for the splits valid and test, got {split}"
            )

    def write_predictions(
        self, split: str, source: str, predictions: Mapping[str, Mapping[int, Tensor]], path: Path
    ) -> None:
        """Write the predictions for one set in the format of its files."""
        sentences = self._held_out[split].get(source, [])
        spaces = self._builder.spaces
        prediction_files.write_predictions(self._sets[source], sentences, predictions, spaces, path)

    def readable(self, text: RawText, predictions: Mapping[str, Tensor]) -> PlainDict:
        """Return {words, LABEL: ...} for one text (see `scoring.predictions.readable`)."""
        labels = [label for labelled_set in self._sets.values() for label in labelled_set.labels]
        return prediction_files.readable(words_of(text), labels, predictions, self._builder.spaces)

    # -- what models need to know

    @property
    def words(self) -> list[str]:
        """The known words, in the order of their ids."""
        return self._builder.lexicon.words

    def vocabulary(self) -> Vocabulary:
        return WordVocabulary(
            size=len(self.words),
            pad=PAD,
            unk=UNK,
            special=(PAD, UNK),
            counts=self._counts,
            width=self._vectors_width,
            vectors=self._vectors.table(self.words) if self._vectors else None,
            pretrained=self._pretrained,
        )

    def length(self) -> int:
        return self.config.length

    def labels(self) -> Mapping[str, tuple[str, ...]]:
        return self._builder.spaces.values

    def inputs(self) -> Mapping[str, tuple[int, ...]]:
        return self._builder.input_shapes(self.config.length)

    def fingerprint(self) -> str:
        return self._fingerprint


def check_sources(sets: Mapping[str, LabelledSet], unlabelled_share: float) -> None:
    """Raise ConfigError where no update would draw labelled sentences, or a set has the name of another source."""
    if not sets:
        raise ConfigError(
            "task.data",
            "names no labelled set; expected {NAME: {path: FILE, labels: {LABEL: COLUMN}}}",
        )
    if UNLABELLED in sets:
        raise ConfigError(
            f"task.data.{UNLABELLED}",
            "this name is reserved for the unlabelled sentences; choose another one",
        )
    if not any(labelled_set.weight for labelled_set in sets.values()):
        raise ConfigError(
            "task.data",
            f"every set has weight 0 ({', '.join(sets)}), which leaves no update for labelled sentences",
        )
    if unlabelled_share == 1:
        raise ConfigError(
            "task.unlabelled_share",
            "is 1, which leaves no update for labelled sentences; expected less",
        )


def why_no_unlabelled(unlabelled_share: float) -> str:
    """Return why a task has no unlabelled sentences, and what to do about it."""
    reason = "task.unlabelled_share is 0; raise it,"
    if unlabelled_share:
        reason = (
            "task.unlabelled names no file and every set keeps all of its labels; name files, give a set a fraction "
            "below 1,"
        )
    return f"{reason} or train on labelled sentences alone (criterion.LABEL.students=none)"


def pretrained_inputs(config: SentencesTask.Config) -> tuple[PretrainedInputs | None, str]:
    """Return what the encoder of `task.pretrained` reads, and the digest of its weights; (None, "") without one.

    Raises ConfigError where that run reads neither words nor pieces of words.
    """
    if config.pretrained is None:
        return None, ""
    loaded = load_pretrained(config.pretrained)
    task, digest = loaded.task, weights_digest(loaded.model)
    if isinstance(task, SentencesTask):
        return WordInputs(task, task.encode), digest
    if loaded.tokenizer is None:
        raise ConfigError(
            "task.pretrained",
            f"{config.pretrained} is of the task '{loaded.config.task.name}', which reads neither words nor pieces of "
            "words; expected a run of 'sentences' or 'mlm'",
        )
    return PieceInputs(loaded.tokenizer, config.pieces), digest
