"""The values of labels, as numbers: from training sentences to label spaces, and from gold values to tensors.

A value that training never saw has a number below `ABSENT`, so that evaluation can count it as wrong, or compare
relations without their subtypes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from fwk.errors import ConfigError, DataError, did_you_mean
from fwk_plugins.cvt.corpora import tags
from fwk_plugins.cvt.corpora.labelled_sets import UNANNOTATED, Label, LabelledSet
from fwk_plugins.cvt.corpora.readers import Sentence
from fwk_plugins.cvt.corpora.tags import Scheme

ABSENT = -1  # the sentence does not have the label
UNSEEN = -2  # training never saw the value
UNSEEN_CONTINUED = (
    -3
)  # training never saw the tag, and it continues the span that an unseen tag began
# training never saw the relation, but it saw relation number n with another subtype: SUBTYPE_UNSEEN - n
SUBTYPE_UNSEEN = -4

PREFIXES = tags.PREFIXES["BIOES"]  # tags are BIOES inside the model, whatever the file has
TAG = re.compile(f"O|[{PREFIXES}]-.+", re.DOTALL)
Sentences = Mapping[str, Sequence[Sentence]]  # by labelled set


class LabelSpaces:
    """The values of every label, and how gold values become numbers."""

    def __init__(
        self, values: Mapping[str, tuple[str, ...]], schemes: Mapping[str, Scheme]
    ) -> None:
        """Take the values of each label, and the schemes of the files for labels that mark spans.

        A tree has the labels `LABEL_head` (without values), `LABEL_scored` and `LABEL_relation`.
        """
        self.values, self.schemes = dict(values), dict(schemes)
        self._numbers = {
            label: {value: number for number, value in enumerate(values)}
            for label, values in self.values.items()
        }

    @classmethod
    def from_sentences(
        cls, sets: Iterable[LabelledSet], train: Sentences, held_out: Iterable[Sentences]
    ) -> LabelSpaces:
        """Return the label spaces of the training sentences; schemes are detected in all sentences.

        Raises ConfigError where two sets have a label of the same name.
        """
        splits = [train, *held_out]
        values: dict[str, tuple[str, ...]] = {}
        schemes: dict[str, Scheme] = {}
        for labelled_set in sets:
            for label in labelled_set.labels:
                if label.name in values or label.part("head") in values:
                    raise ConfigError(
                        f"{labelled_set.key}.labels.{label.name}",
                        "another set has a label of this name; choose another one",
                    )
                sentences = train[labelled_set.name]
                if label.is_tree:
                    values |= _tree_values(label, sentences)
                    continue
                if label.kind == "spans":
                    everything = [s for split in splits for s in split.get(labelled_set.name, [])]
                    schemes[label.name] = tags.detect_scheme(
                        [s.columns[label.column] for s in everything],
                        [s.place for s in everything],
                    )
                values[label.name] = _column_values(
                    label, labelled_set, sentences, schemes.get(label.name)
                )
        return cls(values, schemes)

    def check_has(self, labelled_set: LabelledSet, where: Path) -> None:
        """Raise DataError where a label of this set is missing. where: the file that these label spaces are from."""
        for label in labelled_set.labels:
            if (label.part("relation") if label.is_tree else label.name) not in self.values:
                raise DataError(
                    f"{where} does not contain the label '{label.name}' of {labelled_set.key}"
                    f"{did_you_mean(label.name, self.values)}"
                )

    def texts(self, label: str, numbers: Tensor) -> tuple[str, ...]:
        """Return the values of predicted numbers, int64 [n]."""
        return tuple(self.values[label][number] for number in numbers.tolist())

    def encode(self, sentence: Sentence, labelled_set: LabelledSet) -> dict[str, np.ndarray]:
        """Return the gold values of a sentence's labels, int32 [n] each."""
        encoded: dict[str, np.ndarray] = {}
        for label in labelled_set.labels:
            if label.is_tree:
                encoded |= self._encode_tree(label, sentence, labelled_set)
            else:
                values = _converted(sentence, label, self.schemes.get(label.name))
                numbers = [self._numbers[label.name].get(value) for value in values]
                if None in numbers:
                    numbers = _replace_none(numbers, unseen_tags(values))
                annotated = labelled_set.annotated(sentence, label)
                encoded[label.name] = np.where(annotated, np.array(numbers, dtype=np.int32), ABSENT)
        return encoded

    def _encode_tree(
        self, label: Label, sentence: Sentence, labelled_set: LabelledSet
    ) -> dict[str, np.ndarray]:
        if sentence.heads is None:
            raise DataError(
                f"{sentence.place} begins a sentence without heads, and the label '{label.name}' is a tree"
            )
        name, relations = label.part("relation"), sentence.columns["deprel"]
        if labelled_set.config.file_format == "conllu" and UNANNOTATED in relations:
            word = relations.index(UNANNOTATED)
            raise DataError(
                f"{sentence.place} begins a sentence whose word {word + 1} ('{sentence.words[word]}') has no relation "
                f"({UNANNOTATED}), and the label '{label.name}' is a tree"
            )
        numbers = [self._numbers[name].get(relation) for relation in relations]
        if None in numbers:
            unseen = [unseen_relation(relation, self.values[name]) for relation in relations]
            numbers = _replace_none(numbers, unseen)
        scored = scored_words(sentence.columns, labelled_set.config.punctuation)
        return {
            label.part("head"): np.array(sentence.heads, dtype=np.int32),
            label.part("scored"): np.array(scored, dtype=np.int32),
            name: np.array(numbers, dtype=np.int32),
        }


def _tree_values(label: Label, sentences: Sequence[Sentence]) -> dict[str, tuple[str, ...]]:
    """Return the label spaces of a tree: heads are numbers of words, and have no values."""
    relations = {relation for s in sentences for relation in s.columns["deprel"]}
    return {
        label.part("head"): (),
        label.part("scored"): ("punctuation", "word"),  # what UAS and LAS leave out, and count
        label.part("relation"): tuple(sorted(relations)),
    }


def _column_values(
    label: Label, labelled_set: LabelledSet, sentences: Sequence[Sentence], scheme: Scheme | None
) -> tuple[str, ...]:
    """Return the values of a column. A type of spans has all of its tags, even those that training never saw.

    Raises DataError where no word is annotated.
    """
    values = {
        value
        for s in sentences
        for value, known in zip(_converted(s, label, scheme), labelled_set.annotated(s, label))
        if known
    }
    if sentences and values <= {UNANNOTATED}:
        raise DataError(
            f"{labelled_set.config.path}: the column '{label.column}' is not annotated (every value is "
            f"{UNANNOTATED}), so {labelled_set.key}.labels.{label.name} has nothing to learn"
        )
    if label.kind == "spans":
        kinds = {value[2:] for value in values if value != "O"}
        values = {"O", *(f"{prefix}-{kind}" for kind in kinds for prefix in PREFIXES)}
    return tuple(sorted(values))


def _converted(sentence: Sentence, label: Label, scheme: Scheme | None) -> Sequence[str]:
    """Return the values of a column; tags that mark spans are converted to BIOES."""
    values = sentence.columns[label.column]
    return tags.convert(values, scheme, "BIOES", sentence.place) if scheme else values


def _replace_none(numbers: Sequence[int | None], replacements: Sequence[int]) -> list[int | None]:
    return [
        replacement if number is None else number
        for number, replacement in zip(numbers, replacements)
    ]


def unseen_tags(values: Sequence[str]) -> list[int]:
    """Return the number of each tag of a sentence in case training never saw it."""
    if all(TAG.fullmatch(value) for value in values):
        beginnings = {start for start, _, _ in tags.spans_of(values, "BIOES")}
    else:
        beginnings = set(range(len(values)))
    return [UNSEEN if word in beginnings else UNSEEN_CONTINUED for word in range(len(values))]


def unseen_relation(relation: str, known: Sequence[str]) -> int:
    """Return the number of a relation that training never saw."""
    universal = relation.partition(":")[0]
    for number, other in enumerate(known):
        if other.partition(":")[0] == universal:
            return SUBTYPE_UNSEEN - number
    return UNSEEN


def scored_words(
    columns: Mapping[str, Sequence[str]], xpos: Collection[str] = ()
) -> tuple[bool, ...]:
    """Return which words count for attachment: all but punctuation.

    Punctuation has upos PUNCT, or one of the xpos tags that are given. Results on the Penn Treebank leave out the tags
    ``, '', the comma, the colon and the period, but no brackets. Raises DataError where the column is missing.
    """
    name, left_out = ("xpos", xpos) if xpos else ("upos", ("PUNCT",))
    if name not in columns:
        raise DataError(
            f"the column {name}, which marks punctuation, is missing{did_you_mean(name, columns)}"
        )
    return tuple(tag not in left_out for tag in columns[name])
