"""From records to encoded examples: tokens of every text, and arrays of every label."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fwk.contracts.keyed import fold
from fwk.contracts.plain import PlainMapping
from fwk.data.examples.encoded import EncodedExamples, EncodedText, Windows
from fwk.data.examples.labels import LabelSpace, stacked
from fwk.data.examples.token_cache import FEWEST, keep_tokens, key_of, read_tokens
from fwk.data.labelled import Labelled
from fwk.data.progress import Progress
from fwk.data.tokenizers import Tokenizer
from fwk.errors import DataError, did_you_mean

_CONTENT = json.JSONEncoder(sort_keys=True, default=str)  # of an example, for a hash of it
TEXTS_PER_CALL = 2048  # of the tokenizer


@dataclass(frozen=True)
class TextSpec:
    """A named text of the task."""

    name: str
    is_list: bool = False
    has_spans: bool = False  # a label marks spans in it
    behind_space: str = ""  # the text of which this is another encoding, behind a space
    longest: int | None = None  # tokens of it that are read; None: all


def encode_records(
    records: Sequence[Labelled],
    name: str,
    texts: Sequence[TextSpec],
    labels: Sequence[LabelSpace],
    tokenizer: Tokenizer,
    progress: Progress | None = None,
) -> EncodedExamples:
    """Return the examples of one source. Raises DataError, with the place, for a label that does not fit."""
    encoded = {spec.name: _encoded_text(records, spec, tokenizer, progress) for spec in texts}
    return EncodedExamples(
        name=name,
        keys=[record.key for record in records],
        texts=encoded,
        labels={space.name: _encoded_label(records, space, encoded) for space in labels},
        spans={space.name: space.text for space in labels if space.kind == "span"},
        raw={
            spec.name: [str(record.texts[spec.name]) for record in records]
            for spec in texts
            if spec.has_spans
        },
        extra=[_extra(record, labels) for record in records],
    )


def with_digests(
    encoded: Mapping[str, EncodedExamples], records: Mapping[str, Sequence[Labelled]]
) -> dict[str, EncodedExamples]:
    """Return sources with 63 bits of a hash of the texts and labels of each record."""
    return {
        name: replace(
            examples,
            digests=np.array(
                [
                    fold(0, "example", _CONTENT.encode([record.texts, record.labels])) >> 1
                    for record in records[name]
                ],
                dtype=np.int64,
            ),
        )
        for name, examples in encoded.items()
    }


def _extra(record: Labelled, labels: Sequence[LabelSpace]) -> PlainMapping:
    """Return what evaluation reads of a record: with the characters of its answer, where it has one."""
    spans = [record.labels.get(space.name) for space in labels if space.kind == "span"]
    return {**record.extra, "span": spans[0]} if spans else record.extra


def _encoded_text(
    records: Sequence[Labelled], spec: TextSpec, tokenizer: Tokenizer, progress: Progress | None
) -> EncodedText:
    lists = [0]
    texts: list[str] = []
    for record in records:
        texts += _elements(record, spec)
        lists.append(len(texts))
    key, encoded = "", None
    if len(texts) >= FEWEST:
        key = key_of(texts, tokenizer.fingerprint, spec.longest, spec.has_spans)
        encoded = read_tokens(key, len(texts))
    if encoded is None:
        encoded = _tokenized(texts, spec, tokenizer, progress)
        if key:
            keep_tokens(key, encoded)
    elif progress is not None:
        progress.advance(len(texts))
    return replace(encoded, lists=np.array(lists, dtype=np.int64) if spec.is_list else None)


def _tokenized(
    texts: Sequence[str], spec: TextSpec, tokenizer: Tokenizer, progress: Progress | None
) -> EncodedText:
    """Return the tokens of texts, one after another."""
    ids, sizes, offsets = array("i"), [0], []
    for start in range(0, len(texts), TEXTS_PER_CALL):
        part = texts[start : start + TEXTS_PER_CALL]
        if spec.has_spans:
            for tokens, characters in tokenizer.encode_with_offsets(part):
                ids.extend(tokens)
                sizes.append(len(tokens))
                offsets.append(np.array(characters, dtype=np.int32).reshape(-1, 2))
        else:
            for tokens in tokenizer.encode_batch(part):
                ids.extend(tokens[: spec.longest])
                sizes.append(len(tokens[: spec.longest]))
        if progress is not None:
            progress.advance(len(part))
    return EncodedText(
        ids=np.frombuffer(ids, dtype=np.int32) if ids else np.zeros(0, dtype=np.int32),
        starts=np.cumsum(sizes, dtype=np.int64),
        offsets=np.concatenate(offsets) if offsets else None,
    )


def _elements(record: Labelled, spec: TextSpec) -> tuple[str, ...]:
    """Return a text of a record: its elements, or one. Raises DataError where it is missing, or of another shape."""
    name = spec.behind_space or spec.name
    if name not in record.texts:
        raise DataError(
            f"{record.place}: there is no text '{name}', which the model reads"
            f"{did_you_mean(name, record.texts)}"
        )
    value = record.texts[name]
    if isinstance(value, str) == spec.is_list:
        expected = "a list of texts" if spec.is_list else "one text"
        raise DataError(f"{record.place}: '{spec.name}' is {value!r:.80}, expected {expected}")
    if not isinstance(value, str):
        return value
    return (f" {value}" if spec.behind_space else value,)


def _encoded_label(
    records: Sequence[Labelled], space: LabelSpace, texts: Mapping[str, EncodedText]
) -> np.ndarray:
    arrays = []
    for number, record in enumerate(records):
        value = record.labels.get(space.name)
        if space.kind == "span" and value is not None:
            value = token_span(texts[space.text], number, *value)
        arrays.append(space.encoded(value, record.place))
    return stacked(arrays, space)


def token_span(text: EncodedText, number: int, start: int, stop: int) -> tuple[int, int] | None:
    """Return the first and last token of the characters [start, stop) of a text; None where no token covers them."""
    assert text.offsets is not None
    offsets = text.offsets[text.starts[number] : text.starts[number + 1]]
    covering = np.flatnonzero((offsets[:, 1] > start) & (offsets[:, 0] < stop))
    return (int(covering[0]), int(covering[-1])) if len(covering) else None


def in_windows(
    examples: EncodedExamples, text: str, order: Sequence[str], room: int, stride: int
) -> EncodedExamples:
    """Return the examples with one text read in windows.

    order: the texts of a sequence. room: tokens of text in a sequence; `text` has what the others leave.
    """
    others = [name for name in order if name != text]
    rooms = room - examples.sizes(others)
    sizes = examples.texts[text].longest()
    windows = Windows.over(text, sizes, rooms, stride)
    return EncodedExamples(**{**vars(examples), "windows": windows})
