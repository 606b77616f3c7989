"""Sentences of words with labels for some of them: taggers and parsers, one task or many, beside unlabelled text.

Every update draws its sentences from one source: one of the labelled sets, or the unlabelled text (`one_source_per_update`),
in shares that stay the same over the whole run. A label that a sentence does not have is ABSENT, -1, at all of its words.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fwk import Batch, Source, Task, Vocabulary, option, register
from fwk.contracts.keyed import fold, mix_array
from fwk.contracts.task import SizeOnly
from fwk.data.store import is_store
from fwk.errors import ConfigError, DataError, UserError, did_you_mean
from fwk.files import check_target, write_atomically
from fwk_plugins.cvt.corpora import readers, tags
from fwk_plugins.cvt.corpora.packed import Packed
from fwk_plugins.cvt.corpora.readers import Sentence
from fwk_plugins.cvt.corpora.vectors import Vectors, WordVocabulary, read_vectors
from fwk_plugins.cvt.models.pretrained import (
    LABELLED_SET,
    NO_SET,
    UNLABELLED,
    OwnPieces,
    OwnWords,
    load_pretrained,
    weights_digest,
)
from fwk_plugins.cvt.scoring.scores import ABSENT, scored_words, unseen_relation, unseen_tags

PAD, UNK = 0, 1
PRETRAINED = "pretrained"  # folder beside a run's words: the encoder of `task.pretrained`
FORMATS = ("conllu", "columns")
HELD = ("valid", "test")
KEYS = (
    "path",
    "format",
    "columns",
    "separator",
    "labels",
    "valid",
    "test",
    "fraction",
    "weight",
    "punctuation",
)
TREE, SPANS, WORDS = "tree", "spans", "words"
DIGIT = re.compile(r"[0-9]")


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """What is said of one labelled set. labels: label -> column; for a `tree` heads and relations. spans: labels whose tags
    mark spans, and are read as BIOES whatever the file has. punctuation: tags (xpos) that UAS and LAS leave out; none: upos PUNCT."""

    name: str
    path: str
    format: str
    columns: tuple[str, ...] = ()
    separator: str | None = None
    labels: Mapping[str, str]
    spans: frozenset[str] = frozenset()
    valid: str | None = None
    test: str | None = None
    fraction: float = 1.0
    weight: float | None = None
    punctuation: tuple[str, ...] = ()

    def read(self, path: str) -> list[Sentence]:
        trees = TREE in self.labels.values()
        try:
            found = list(
                readers.read_conllu(path, trees)
                if self.format == "conllu"
                else readers.read_columns(path, self.columns, self.separator, trees)
            )
        except ConfigError as error:
            raise ConfigError(
                f"task.data.{self.name}.{error.key}", str(error).removeprefix(f"{error.key}: ")
            ) from None
        if not found:
            raise DataError(f"{path} holds no sentence")
        for column in self.labels.values():
            known = found[0].columns
            if (
                column == TREE
                and self.format == "columns"
                and not {"head", "deprel", "upos"} <= set(self.columns)
            ):
                raise ConfigError(
                    f"task.data.{self.name}.columns",
                    "a tree needs columns that are called head, deprel and upos, which "
                    f"tells punctuation; got {', '.join(self.columns)}",
                )
            if column == TREE and found[0].heads is None:
                raise DataError(
                    f"{path} has no heads, and the label of task.data.{self.name} is a tree"
                )
            if column != TREE and column not in known:
                raise ConfigError(
                    f"task.data.{self.name}.labels",
                    f"there is no column '{column}' in {path}{did_you_mean(column, known)}",
                )
        return found


def entry(name: str, given: Any) -> Labelled:
    """What `task.data.NAME` says. ConfigError names the key."""
    key = f"task.data.{name}"
    if not isinstance(given, Mapping):
        raise ConfigError(key, f"expected {{path: FILE, labels: {{NAME: COLUMN}}}}, got {given!r}")
    for word in given:
        if word not in KEYS:
            raise ConfigError(
                f"{key}.{word}", f"a labelled set has no key '{word}'{did_you_mean(word, KEYS)}"
            )
    for needed in ("path", "labels"):
        if not given.get(needed):
            raise ConfigError(f"{key}.{needed}", "must be given")
    for word in ("path", "valid", "test", "separator"):
        if given.get(word) is not None and not isinstance(given[word], str):
            raise ConfigError(f"{key}.{word}", f"expected text, got {given[word]!r}")
    suffix = re.sub(r"\.(gz|xz|zst)$", "", given["path"]).rpartition(".")[2]
    format = given.get("format") or ("conllu" if suffix == "conllu" else "columns")
    if format not in FORMATS:
        raise ConfigError(f"{key}.format", f"expected {' or '.join(FORMATS)}, got {format!r}")
    if format == "columns" and not given.get("columns"):
        raise ConfigError(
            f"{key}.columns",
            "a file of columns needs their names, such as [word, tag]; one of CoNLL-U ends in .conllu, or "
            "has format: conllu",
        )
    columns = given.get("columns") or ()
    if (
        isinstance(columns, str)
        or not isinstance(columns, Sequence)
        or not all(isinstance(column, str) for column in columns)
    ):
        raise ConfigError(
            f"{key}.columns", f"expected a list of names, such as [word, tag], got {columns!r}"
        )
    if not isinstance(given["labels"], Mapping):
        raise ConfigError(
            f"{key}.labels", f"expected a mapping of labels to columns, got {given['labels']!r}"
        )
    labels, marked = {}, set()
    for label, column in given["labels"].items():
        if isinstance(column, Mapping) and set(column) == {SPANS}:
            marked.add(label)
            column = column[SPANS]
        if not isinstance(column, str) or (label in marked and column == TREE):
            raise ConfigError(
                f"{key}.labels.{label}",
                f"expected a column, {{spans: COLUMN}} or tree, got {given['labels'][label]!r}",
            )
        if label == WORDS:
            raise ConfigError(
                f"{key}.labels.{label}",
                "this name is that of the words themselves; choose another one",
            )
        labels[label] = column
    fraction, weight = given.get("fraction", 1.0), given.get("weight")
    if (
        isinstance(fraction, bool)
        or not isinstance(fraction, (int, float))
        or not 0 < fraction <= 1
    ):
        raise ConfigError(
            f"{key}.fraction", f"expected a share above 0 and at most 1, got {fraction!r}"
        )
    if weight is not None and (
        isinstance(weight, bool)
        or not isinstance(weight, (int, float))
        or not 0 <= weight < float("inf")
    ):
        raise ConfigError(f"{key}.weight", f"expected a number of at least 0, got {weight!r}")
    punctuation = given.get("punctuation") or ()
    if (
        isinstance(punctuation, str)
        or not isinstance(punctuation, Sequence)
        or not all(isinstance(tag, str) for tag in punctuation)
    ):
        raise ConfigError(
            f"{key}.punctuation", f"expected a list of tags (xpos), got {punctuation!r}"
        )
    return Labelled(
        name=name,
        path=given["path"],
        format=format,
        columns=tuple(columns),
        separator=given.get("separator"),
        labels=labels,
        spans=frozenset(marked),
        valid=given.get("valid"),
        test=given.get("test"),
        fraction=float(fraction),
        weight=weight,
        punctuation=tuple(punctuation),
    )


def _without_held(config: Any) -> Any:
    """What a task is told but for what is evaluated: the valid and test files, and which words of them count."""
    data = {
        name: {key: value for key, value in given.items() if key not in (*HELD, "punctuation")}
        if isinstance(given, Mapping)
        else given
        for name, given in config.data.items()
    }
    return replace(config, data=data)


def words_of(text: str | Sequence[str]) -> tuple[str, ...]:
    """The words of a raw text, between its blanks as in files of plain text, or of a list of them. DataError where there are none."""
    words = (
        tuple(text.split() if isinstance(text, str) else text)
        if isinstance(text, (str, Sequence))
        else ()
    )
    if not words or not all(isinstance(word, str) and word for word in words):
        raise DataError(
            f"expected a text with a word in it, or a list of words, got {text!r}"[:200]
        )
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"the word {word!r} is no text that UTF-8 can hold ({error.reason})"
            ) from None
    return words


def normal(word: str, lower: bool) -> str:
    """As a word is looked up: every digit is 0."""
    return DIGIT.sub("0", word.lower() if lower else word)


class Example(NamedTuple):
    """A sentence of n words. words: ids, int32 [n]. characters: bytes of UTF-8 from 1, int16 [n, W]. labels: by name, int32 [n];
    none of an unlabelled one. pretrained: what the encoder of `task.pretrained` reads."""

    words: np.ndarray
    characters: np.ndarray
    labels: Mapping[str, np.ndarray]
    pretrained: Any = None


class Sentences(Source):
    """Sentences by number, each with its labels."""

    def __init__(self, name: str, sentences: Sequence[Any]):
        self.name, self.sentences = name, sentences

    def __len__(self) -> int:
        return len(self.sentences)

    def __getitem__(self, index: int) -> Any:
        return self.sentences[index]


class PlainSentences(Source):
    """Sentences without labels, made into examples when they are asked for."""

    def __init__(
        self, name: str, sentences: Packed, longest_word: int, read_by: OwnWords | OwnPieces | None
    ):
        self.name, self.sentences, self.longest_word, self.read_by = (
            name,
            sentences,
            longest_word,
            read_by,
        )

    def __len__(self) -> int:
        return len(self.sentences)

    def __getitem__(self, index: int) -> Example:
        words, characters = self.sentences.encoded(index, self.longest_word)
        return Example(
            words,
            characters,
            {},
            self.read_by.encode(self.sentences.words(index)) if self.read_by else None,
        )


@register("task", "sentences")
class SentencesTask(Task):
    """Taggers and parsers: labelled sets of sentences in CoNLL-U or columns, and unlabelled sentences beside them."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        data: dict[str, Any] = option(
            {},
            "labelled sets: name -> {path, labels: {LABEL: COLUMN, {spans: COLUMN} or tree}, format: conllu or columns, columns, "
            "separator, valid, test, fraction (of the sentences that keep their labels), weight (among labelled updates), "
            "punctuation (xpos tags that UAS and LAS leave out; else upos PUNCT)}",
        )
        unlabelled: tuple[str, ...] = option(
            (),
            "text files of unlabelled sentences, one a line, words between blanks; token "
            "stores of such text (fwk-preprocess); or globs",
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
            "text file of word vectors (GloVe or word2vec; .gz, .xz, .zst) that the encoder begins with; a word of the training, valid or "
            "test text that is in it is known, however rare",
        )
        longest_word: int = option(
            32,
            "characters (bytes of UTF-8) of a word; of longer ones the middle is left out",
            low=4,
            high=1000,
        )
        pretrained: str | None = option(
            None,
            "run or checkpoint of a trained encoder, of this task or of text in pieces (masked_lm), that is read beside the words, frozen: "
            "mixed into the inputs of 'cnn_bilstm', or alone as 'frozen'",
        )
        pieces: int = option(
            8,
            "pieces of a word that such an encoder of pieces reads; the rest of a word is left out",
            low=1,
            high=1000,
        )
        clean: bool = option(
            True, "leave out of training what stands word for word in any set's valid or test file"
        )

    def __init__(self, config: Any, seed: int = 1):
        super().__init__(config, seed)
        if not config.data:
            raise ConfigError(
                "task.data",
                "names no labelled set; expected {NAME: {path: FILE, labels: {LABEL: COLUMN}}}",
            )
        sets = {name: entry(name, given) for name, given in config.data.items()}
        self._read_by = self._reader(config.pretrained)
        if UNLABELLED in sets:
            raise ConfigError(
                f"task.data.{UNLABELLED}",
                "this name is that of the unlabelled sentences; choose another one",
            )
        if not any(one.weight is None or one.weight for one in sets.values()):
            raise ConfigError(
                "task.data",
                f"every set has weight 0 ({', '.join(sets)}), which leaves no update for labelled sentences",
            )
        if config.unlabelled_share == 1:
            raise ConfigError(
                "task.unlabelled_share",
                "is 1, which leaves no update for labelled sentences; expected less",
            )
        held = {split: self._read_held(sets, split) for split in HELD}
        seen = (
            {
                " ".join(s.words)
                for split in held.values()
                for found in split.values()
                for s in found
            }
            if config.clean
            else set()
        )
        train: dict[str, list[Sentence]] = {}
        unlearnt: list[Sentence] = []  # labelled ones that keep no label
        for one in sets.values():
            everything = one.read(one.path)
            found = [
                s
                for s in everything
                if len(s.words) <= config.length and " ".join(s.words) not in seen
            ]
            if not found:
                long = sum(len(s.words) > config.length for s in everything)
                raise DataError(
                    f"no sentence of {one.path} (task.data.{one.name}) is left to train on: {long} have more than {config.length} "
                    f"words (task.length), {len(everything) - long} stand in a valid or test file (task.clean)"
                )
            keep = self._labelled(one, len(found))
            train[one.name] = [s for s, own in zip(found, keep) if own]
            unlearnt += [s for s, own in zip(found, keep) if not own]
        rest = Packed()
        for s in unlearnt:
            rest.add(s.words)
        for pattern in config.unlabelled:
            paths = sorted(glob.glob(pattern))
            if not paths:
                raise DataError(f"task.unlabelled: there is no file {pattern}")
            for path in paths:
                before = len(rest)
                for s in self._unlabelled(path):
                    if len(s.words) <= config.length and " ".join(s.words) not in seen:
                        rest.add(s.words)
                if len(rest) == before:
                    raise DataError(
                        f"task.unlabelled: {path} holds no sentence of at most {config.length} words (task.length)"
                        f"{' that stands in no valid or test file (task.clean)' if seen else ''}"
                    )
        self._sets, self._held = sets, held
        self._spaces = self._label_spaces(sets, train, held)
        labelled = [s for found in train.values() for s in found]
        words = Counter(normal(word, config.lower) for s in labelled for word in s.words)
        for word, n in rest.counts():
            words[normal(word, config.lower)] += n
        judged = {
            normal(word, config.lower)
            for split in held.values()
            for found in split.values()
            for s in found
            for word in s.words
        }
        self._vectors = self._read_vectors(words.keys() | judged) if config.vectors else None
        frequent = {word for word, n in words.items() if n >= config.fewest}
        known = frequent | (self._vectors.of.keys() if self._vectors else set())
        self.words = ["", "<unk>", *sorted(known, key=lambda w: (-words[w], w))]
        self._counts = torch.tensor(
            [
                0,
                sum(n for w, n in words.items() if w not in known),
                *(words[w] for w in self.words[2:]),
            ],
            dtype=torch.float64,
        )
        self._width = self._vectors.width if self._vectors else 0
        self._index()
        splits = {"train": train, **{split: found for split, found in held.items() if found}}
        self._sources = {
            split: {
                name: Sentences(name, [self._encoded(s, sets[name]) for s in of])
                for name, of in found.items()
            }
            for split, found in splits.items()
        }
        digest = hashlib.sha256(repr((self.words, self._spaces)).encode())
        for s in (*labelled, *unlearnt):
            digest.update(repr((s.words, s.heads, sorted(s.columns.items()))).encode())
        for number in range(len(unlearnt), len(rest)):
            digest.update(repr((rest.words(number), None, [])).encode())
        digest.update(self._weights.encode())
        self._fingerprint = digest.hexdigest()
        if len(rest) and config.unlabelled_share:
            rest.pack(self._id)
            self._sources["train"][UNLABELLED] = PlainSentences(
                UNLABELLED, rest, config.longest_word, self._read_by
            )
        self._sizes = {name: len(source) for name, source in self._sources["train"].items()}

    def _read_held(self, sets: Mapping[str, Labelled], split: str) -> dict[str, list[Sentence]]:
        return {one.name: one.read(path) for one in sets.values() if (path := getattr(one, split))}

    @classmethod
    def for_evaluation(cls, config: Any, seed: int, folder: Path, split: str, trained: Any) -> Task:
        """Words, labels and their schemes are the run's own, and of the files that of `split` alone is read. Where more has changed
        than what is evaluated, whether the words and labels are the same still is told by the training data alone."""
        if split == "train" or _without_held(config) != _without_held(trained):
            return cls(config, seed)
        task = cls.without_data(config, seed, folder)
        if task._sizes is None:  # the run is of an older version
            return cls(config, seed)
        task._sources = {
            "train": {name: SizeOnly(name, size) for name, size in task._sizes.items()}
        }
        task._held = {}
        for name in HELD:
            if any(getattr(one, name) for one in task._sets.values()):
                found = task._read_held(task._sets, name) if name == split else {}
                task._held[name] = found
                task._sources[name] = {
                    of: Sentences(of, [task._encoded(s, task._sets[of]) for s in some])
                    for of, some in found.items()
                }
        return task

    @classmethod
    def without_data(cls, config: Any, seed: int, folder: Path) -> SentencesTask:
        task = cls.__new__(cls)
        Task.__init__(task, config, seed)
        path = folder / "tokenizer" / "sentences.json"
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            task.words = list(map(str, told["words"]))
            task._spaces = {
                str(name): tuple(map(str, values)) for name, values in told["labels"].items()
            }
            task._vectors, task._width = None, int(told.get("vectors", 0))
            task._fingerprint, task._schemes = (
                str(told.get("fingerprint", "")),
                dict(told.get("schemes", {})),
            )
            task._sizes = (
                {str(name): int(size) for name, size in told["sizes"].items()}
                if "sizes" in told
                else None
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path} does not hold the words of a run of the task 'sentences' ({error})"
            ) from None
        task._sets = {name: entry(name, given) for name, given in config.data.items()}
        for one in task._sets.values():
            for label, column in one.labels.items():
                if (f"{label}_relation" if column == TREE else label) not in task._spaces:
                    raise DataError(
                        f"{path} does not hold the label '{label}' of task.data.{one.name}{did_you_mean(label, task._spaces)}"
                    )
        task._counts, task._sources = (
            None,
            {"train": dict.fromkeys([*task._sets, UNLABELLED], Sentences("", []))},
        )
        task._index()
        task._read_by = task._reader(
            str(folder / "tokenizer" / PRETRAINED) if config.pretrained else None
        )
        return task

    def save_assets(self, folder: Path) -> None:
        told = {
            "words": self.words,
            "labels": self._spaces,
            "vectors": self._width,
            "schemes": self._schemes,
            "fingerprint": self._fingerprint,
            **({"sizes": self._sizes} if self._sizes else {}),
        }
        (folder / "sentences.json").write_text(
            json.dumps(told, ensure_ascii=False), encoding="utf-8"
        )
        if self._pretrained:  # the run goes on being usable when the other one is gone
            load_pretrained(self._pretrained).save(folder / PRETRAINED)

    def check_predictions(self, split: str, targets: Mapping[str, Path]) -> None:
        if split not in self._held:
            raise UserError(f"--predictions: are written for valid and test; the split is {split}")
        named = [
            *(path for one in self._sets.values() for path in (one.path, one.valid, one.test)),
            *self.config.unlabelled,
            self.config.vectors,
        ]
        own = [Path(path) for path in named if path]
        for target in targets.values():
            check_target("--predictions", target, *own)

    def write_predictions(
        self, split: str, source: str, predictions: Mapping[str, Mapping[int, Tensor]], path: Path
    ) -> None:
        """A set of CoNLL-U as CoNLL-U, with what was said alone: what it is compared with is the gold file, and a gold value left in
        place would be scored as said. One of columns as the word, the other columns, and for each label what is right and what was
        said, which the scorers of CoNLL read."""
        one, written = self._sets[source], []
        compared: dict[str, str] = {}  # the column of what was said -> that of what is right
        for number, sentence in enumerate(self._held[split].get(source, [])):
            n, right = len(sentence.words), dict(sentence.columns)
            if sentence.heads is not None:
                right["head"] = sentence.heads
            said: dict[
                str, tuple[Any, ...]
            ] = {}  # by column; two labels of one set may be of one column
            for label, column in one.labels.items():
                if column == TREE and f"{label}_head" in predictions:
                    found = {
                        "head": tuple(predictions[f"{label}_head"][number][:n].tolist()),
                        "deprel": self._said(
                            f"{label}_relation", predictions[f"{label}_relation"][number][:n]
                        ),
                    }
                elif label in predictions:
                    tagged = self._said(label, predictions[label][number][:n])
                    found = {
                        column: tags.convert(tagged, "BIOES", self._schemes[label])
                        if label in self._schemes
                        else tagged
                    }
                else:
                    continue
                for name, values in found.items():
                    said[name] = values
                    right[f"{label} said {name}"] = values
                    compared[f"{label} said {name}"] = name
            heads = said.pop("head", None)
            written.append(
                replace(sentence, columns=said, heads=heads)
                if one.format == "conllu"
                else replace(sentence, columns=right, heads=None)
            )
        out = io.StringIO()
        if one.format == "conllu":
            readers.write_conllu(written, out)
        else:
            columns = [
                "word",
                *(name for name in one.columns if name not in ("word", "_", *compared.values())),
            ]
            columns += [column for said, right in compared.items() for column in (right, said)]
            readers.write_columns(written, columns, out, one.separator or " ")
        write_atomically(path.resolve(), out.getvalue().encode())

    def _said(self, label: str, values: Tensor) -> tuple[str, ...]:
        return tuple(self._spaces[label][value] for value in values.tolist())

    def _unlabelled(self, path: str) -> Iterator[Sentence]:
        if not is_store(path):
            return readers.read_plain(path)
        if readers.is_lower(path):
            self._tell(
                f"the token store {path} holds text in lower case; the characters of the labelled words are as they are"
            )
        return readers.read_store(path)

    def _tell(self, what: str) -> None:
        if os.environ.get("RANK", "0") == "0":
            print(f"fwk: {what}", file=sys.stderr)

    def _reader(self, run: str | None) -> OwnWords | OwnPieces | None:
        """Who encodes sentences for the encoder of this run. ConfigError where it reads no text."""
        self._pretrained, self._weights = run, ""
        if run is None:
            return None
        loaded = load_pretrained(run)
        task, self._weights = loaded.task, weights_digest(loaded.model)
        if isinstance(task, SentencesTask):
            return OwnWords(task, task.encode)
        if loaded.tokenizer is None:
            raise ConfigError(
                "task.pretrained",
                f"{run} is of the task '{loaded.config.task.name}', which reads neither words nor pieces of "
                "words; expected a run of 'sentences' or 'mlm'",
            )
        return OwnPieces(loaded.tokenizer, self.config.pieces)

    def encode(self, words: Sequence[str]) -> Example:
        """A sentence of words without labels."""
        return self._encoded(Sentence(words=tuple(words)), None)

    def _read_vectors(self, words: Set[str]) -> Vectors:
        """Those of `task.vectors`; how many words have one is told on stderr, as they are a file of another hand."""
        found = read_vectors(
            self.config.vectors,
            words,
            lambda word: normal(word, self.config.lower),
            lambda word: normal(word, True),
        )
        self._tell(f"{len(found.of):,} of {len(words):,} words have a vector in {found.file}")
        return found

    def _labelled(self, one: Labelled, count: int) -> np.ndarray:
        """Which sentences keep their labels, bool [count]: ⌈fraction·count⌉, keyed; a larger fraction contains a smaller one."""
        ranks = mix_array(
            np.arange(count, dtype=np.uint64) + np.uint64(fold(self.seed, "labelled", one.name))
        )
        keep = np.zeros(count, dtype=bool)
        keep[np.argsort(ranks, kind="stable")[: int(np.ceil(one.fraction * count - 1e-9))]] = True
        return keep

    def _label_spaces(
        self,
        sets: Mapping[str, Labelled],
        train: Mapping[str, list[Sentence]],
        held: Mapping[str, Mapping[str, list[Sentence]]],
    ) -> dict[str, tuple[str, ...]]:
        """Label -> its values, from the training sentences; of a tree `LABEL_head` (none) and `LABEL_relation`."""
        self._schemes: dict[str, str] = {}
        spaces: dict[str, tuple[str, ...]] = {}
        for one in sets.values():
            for label, column in one.labels.items():
                if label in spaces or f"{label}_head" in spaces:
                    raise ConfigError(
                        f"task.data.{one.name}.labels.{label}",
                        "two sets have a label of this name; choose another one",
                    )
                if column == TREE:
                    spaces[f"{label}_head"] = ()
                    spaces[f"{label}_scored"] = ("punctuation", "word")  # what UAS and LAS count
                    spaces[f"{label}_relation"] = tuple(
                        sorted({v for s in train[one.name] for v in s.columns["deprel"]})
                    )
                    continue
                if label in one.spans:
                    everything = [s for of in (train, *held.values()) for s in of.get(one.name, [])]
                    self._schemes[label] = tags.detect(
                        [s.columns[column] for s in everything], [s.place for s in everything]
                    )
                values = {v for s in train[one.name] for v in self._values(s, label, column)}
                if (
                    label in one.spans
                ):  # a type that training knows may end where it never saw it end
                    values = {
                        "O",
                        *(
                            f"{prefix}-{value[2:]}"
                            for value in values
                            if value != "O"
                            for prefix in "BIES"
                        ),
                    }
                spaces[label] = tuple(sorted(values))
        return spaces

    def _values(self, sentence: Sentence, label: str, column: str) -> Sequence[str]:
        values = sentence.columns[column]
        return (
            tags.convert(values, self._schemes[label], "BIOES", sentence.place)
            if label in self._schemes
            else values
        )

    def _index(self) -> None:
        self._word = {word: number for number, word in enumerate(self.words)}
        self._value = {
            label: {value: number for number, value in enumerate(values)}
            for label, values in self._spaces.items()
        }

    def _id(self, word: str) -> int:
        return self._word.get(normal(word, self.config.lower), UNK)

    def _encoded(self, sentence: Sentence, one: Labelled | None) -> Example:
        """Of a label, a value that training never saw is a number below ABSENT (scores.py)."""
        words = np.array([*map(self._id, sentence.words)], dtype=np.int32)
        longest = self.config.longest_word
        spelled = [word.encode() for word in sentence.words]
        most = max(
            1, *map(len, spelled)
        )  # words may be empty, and the convolutions read a character at least
        characters = np.zeros((len(words), min(most, longest)), dtype=np.int16)
        for number, word in enumerate(spelled):
            if len(word) > longest:
                word = word[: longest - longest // 2] + word[-(longest // 2) :]
            characters[number, : len(word)] = np.frombuffer(word, dtype=np.uint8) + np.int16(1)
        labels = {}
        for label, column in one.labels.items() if one else ():
            if column == TREE:
                if sentence.heads is None:
                    raise DataError(
                        f"{sentence.place} begins a sentence without heads, and the label '{label}' is a tree"
                    )
                labels[f"{label}_head"] = np.array(sentence.heads, dtype=np.int32)
                labels[f"{label}_scored"] = np.array(
                    scored_words(sentence.columns, one.punctuation), dtype=np.int32
                )
                label, values = f"{label}_relation", sentence.columns["deprel"]
            else:
                values = self._values(sentence, label, column)
            numbers = [self._value[label].get(value) for value in values]
            if None in numbers:
                unseen = (
                    [unseen_relation(v, self._spaces[label]) for v in values]
                    if column == TREE
                    else unseen_tags(values)
                )
                numbers = [
                    instead if number is None else number
                    for number, instead in zip(numbers, unseen)
                ]
            labels[label] = np.array(numbers, dtype=np.int32)
        return Example(
            words,
            characters,
            labels,
            self._read_by.encode(sentence.words) if self._read_by else None,
        )

    # -- what the engine asks ----------------------------------------------------------------------------------------

    def splits(self) -> tuple[str, ...]:
        return tuple(self._sources)

    def sources(self, split: str) -> Mapping[str, Source]:
        return self._sources[split]

    def mixture(self) -> Mapping[str, float]:
        sizes = {
            name: one.weight if one.weight is not None else 1.0 for name, one in self._sets.items()
        }
        share = self.config.unlabelled_share if UNLABELLED in self._sources["train"] else 0.0
        total = sum(sizes.values()) or 1.0
        return {
            **{name: (1 - share) * size / total for name, size in sizes.items()},
            **({UNLABELLED: share} if share else {}),
        }

    def one_source_per_update(self) -> bool:
        return True

    def missing_sources(self) -> Mapping[str, str]:
        if UNLABELLED in self._sources["train"]:
            return {}
        why = (
            "task.unlabelled_share is 0; raise it,"
            if not self.config.unlabelled_share
            else "task.unlabelled names no file and every set keeps all of its labels; name files, give a set a fraction below 1,"
        )
        return {
            UNLABELLED: f"{why} or train on labelled sentences alone (criterion.LABEL.students=none)"
        }

    def collate(self, examples: Sequence[Any], draws: np.ndarray, sources: np.ndarray) -> Batch:
        B, T = len(examples), max(len(one.words) for one in examples)
        W = max(one.characters.shape[1] for one in examples)
        tokens, spelled = np.zeros((B, T), dtype=np.int64), np.zeros((B, T, W), dtype=np.int64)
        mask = np.zeros((B, T), dtype=bool)
        labels = {label: np.full((B, T), ABSENT, dtype=np.int64) for label in self._spaces}
        for row, (words, characters, own, _) in enumerate(examples):
            n = len(words)
            tokens[row, :n], mask[row, :n] = words, True
            spelled[row, :n, : characters.shape[1]] = characters
            for label, values in own.items():
                labels[label][row, :n] = values
        unlabelled = torch.tensor([not one.labels for one in examples])
        inputs = {
            "tokens": torch.from_numpy(tokens),
            "characters": torch.from_numpy(spelled),
            "unlabelled": unlabelled,
        }
        if self._read_by:
            inputs |= self._read_by.inputs([one.pretrained for one in examples])
            sets = torch.from_numpy(sources + 1)  # the labelled sets are the first sources
            inputs[LABELLED_SET] = sets.masked_fill(sets > len(self._sets), 0)
        return Batch(
            inputs=inputs,
            draws=torch.from_numpy(draws),
            mask=torch.from_numpy(mask),
            source=torch.from_numpy(sources),
            labels={label: torch.from_numpy(values) for label, values in labels.items()},
        )

    def example_of(self, text: str | Sequence[str]) -> Any:
        return self.encode(words_of(text))

    def source_of(self, label: str) -> str | None:
        """The set that has the label, where sets have mixes of their own of `task.pretrained`."""
        if not self._read_by or len(self._sets) == 1:
            return None
        return next(
            (
                one.name
                for one in self._sets.values()
                for own, column in one.labels.items()
                if label == own or column == TREE and label in (f"{own}_head", f"{own}_relation")
            ),
            None,
        )

    def readable(
        self, text: str | Sequence[str], predictions: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        """{words, LABEL: a tag for each word}; of a label of spans {type, start, stop, words} of each, stop being the word after
        the last; of a tree {heads, relations}, heads being numbers of words from 1, or 0 for ROOT."""
        words = words_of(text)
        found: dict[str, Any] = {WORDS: list(words)}
        for one in self._sets.values():
            for label, column in one.labels.items():
                if column == TREE and f"{label}_head" in predictions:
                    heads, relations = (
                        predictions[f"{label}_{part}"][: len(words)]
                        for part in ("head", "relation")
                    )
                    found[label] = {
                        "heads": heads.tolist(),
                        "relations": list(self._said(f"{label}_relation", relations)),
                    }
                elif label in predictions:
                    said = self._said(label, predictions[label][: len(words)])
                    found[label] = (
                        list(said)
                        if label not in one.spans
                        else [
                            {
                                "type": kind,
                                "start": start,
                                "stop": stop,
                                "words": list(words[start:stop]),
                            }
                            for start, stop, kind in tags.spans(said, "BIOES")
                        ]
                    )
        return found

    def batch_of_words(
        self, sentences: Sequence[Sequence[str]], labelled_set: str | None = None
    ) -> Batch:
        """Sentences of words, for a trained model. labelled_set: whose mix of `task.pretrained` they take; None: the mean."""
        if labelled_set not in (None, *self._sets):
            raise UserError(
                f"there is no labelled set '{labelled_set}'{did_you_mean(labelled_set, self._sets)}"
            )
        source = NO_SET if labelled_set is None else [*self._sets].index(labelled_set)
        return self.collate(
            [self.example_of(words) for words in sentences],
            np.arange(len(sentences)),
            np.full(len(sentences), source),
        )

    def vocabulary(self) -> Vocabulary:
        return WordVocabulary(
            size=len(self.words),
            pad=PAD,
            unk=UNK,
            special=(PAD, UNK),
            counts=self._counts,
            width=self._width,
            vectors=self._vectors.table(self.words) if self._vectors else None,
            pretrained=self._pretrained,
        )

    def length(self) -> int:
        return self.config.length

    def labels(self) -> Mapping[str, tuple[str, ...]]:
        return self._spaces

    def inputs(self) -> Mapping[str, tuple[int, ...]]:
        own = {
            "tokens": (self.config.length,),
            "characters": (self.config.length, self.config.longest_word),
            "unlabelled": (),
        }
        return (
            {**own, **self._read_by.shapes(self.config.length), LABELLED_SET: ()}
            if self._read_by
            else own
        )

    def fingerprint(self) -> str:
        return self._fingerprint
