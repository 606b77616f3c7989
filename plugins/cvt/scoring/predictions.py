"""Predictions in files that the official scorers read, and in a form for people."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fwk.contracts.plain import PlainDict
from fwk.files import write_atomically
from fwk_plugins.cvt.corpora import tags
from fwk_plugins.cvt.corpora.label_spaces import LabelSpaces
from fwk_plugins.cvt.corpora.labelled_sets import WORDS, Label, LabelledSet
from fwk_plugins.cvt.corpora.readers import Sentence
from fwk_plugins.cvt.corpora.writers import write_columns, write_conllu

Columns = dict[str, tuple[Any, ...]]  # name -> a text per word; heads are numbers
ByExample = Mapping[str, Mapping[int, Tensor]]  # label -> number of the example -> values, [T]


def write_predictions(
    labelled_set: LabelledSet,
    sentences: Sequence[Sentence],
    predictions: ByExample,
    spaces: LabelSpaces,
    path: Path,
) -> None:
    """Write the predictions for one set into a file of its format, in one atomic step.

    A CoNLL-U file holds predictions only: scorers compare it with the gold file, and would count a gold value left in
    place as predicted. A file of columns holds the word, the other columns, and for each label the gold and the
    predicted value, as the scorers of CoNLL expect.
    """
    out = io.StringIO()
    if labelled_set.config.file_format == "conllu":
        _write_conllu(labelled_set, sentences, predictions, spaces, out)
    else:
        _write_columns(labelled_set, sentences, predictions, spaces, out)
    write_atomically(path.resolve(), out.getvalue().encode())


def _write_conllu(
    labelled_set: LabelledSet,
    sentences: Sequence[Sentence],
    predictions: ByExample,
    spaces: LabelSpaces,
    out: io.StringIO,
) -> None:
    written = []
    for number, sentence in enumerate(sentences):
        columns: Columns = {}
        for label in labelled_set.labels:
            columns |= _predicted_columns(label, predictions, number, len(sentence.words), spaces)
        heads = columns.pop("head", None)
        written.append(replace(sentence, columns=columns, heads=heads))
    write_conllu(written, out)


def _write_columns(
    labelled_set: LabelledSet,
    sentences: Sequence[Sentence],
    predictions: ByExample,
    spaces: LabelSpaces,
    out: io.StringIO,
) -> None:
    config, written = labelled_set.config, []
    gold_of: dict[str, str] = {}  # column of predictions -> column of gold values
    for number, sentence in enumerate(sentences):
        columns: Columns = dict(sentence.columns)
        if sentence.heads is not None:
            columns["head"] = sentence.heads
        for label in labelled_set.labels:
            predicted = _predicted_columns(label, predictions, number, len(sentence.words), spaces)
            for name, values in predicted.items():
                column = f"{label.name} predicts {name}"  # two labels may have the same column
                columns[column], gold_of[column] = values, name
        written.append(replace(sentence, columns=columns, heads=None))

    left_out = ("word", "_", *gold_of.values())
    names = ["word", *(name for name in config.columns if name not in left_out)]
    for predicted_column, gold_column in gold_of.items():
        names += [gold_column, predicted_column]
    write_columns(written, names, out, config.separator or " ")


def _predicted_columns(
    label: Label, predictions: ByExample, number: int, words: int, spaces: LabelSpaces
) -> Columns:
    """Return the predictions for one sentence by column of the file; empty for a label without predictions."""

    def values(name: str) -> Tensor:
        return predictions[name][number][:words]

    if label.is_tree and label.part("head") in predictions:
        relation = label.part("relation")
        return {
            "head": tuple(values(label.part("head")).tolist()),
            "deprel": spaces.texts(relation, values(relation)),
        }
    if label.name not in predictions:
        return {}
    texts = spaces.texts(label.name, values(label.name))
    scheme = spaces.schemes.get(label.name)
    return {label.column: tags.convert(texts, "BIOES", scheme) if scheme else texts}


def readable(
    words: Sequence[str],
    labels: Iterable[Label],
    predictions: Mapping[str, Tensor],
    spaces: LabelSpaces,
) -> PlainDict:
    """Return the predictions for one text: {words, LABEL: a value per word}.

    A label of spans has a list of {type, start, stop, words}, where `stop` is the word after the last one. A tree has
    {heads, relations}, where heads are numbers of words from 1, or 0 for ROOT.
    """
    result: PlainDict = {WORDS: list(words)}
    for label in labels:
        if label.is_tree and label.part("head") in predictions:
            relation = label.part("relation")
            result[label.name] = {
                "heads": predictions[label.part("head")][: len(words)].tolist(),
                "relations": list(spaces.texts(relation, predictions[relation][: len(words)])),
            }
        elif label.name in predictions:
            texts = spaces.texts(label.name, predictions[label.name][: len(words)])
            is_spans = label.kind == "spans"
            result[label.name] = _readable_spans(words, texts) if is_spans else list(texts)
    return result


def _readable_spans(words: Sequence[str], values: Sequence[str]) -> list[PlainDict]:
    return [
        {"type": kind, "start": start, "stop": stop, "words": list(words[start:stop])}
        for start, stop, kind in tags.spans_of(values, "BIOES")
    ]
