"""Turning a split of a token store into examples of at most `length` tokens, by random access.

    contiguous   the documents end to end, each followed by [SEP], cut every `length` tokens; blocks cross documents
    within       the same, but a block stops at the end of its document
    document     one document each, truncated
    pairs        blocks of one document, cut in two at the sentence boundary nearest the middle; segments 0 and 1

An example is a row of token ids with [CLS] first and [SEP] last (`placement` says which of the two are set). Nothing is
precomputed per token; `within` and `pairs` keep one number per document.

Letters: B examples, T positions.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fwk.data.store import Split
from fwk.errors import ConfigError, DataError

KINDS = ("contiguous", "within", "document", "pairs")
PLACEMENTS = ("cls_sep", "cls", "sep", "none")


@dataclass(frozen=True)
class Example:
    """ids: int64 [T]. second: where segment 1 begins (T: there is none)."""

    ids: np.ndarray
    second: int


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How examples are laid out: kind of blocks, longest example, which special tokens frame it."""

    kind: str
    length: int
    cls: int
    sep: int
    placement: str = "cls_sep"

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
        """Special tokens in front."""
        return int("cls" in self.placement.split("_"))

    @property
    def after(self) -> int:
        """Special tokens at the end."""
        return int("sep" in self.placement.split("_"))

    @property
    def body(self) -> int:
        """Tokens of text an example has room for."""
        return self.length - self.before - self.after - (self.kind == "pairs")

    def frame(self, parts: Sequence[np.ndarray]) -> Example:
        """One or two parts of text -> an example; a [SEP] stands between two."""
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
    """Examples of one split by number: `len(blocks)`, `blocks[i]`. Pickles to workers as paths."""

    def __init__(self, split: Split, layout: Layout, name: str = ""):
        self.split, self.layout, self.name = split, layout, name or split.name
        if not split.tokens:
            raise DataError(f"the split '{split.name}' of the token store has no tokens")

    def __getstate__(self) -> dict[str, Any]:
        return {"split": self.split, "layout": self.layout, "name": self.name}

    @cached_property
    def _stream_ends(self) -> np.ndarray:
        """Length of the stream after each shard, a [SEP] after every document included. int64 [shards + 1]."""
        return self.split.token_ends + self._separators * self.split.document_ends

    @property
    def _separators(self) -> int:
        return int(self.layout.sep >= 0)

    @cached_property
    def _block_ends(self) -> np.ndarray:
        """Blocks after each document, int64 [documents + 1]."""
        blocks = -(-self.split.lengths() // self.layout.body)
        return np.concatenate([[0], np.cumsum(blocks)])

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
        kind, layout = self.layout.kind, self.layout
        if kind == "contiguous":
            start = index * layout.body
            part = self._stream(start, min(start + layout.body, int(self._stream_ends[-1])))
            if layout.after and len(part) > 1 and part[-1] == layout.sep:
                part = part[:-1]  # the block ends with a document: one [SEP] says so
            return layout.frame([part])
        if kind == "document":
            return layout.frame([self.split.document(index)[: layout.body]])
        document = bisect_right(self._block_ends, index) - 1
        start = (index - int(self._block_ends[document])) * layout.body
        part = self.split.document(document)[start : start + layout.body]
        if kind == "within":
            return layout.frame([part])
        if len(part) < 2:
            return layout.frame([part])
        cuts = self.split.sentence_starts(document) - start
        cuts = cuts[(cuts > 0) & (cuts < len(part))]
        middle = len(part) // 2
        cut = int(cuts[np.abs(cuts - middle).argmin()]) if len(cuts) else middle
        return layout.frame([part[:cut], part[cut:]])

    def many(self, indices: Sequence[int]) -> list[Example]:
        self.split.look_again()
        return [self[index] for index in indices]

    def _stream(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) of the documents end to end, a [SEP] after each (where there is one). int64 [n]."""
        out: list[np.ndarray] = []
        shard = bisect_right(self._stream_ends, start) - 1
        separator = np.array([self.layout.sep])
        s = self._separators
        while start < stop:
            base = int(self._stream_ends[shard])
            tokens, starts = self.split.map(shard, "tokens"), self.split.map(shard, "documents")
            documents = len(starts) - 1
            d = (
                bisect_right(range(documents), start - base, key=lambda i: int(starts[i]) + s * i)
                - 1
            )
            end_of_shard = int(self._stream_ends[shard + 1])
            while start < min(stop, end_of_shard):
                first, last = int(starts[d]), int(starts[d + 1])
                inside = start - base - s * d  # where in the shard's tokens
                upto = min(last, inside + stop - start)
                if inside < upto:
                    out.append(tokens[inside:upto])
                    start += upto - inside
                if s and start < stop and start - base - s * d == last:
                    out.append(separator)
                    start += 1
                d += 1
                assert first <= inside <= last
            shard += 1
        return np.concatenate(out).astype(np.int64)

    def padding_share(self, sample: int = 2000) -> float:
        """Share of positions that are padding when every example is padded to `length`, over evenly spaced examples."""
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
    """Examples -> tokens int64 [B, T], mask bool [B, T], special bool [B, T], segments int64 [B, T].

    T is `length`, or without one the longest example's length rounded up to a `multiple`.
    """
    longest = max((len(e.ids) for e in examples), default=0)
    T = length if length is not None else -(-longest // multiple) * multiple
    B = len(examples)
    lengths = np.array([len(e.ids) for e in examples], dtype=np.int64)[:, None]  # [B, 1]
    seconds = np.array([e.second for e in examples], dtype=np.int64)[:, None]
    where = np.arange(T)
    mask = where < lengths
    tokens = np.full((B, T), max(pad, 0), np.int64)
    if B:
        tokens[mask] = np.concatenate([e.ids for e in examples])
    segments = (mask & (where >= seconds)).astype(np.int64)
    is_special = mask & np.isin(tokens, np.asarray(special))
    return {"tokens": tokens, "mask": mask, "special": is_special, "segments": segments}
