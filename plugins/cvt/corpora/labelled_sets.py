"""Labelled sets: the entries of `task.data`, each a group of files and the labels that their columns hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from fwk import option
from fwk.contracts.options import convert, schema_of
from fwk.errors import ConfigError, DataError, did_you_mean
from fwk_plugins.cvt.corpora.readers import (
    Sentence,
    check_column_names,
    read_columns,
    read_conllu,
)

HELD_OUT = ("valid", "test")  # splits that are evaluated, and never trained on
WORDS = "words"  # key of the words in predictions of raw text
UNANNOTATED = "_"  # in a CoNLL-U file
TREE, SPANS = "tree", "spans"  # values in `labels` that are not names of columns
TREE_COLUMNS = ("head", "deprel", "upos")
COMPRESSED = re.compile(r"\.(gz|xz|zst)$")

Format = Literal["conllu", "columns"]


class Label(NamedTuple):
    """One label of a set: a value per word, tags that mark spans, or a dependency tree."""

    name: str
    column: str  # of the file; "" for a tree
    kind: Literal["value", "spans", "tree"]

    @property
    def is_tree(self) -> bool:
        return self.kind == TREE

    def part(self, name: str) -> str:
        """Return the label of one part of a tree: its `head`, its `relation`, or whether a word is `scored`."""
        return f"{self.name}_{name}"


def parse_label(name: str, value: object) -> Label:
    """Return what `labels: {NAME: VALUE}` means. Raises ConfigError for anything that is no label."""
    marks_spans = isinstance(value, Mapping) and set(value) == {SPANS}
    column = value[SPANS] if isinstance(value, Mapping) and marks_spans else value
    if not isinstance(column, str) or (marks_spans and column == TREE):
        raise ConfigError(
            f"labels.{name}", f"expected a column, {{spans: COLUMN}} or tree, got {value!r}"
        )
    if name == WORDS:
        raise ConfigError(
            f"labels.{name}", "this name is reserved for the words themselves; choose another one"
        )
    if column == TREE:
        return Label(name, "", "tree")
    return Label(name, column, "spans" if marks_spans else "value")


class LabelledSet:
    """Sentences of one training file and of those it is evaluated on, with their labels."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        path: str = option(doc="file of training sentences")
        labels: dict[str, Any] = option(
            doc="label -> COLUMN, {spans: COLUMN} for tags that mark spans, or tree"
        )
        format: Format | None = option(
            None, "conllu or columns; default: conllu for files called *.conllu, else columns"
        )
        columns: tuple[str, ...] = option(
            (), "names of the columns of a file of columns; one is word, those not read are _"
        )
        separator: str | None = option(
            None, "separator of columns; default: any run of spaces and tabs"
        )
        valid: str | None = option(None, "file of the split valid")
        test: str | None = option(None, "file of the split test")
        fraction: float = option(
            1.0, "share of the training sentences that keep their labels", above=0, high=1
        )
        weight: float | None = option(None, "share among labelled updates (default: 1)", low=0)
        punctuation: tuple[str, ...] = option(
            (), "xpos tags that UAS and LAS leave out (default: words whose upos is PUNCT)"
        )

        def __post_init__(self) -> None:
            for name in ("path", "labels"):
                if not getattr(self, name):
                    raise ConfigError(name, "is empty; expected a file and at least one label")
            labels = self.parsed_labels()
            if self.file_format == "columns":
                self._check_columns(any(label.is_tree for label in labels))

        @property
        def file_format(self) -> Format:
            """The format that is given, or the one that the file's name implies."""
            if self.format is not None:
                return self.format
            suffix = COMPRESSED.sub("", self.path).rpartition(".")[2]
            return "conllu" if suffix == "conllu" else "columns"

        def parsed_labels(self) -> tuple[Label, ...]:
            return tuple(parse_label(name, value) for name, value in self.labels.items())

        def _check_columns(self, with_tree: bool) -> None:
            if not self.columns:
                raise ConfigError(
                    "columns",
                    "a file of columns needs their names, such as [word, tag]; a file of CoNLL-U is called *.conllu, "
                    "or has format: conllu",
                )
            check_column_names(self.columns)
            if self.separator == "":
                raise ConfigError(
                    "separator",
                    "is empty; expected null (any run of spaces and tabs) or a character",
                )
            if with_tree and not set(TREE_COLUMNS) <= set(self.columns):
                raise ConfigError(
                    "columns",
                    "a tree needs columns called head, deprel and upos (which marks punctuation); got "
                    f"{', '.join(self.columns)}",
                )

    def __init__(self, name: str, config: Config) -> None:
        self.name, self.config = name, config
        self.labels = config.parsed_labels()

    @property
    def key(self) -> str:
        """The key of this set in the config."""
        return f"task.data.{self.name}"

    @property
    def weight(self) -> float:
        """The share of this set among labelled updates, relative to other sets."""
        return 1.0 if self.config.weight is None else self.config.weight

    def predicts(self, name: str) -> bool:
        """Return whether a prediction of this name belongs to a label of this set."""
        for label in self.labels:
            parts = (label.part("head"), label.part("relation")) if label.is_tree else ()
            if name in (label.name, *parts):
                return True
        return False

    def file_of(self, split: str) -> str | None:
        """Return the file of a split that is held out, if there is one."""
        return {"valid": self.config.valid, "test": self.config.test}[split]

    def files(self) -> list[str]:
        """Return the files of all splits."""
        config = self.config
        return [path for path in (config.path, config.valid, config.test) if path]

    def annotated(self, sentence: Sentence, label: Label) -> list[bool]:
        """Return which words of a sentence have a value of a label that is a column.

        CoNLL-U writes _ where nothing is annotated. Two columns have it as a value: feats, of words without features,
        and lemma, of the word _.
        """
        values = sentence.columns[label.column]
        if self.config.file_format != "conllu" or label.column == "feats":
            return [True] * len(values)
        if label.column == "lemma":
            return [
                value != UNANNOTATED or word == value for word, value in zip(sentence.words, values)
            ]
        return [value != UNANNOTATED for value in values]

    def read(self, path: str) -> list[Sentence]:
        """Return the sentences of a file of this set.

        Raises DataError for a malformed or empty file, ConfigError for a label without its column.
        """
        sentences = list(self._sentences(path))
        if not sentences:
            raise DataError(f"{path} contains no sentence")
        for label in self.labels:
            self._check_label(label, path, sentences[0])
        return sentences

    def _sentences(self, path: str) -> Iterator[Sentence]:
        trees = any(label.is_tree for label in self.labels)
        if self.config.file_format == "conllu":
            return read_conllu(path, trees)
        return read_columns(path, self.config.columns, self.config.separator, trees)

    def _check_label(self, label: Label, path: str, sentence: Sentence) -> None:
        if label.is_tree:
            if sentence.heads is None:
                raise DataError(f"{path} has no heads, and {self.key} has the tree '{label.name}'")
        elif label.column not in sentence.columns:
            raise ConfigError(
                f"{self.key}.labels",
                f"{path} has no column '{label.column}'{did_you_mean(label.column, sentence.columns)}",
            )


def labelled_sets(data: Mapping[str, object]) -> dict[str, LabelledSet]:
    """Return the sets that `task.data` describes. ConfigError names the key."""
    sets = {}
    for name, values in data.items():
        key = f"task.data.{name}"
        if not isinstance(values, Mapping):
            raise ConfigError(
                key, f"expected {{path: FILE, labels: {{NAME: COLUMN}}}}, got {values!r}"
            )
        sets[name] = LabelledSet(name, _config_of(values, key))
    return sets


def _config_of(values: Mapping[str, object], key: str) -> LabelledSet.Config:
    """Return the checked options of a labelled set. Raises ConfigError at the option that is wrong."""
    schema = {spec.name: spec for spec in schema_of(LabelledSet.Config)}
    for name in values:
        if name not in schema:
            remedy = did_you_mean(name, schema)
            raise ConfigError(f"{key}.{name}", f"a labelled set has no option '{name}'{remedy}")
    for name, spec in schema.items():
        if spec.required and name not in values:
            raise ConfigError(f"{key}.{name}", f"a labelled set needs this option: {spec.doc}")

    options = {
        name: convert(value, schema[name], f"{key}.{name}") for name, value in values.items()
    }
    try:
        return LabelledSet.Config(**options)
    except ConfigError as error:
        message = str(error).removeprefix(f"{error.key}: ")
        raise ConfigError(f"{key}.{error.key}", message) from None


def shares_of_sets(sets: Mapping[str, LabelledSet], labelled_share: float) -> dict[str, float]:
    """Return the share of each set among all updates. labelled_share: of all labelled updates together."""
    weights = {name: labelled_set.weight for name, labelled_set in sets.items()}
    total = sum(weights.values()) or 1.0
    return {name: labelled_share * weight / total for name, weight in weights.items()}


def without_evaluation(data: Mapping[str, object]) -> dict[str, object]:
    """Return `task.data` without the options that only evaluation reads: files held out, and which words count."""
    evaluation = (*HELD_OUT, "punctuation")
    return {
        name: {key: value for key, value in values.items() if key not in evaluation}
        if isinstance(values, Mapping)
        else values
        for name, values in data.items()
    }
