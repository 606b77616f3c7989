"""Named texts of a batch, and how a view renders them as sequences of tokens.

An example of a labelled task is a group of named texts, such as a question and a passage. A view of the batch states
the texts that it renders (`fields`), in order:

    [CLS] question [SEP] passage [SEP]        fields: [question, passage]
    [CLS] question [SEP]                      fields: [question]

A named text may be a list, such as the choices of a question. A view that renders one has a row per element; the rows
of one example follow each other and have the same draw.

Letters: B examples, R rows, F fields, T positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fwk.contracts.views import Batch, View
from fwk.errors import ConfigError, did_you_mean

LONGEST_FIRST = "longest_first"
NO_POSITION = -1  # of a span that the rendered sequence does not hold


@dataclass(frozen=True)
class NamedText:
    """The token ids of one named text of B examples, end to end."""

    ids: np.ndarray  # int32 [sum of sizes]
    starts: np.ndarray  # int64 [N + 1], where each text begins; the last entry is the end
    # int64 [N], ascending: the example that each element of a list belongs to; None: one text per example
    owners: np.ndarray | None = None

    @classmethod
    def of(cls, texts: Sequence[Sequence[np.ndarray]], is_list: bool) -> NamedText:
        """Return the texts of B examples. texts: by example, its elements; one where it is no list."""
        parts = [element for elements in texts for element in elements]
        sizes = [len(part) for part in parts]
        ids = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)
        starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        owners = None
        if is_list:
            owners = np.repeat(np.arange(len(texts)), [len(elements) for elements in texts])
        return cls(ids.astype(np.int32, copy=False), starts.astype(np.int64), owners)

    @property
    def sizes(self) -> np.ndarray:
        """The tokens of each text, int64 [N]."""
        return np.diff(self.starts)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The special tokens around rendered texts, and how texts are cut to the longest sequence."""

    before: tuple[int, ...]  # ids before the first text
    between: tuple[int, ...]  # ids between two texts
    after: tuple[int, ...]  # ids after the last text
    pad: int  # the id of padding
    special: tuple[int, ...]  # ids that no noiser changes
    segments: tuple[int, ...] = (0, 1)  # segment of the first text, and of all others
    length: int  # tokens of the longest sequence
    # the text that is cut first; LONGEST_FIRST: tokens are taken from the longest
    truncate: str = LONGEST_FIRST

    def overhead(self, fields: int) -> int:
        """Return the number of special tokens around so many texts."""
        return len(self.before) + (fields - 1) * len(self.between) + len(self.after)

    def cut(self, sizes: np.ndarray, fields: Sequence[str]) -> np.ndarray:
        """Return how many tokens of each text remain, int64 [F, R]. sizes: int64 [F, R], before cutting."""
        room = self.length - self.overhead(len(fields))
        excess = np.maximum(sizes.sum(0) - room, 0)  # [R]
        if not excess.any():
            return sizes
        sizes = sizes.copy()
        if self.truncate in fields:
            row = list(fields).index(self.truncate)
            taken = np.minimum(sizes[row], excess)
            sizes[row] -= taken
            excess = excess - taken
        too_long = np.flatnonzero(excess)
        sizes[:, too_long] = longest_first(sizes[:, too_long], room)
        return sizes


def longest_first(sizes: np.ndarray, room: int) -> np.ndarray:
    """Return sizes, int64 [F, R], of at most `room` in each column, after taking tokens from the longest text.

    No text is cut below what every text can keep; of a remainder, longer texts keep one token more, later ones first.
    """
    F, R = sizes.shape
    ordered = np.sort(sizes, axis=0)  # [F, R], shortest first
    before = np.concatenate([np.zeros((1, R), np.int64), ordered.cumsum(0)[:-1]])  # [F, R]
    remaining = np.arange(F, 0, -1)[:, None]
    shares = (room - before) // remaining  # what each of the texts from here on could keep
    # the first text that does not fit limits all longer ones
    limited = ordered > shares
    first = limited.argmax(0)  # [R]
    columns = np.arange(R)
    cap = np.where(limited.any(0), np.maximum(shares[first, columns], 0), ordered[-1])  # [R]
    cut = np.minimum(sizes, cap)
    spare = np.maximum(room, 0) - cut.sum(0)
    # by size, then by place: the last of them are the longest and latest
    order = np.lexsort((np.broadcast_to(np.arange(F)[:, None], sizes.shape), sizes), axis=0)
    for place in range(F - 1, -1, -1):
        row = order[place]
        more = (spare > 0) & (sizes[row, columns] > cut[row, columns])
        cut[row, columns] += more
        spare = spare - more
    return cut


@dataclass(frozen=True)
class Span:
    """A label that marks tokens of one text."""

    text: str
    tokens: Tensor  # int64 [B, 2], the first and the last token; -1: none


def tokens_label(label: str) -> str:
    """Return the name of the label that says which token of its text stands at each position, int64 [R, T]; -1: none.

    Every rendered view has it beside a label of spans.
    """
    return f"{label} tokens"


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The named texts of a batch. It stays on the CPU, where views are rendered."""

    fields: Mapping[str, NamedText]
    frame: Frame
    spans: Mapping[str, Span] = field(default_factory=dict)  # by label

    def rendered(self, batch: Batch, fields: Sequence[str], key: str = "fields") -> View:
        """Return the view of a batch that renders these texts. key: where they are named, for errors."""
        names = tuple(fields)
        rows = self._rows(names, len(batch), key)  # int64 [R]
        texts = [self.fields[name] for name in names]
        elements = [rows if text.owners is None else np.arange(len(text.owners)) for text in texts]
        sizes = np.stack([text.sizes[index] for text, index in zip(texts, elements)])  # [F, R]
        sizes = self.frame.cut(sizes, names)
        layout = _Layout.of(sizes, self.frame)
        tokens, segments = layout.blank(), np.zeros(layout.shape, dtype=np.int64)
        for number, (text, index) in enumerate(zip(texts, elements)):
            layout.fill(tokens, number, text, index)
            layout.fill_segment(segments, number)
        return self._view(batch, names, rows, layout, tokens, segments)

    def _view(
        self,
        batch: Batch,
        names: tuple[str, ...],
        rows: np.ndarray,
        layout: _Layout,
        tokens: np.ndarray,
        segments: np.ndarray,
    ) -> View:
        inputs = {"tokens": torch.from_numpy(tokens)}
        if len(names) > 1:
            inputs["segments"] = torch.from_numpy(segments)
        mask = layout.mask()
        index = torch.from_numpy(rows)
        labels = {name: label[index] for name, label in batch.labels.items()}
        for label, span in self.spans.items():
            number = names.index(span.text) if span.text in names else None
            labels[label] = layout.positions_of(span.tokens[index], number)
            labels[tokens_label(label)] = torch.from_numpy(layout.tokens_of(number))
        return View(
            name="batch",
            draws=batch.draws[index],
            inputs=inputs,
            mask=torch.from_numpy(mask),
            special=torch.from_numpy(np.isin(tokens, self.frame.special)),
            labels=labels,
            source=None if batch.source is None else batch.source[index],
            target=inputs["tokens"],
            padded=not bool(mask.all()),
        )

    def _rows(self, names: Sequence[str], examples: int, key: str) -> np.ndarray:
        """Return the example of each row, int64 [R]. Raises ConfigError for names that cannot be rendered."""
        for name in names:
            if name not in self.fields:
                raise ConfigError(
                    key, f"the task has no text '{name}'{did_you_mean(name, self.fields)}"
                )
        lists = [name for name in names if self.fields[name].owners is not None]
        if len(lists) > 1:
            raise ConfigError(
                key,
                f"{' and '.join(lists)} are both lists, and a view has a row per element of one",
            )
        owners = self.fields[lists[0]].owners if lists else None
        return np.arange(examples) if owners is None else owners


@dataclass(frozen=True)
class _Layout:
    """Where the texts of R rows stand."""

    sizes: np.ndarray  # int64 [F, R], tokens of each text
    starts: np.ndarray  # int64 [F, R], its first position
    lengths: np.ndarray  # int64 [R], with special tokens
    frame: Frame

    @classmethod
    def of(cls, sizes: np.ndarray, frame: Frame) -> _Layout:
        step = sizes + len(frame.between)
        starts = len(frame.before) + step.cumsum(0) - step
        return cls(sizes, starts, sizes.sum(0) + frame.overhead(len(sizes)), frame)

    @property
    def shape(self) -> tuple[int, int]:
        """R and T."""
        return len(self.lengths), int(self.lengths.max()) if len(self.lengths) else 0

    def blank(self) -> np.ndarray:
        """Return padding and the special tokens of the frame, int64 [R, T]."""
        frame, tokens = self.frame, np.full(self.shape, self.frame.pad, dtype=np.int64)
        rows = np.arange(len(tokens))
        for number, token in enumerate(frame.before):
            tokens[:, number] = token
        for start, size in zip(self.starts[:-1], self.sizes[:-1]):
            for number, token in enumerate(frame.between):
                tokens[rows, start + size + number] = token
        for number, token in enumerate(frame.after):
            tokens[rows, self.lengths - len(frame.after) + number] = token
        return tokens

    def mask(self) -> np.ndarray:
        """Return True on content, bool [R, T]."""
        return np.arange(self.shape[1]) < self.lengths[:, None]

    def fill(self, tokens: np.ndarray, number: int, text: NamedText, index: np.ndarray) -> None:
        """Write a text into `tokens`, int64 [R, T]. index: int64 [R], the element that each row holds."""
        sizes = self.sizes[number]
        offset = np.arange(sizes.sum()) - np.repeat(sizes.cumsum() - sizes, sizes)
        row = np.repeat(np.arange(len(sizes)), sizes)
        source = np.repeat(text.starts[index], sizes) + offset
        tokens[row, np.repeat(self.starts[number], sizes) + offset] = text.ids[source]

    def fill_segment(self, segments: np.ndarray, number: int) -> None:
        """Write the segment of a text and of the special tokens behind it."""
        segment = self.frame.segments[min(number, len(self.frame.segments) - 1)]
        if segment:
            here = np.arange(self.shape[1]) >= self.starts[number][:, None]
            segments[here & self.mask()] = segment

    def tokens_of(self, number: int | None) -> np.ndarray:
        """Return the token of a text at each position, int64 [R, T]; NO_POSITION elsewhere. None: of no text."""
        if number is None:
            return np.full(self.shape, NO_POSITION)
        tokens = np.arange(self.shape[1]) - self.starts[number][:, None]
        inside = (tokens >= 0) & (tokens < self.sizes[number][:, None])
        return np.where(inside, tokens, NO_POSITION)

    def positions_of(self, spans: Tensor, number: int | None) -> Tensor:
        """Return spans of a text, int64 [R, 2], as positions of the rendered rows.

        A span that a row does not hold as a whole, or that does not exist, is NO_POSITION twice.
        """
        if number is None:
            return torch.full_like(spans, NO_POSITION)
        start = torch.from_numpy(self.starts[number])[:, None]
        inside = (spans[:, :1] >= 0) & (
            spans[:, 1:] < torch.from_numpy(self.sizes[number])[:, None]
        )
        return torch.where(inside, spans + start, torch.full_like(spans, NO_POSITION))
