"""Examples of at most `length` tokens, cut out of a split of a token store by random access.

    contiguous   the documents end to end, each followed by [SEP], cut every `length` tokens; blocks cross documents
    within       the same, but a block stops at the end of its document
    document     one document each, truncated
    pairs        blocks of one document, cut in two at the sentence boundary nearest to the middle; segments 0 and 1

An example is a row of token ids with [CLS] first and [SEP] last; `placement` chooses which of the two are present.
Nothing is precomputed per token; `within` and `pairs` keep one number per document.

Letters: B examples, T positions.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fwk.contracts.plain import PlainDict
from fwk.data.store import Split
from fwk.errors import ConfigError, DataError

KINDS = ("contiguous", "within", "document", "pairs")
PLACEMENTS = ("cls_sep", "cls", "sep", "none")


@dataclass(frozen=True)
class Example:
    """One row of token ids."""

    ids: np.ndarray  # int64 [T]
    second: int  # position where segment 1 begins; T without a segment 1


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The layout of examples. Raises ConfigError where the tokenizer lacks a token that it needs."""

    kind: str  # one of KINDS
    length: int  # tokens of the longest example
    cls: int  # id of [CLS]; negative: the tokenizer has none
    sep: int  # id of [SEP]; negative: the tokenizer has none
    placement: str = "cls_sep"  # one of PLACEMENTS

    def __post_init__(self) -> None:
        if self.cls < 0 and "cls" in self.placement.split("_"):
            raise ConfigError(
                "task.placement",
                f"'{self.placement}' needs a [CLS] token, which the tokenizer does not "
                "have; use sep or none",
            )
        if self.sep < 0 and ("sep" in self.placement.split("_") or self.kind == "pairs"):
            raise ConfigError(
                "task.placement",
                f"'{self.placement}' needs a [SEP] token, which the tokenizer does not "
                "have; use cls or none",
            )
        if self.body < 2:
            raise ConfigError(
                "task.length",
                f"{self.length} leaves {self.body} tokens for text, expected at least 2",
            )

    @property
    def before(self) -> int:
        """The number of special tokens before the text."""
        return int("cls" in self.placement.split("_"))

    @property
    def after(self) -> int:
        """The number of special tokens after the text."""
        return int("sep" in self.placement.split("_"))

    @property
    def body(self) -> int:
        """The number of tokens of text that fit into an example."""
        return self.length - self.before - self.after - (self.kind == "pairs")

    def frame(self, parts: Sequence[np.ndarray]) -> Example:
        """Return one or two parts of text as an example, with a [SEP] between two."""
        ids = [np.array([self.cls])] if self.before else []
        ids.append(parts[0])
        second = self.before + len(parts[0])
        if len(parts) > 1:
            ids += [np.array([self.sep]), parts[1]]
            second += 1
        if self.after:
            ids.append(np.array([self.sep]))
        row = np.concatenate(ids).astype(np.int64)
        return Example(row, second if len(parts) > 1 else len(row))


class Blocks:
    """The examples of one split, by number: `len(blocks)`, `blocks[i]`. Pickles to workers as paths."""

    def __init__(self, split: Split, layout: Layout, name: str = "") -> None:
        self.split, self.layout, self.name = split, layout, name or split.name
        if not split.tokens:
            raise DataError(f"the split '{split.name}' of the token store has no tokens")

    def __getstate__(self) -> PlainDict:
        return {"split": self.split, "layout": self.layout, "name": self.name}

    @cached_property
    def _stream_ends(self) -> np.ndarray:
        """The length of the stream up to each shard, with a [SEP] after every document; int64 [shards + 1]."""
        return self.split.token_ends + self._separators * self.split.document_ends

    @property
    def _separators(self) -> int:
        """The number of [SEP] tokens that follow each document in the stream: 0 or 1."""
        return int(self.layout.sep >= 0)

    @cached_property
    def _block_ends(self) -> np.ndarray:
        """The number of blocks up to each document; int64 [documents + 1]."""
        blocks = -(-self.split.lengths() // self.layout.body)
        return np.concatenate([[0], np.cumsum(blocks)])

    @cached_property
    def cut_off(self) -> int:
        """The number of tokens that truncation throws away."""
        if self.layout.kind != "document":
            return 0
        return int(np.maximum(self.split.lengths() - self.layout.body, 0).sum())

    @cached_property
    def _size(self) -> int:
        if self.layout.kind == "contiguous":
            whole, rest = divmod(int(self._stream_ends[-1]), self.layout.body)
            return whole + (rest > 0)
        if self.layout.kind == "document":
            return self.split.documents
        return int(self._block_ends[-1])

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        layout = self.layout
        if layout.kind == "contiguous":
            return self._contiguous(index)
        if layout.kind == "document":
            return layout.frame([self.split.document(index)[: layout.body]])

        document = bisect_right(self._block_ends, index) - 1
        start = (index - int(self._block_ends[document])) * layout.body
        part = self.split.document(document)[start : start + layout.body]
        if layout.kind == "within" or len(part) < 2:
            return layout.frame([part])
        cut = self._cut(document, start, len(part))
        return layout.frame([part[:cut], part[cut:]])

    def many(self, indices: Sequence[int]) -> list[Example]:
        """Return several examples. Raises DataError where a file of the store has changed."""
        self.split.recheck_files()
        return [self[index] for index in indices]

    def _contiguous(self, index: int) -> Example:
        layout = self.layout
        start = index * layout.body
        part = self._stream(start, min(start + layout.body, int(self._stream_ends[-1])))
        if layout.after and len(part) > 1 and part[-1] == layout.sep:
            part = part[:-1]  # the document's own [SEP] and the one of the frame would repeat it
        return layout.frame([part])

    def _cut(self, document: int, start: int, length: int) -> int:
        """Return where to cut a block in two: at the sentence boundary nearest to its middle, or else in the middle."""
        cuts = self.split.sentence_starts(document) - start
        cuts = cuts[(cuts > 0) & (cuts < length)]
        middle = length // 2
        return int(cuts[np.abs(cuts - middle).argmin()]) if len(cuts) else middle

    def _stream(self, start: int, stop: int) -> np.ndarray:
        """Return tokens [start, stop) of the documents end to end, each followed by a [SEP] if it exists; int64 [n]."""
        parts: list[np.ndarray] = []
        shard = bisect_right(self._stream_ends, start) - 1
        separator = np.array([self.layout.sep])
        separators = self._separators
        while start < stop:
            base = int(self._stream_ends[shard])
            starts = self.split.map(shard, "documents")
            document = self._document_at(start - base, starts)
            end_of_shard = int(self._stream_ends[shard + 1])
            while start < min(stop, end_of_shard):
                first, last = int(starts[document]), int(starts[document + 1])
                offset = start - base - separators * document  # in the shard's tokens
                end = min(last, offset + stop - start)
                if offset < end:
                    parts.append(self.split.tokens_of(shard, offset, end))
                    start += end - offset
                if separators and start < stop and start - base - separators * document == last:
                    parts.append(separator)
                    start += 1
                document += 1
                assert first <= offset <= last
            shard += 1
        return np.concatenate(parts).astype(np.int64)

    def _document_at(self, position: int, starts: np.ndarray) -> int:
        """Return the document of a shard in which a position of the shard's stream lies. starts: of its documents."""
        separators = self._separators

        def place(document: int) -> int:
            return int(starts[document]) + separators * document

        return bisect_right(range(len(starts) - 1), position, key=place) - 1

    def padding_share(self, sample: int = 2000) -> float:
        """Return the share of padding if examples are padded to `length`, estimated from evenly spaced examples."""
        chosen = np.unique(np.linspace(0, len(self) - 1, min(sample, len(self))).astype(np.int64))
        content = sum(len(self[int(i)].ids) for i in chosen)
        return 1.0 - content / (len(chosen) * self.layout.length)


def stack(
    examples: Sequence[Example],
    pad: int,
    special: Sequence[int],
    length: int | None = None,
    multiple: int = 8,
) -> dict[str, np.ndarray]:
    """Return examples as tokens int64 [B, T], mask bool [B, T], special bool [B, T], segments int64 [B, T].

    T is `length`, or else the length of the longest example, rounded up to a `multiple`.
    """
    longest = max((len(e.ids) for e in examples), default=0)
    T = length if length is not None else -(-longest // multiple) * multiple
    B = len(examples)
    lengths = np.array([len(e.ids) for e in examples], dtype=np.int64)[:, None]  # [B, 1]
    seconds = np.array([e.second for e in examples], dtype=np.int64)[:, None]
    positions = np.arange(T)
    mask = positions < lengths  # [B, T]
    tokens = np.full((B, T), max(pad, 0), np.int64)
    if B:
        tokens[mask] = np.concatenate([e.ids for e in examples])
    segments = (mask & (positions >= seconds)).astype(np.int64)
    is_special = mask & np.isin(tokens, np.asarray(special))
    return {"tokens": tokens, "mask": mask, "special": is_special, "segments": segments}
