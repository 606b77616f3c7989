"""Encoded examples of one source, read by number.

A text that is longer than a sequence can hold may be read in windows: overlapping pieces, each of which is an example
of its own. The label of a span belongs to the windows that hold it as a whole; in all others it is absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from fwk.contracts.plain import PlainMapping
from fwk.contracts.task import Source
from fwk.contracts.texts import teacher_label


class Example(NamedTuple):
    """One example, or one window of it."""

    # by name: the token ids, int32 [n] each, of a text (one) or of the elements of a list
    texts: Mapping[str, Sequence[np.ndarray]]
    labels: Mapping[str, np.ndarray]
    number: int = -1  # among the examples of training that demonstrations are drawn from; -1: none


@dataclass(frozen=True)
class EncodedText:
    """One named text of all examples, end to end."""

    ids: np.ndarray  # int32 [tokens]
    starts: np.ndarray  # int64 [texts + 1]
    # int64 [examples + 1], where the list of each example begins among the texts; None: one text per example
    lists: np.ndarray | None = None
    # int32 [tokens, 2], the characters of each token in its text; only of texts with spans
    offsets: np.ndarray | None = None

    def elements(self, number: int) -> range:
        """Return the numbers of an example's texts."""
        if self.lists is None:
            return range(number, number + 1)
        return range(int(self.lists[number]), int(self.lists[number + 1]))

    def of(self, number: int) -> list[np.ndarray]:
        """Return the token ids of an example's texts."""
        starts = self.starts
        return [self.ids[starts[text] : starts[text + 1]] for text in self.elements(number)]

    def longest(self) -> np.ndarray:
        """Return the tokens of each example's longest text, int64 [examples]."""
        sizes = np.diff(self.starts)
        if self.lists is None:
            return sizes
        longest = np.zeros(len(self.lists) - 1, dtype=np.int64)
        owners = np.repeat(np.arange(len(longest)), np.diff(self.lists))
        np.maximum.at(longest, owners, sizes)
        return longest


@dataclass(frozen=True)
class Windows:
    """The windows of one named text: which tokens of which example each of them holds."""

    text: str
    examples: np.ndarray  # int64 [W]
    starts: np.ndarray  # int64 [W], first token
    stops: np.ndarray  # int64 [W]

    @classmethod
    def over(cls, text: str, sizes: np.ndarray, rooms: np.ndarray, stride: int) -> Windows:
        """Return windows of at most `rooms` tokens, int64 [N], that begin `stride` tokens after each other.

        sizes: tokens of the text in each example, int64 [N].
        """
        rooms = np.maximum(rooms, 1)
        steps = np.minimum(stride, rooms)
        counts = 1 + np.maximum(-((rooms - sizes) // steps), 0)  # the last one reaches the end
        examples = np.repeat(np.arange(len(sizes)), counts)
        place = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        starts = place * steps[examples]
        return cls(text, examples, starts, np.minimum(starts + rooms[examples], sizes[examples]))


@dataclass(frozen=True, kw_only=True)
class EncodedExamples(Source):
    """The examples of one source."""

    name: str = ""
    keys: Sequence[str]  # of each example, as its file names it
    texts: Mapping[str, EncodedText]
    labels: Mapping[str, np.ndarray]  # by name, [N, ...]
    spans: Mapping[str, str] = field(
        default_factory=dict
    )  # label -> the text that its spans are in
    windows: Windows | None = None
    raw: Mapping[str, Sequence[str]] = field(default_factory=dict)  # texts with spans, as they were
    extra: Sequence[PlainMapping] = ()  # what evaluation reads of each example
    first: int | None = None  # see `Example.number`: that of the first example
    # int64 [N], 63 bits of a hash of each example's texts and labels; empty where nothing asks for them
    digests: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    # by label: a teacher's outputs for every example, or window, float32 [len(self), ...]
    taught: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys) if self.windows is None else len(self.windows.examples)

    def __getitem__(self, index: int) -> Example:
        if self.windows is None:
            texts = {name: text.of(index) for name, text in self.texts.items()}
            number = -1 if self.first is None else self.first + index
            labels = {name: label[index] for name, label in self.labels.items()}
            return Example(texts, labels | self._taught(index), number)
        return self._window(index)

    def _window(self, index: int) -> Example:
        windows = self.windows
        assert windows is not None
        number, start = int(windows.examples[index]), int(windows.starts[index])
        stop = int(windows.stops[index])
        texts = {name: text.of(number) for name, text in self.texts.items()}
        texts[windows.text] = [ids[start:stop] for ids in texts[windows.text]]
        labels = {name: label[number] for name, label in self.labels.items()}
        for label, text in self.spans.items():
            first, last = labels[label]
            if text == windows.text and first >= 0:
                inside = start <= first and last < stop
                labels[label] = labels[label] - start if inside else np.array([-1, -1])
        return Example(texts, labels | self._taught(index))

    def _taught(self, index: int) -> dict[str, np.ndarray]:
        return {teacher_label(name): outputs[index] for name, outputs in self.taught.items()}

    def example_of(self, index: int) -> int:
        """Return the number of the example that a window belongs to."""
        return index if self.windows is None else int(self.windows.examples[index])

    def counts(self, label: str, classes: int) -> np.ndarray:
        """Return how many examples, or windows of them, have each class of a label, int64 [classes]."""
        values = self.labels[label]
        if self.windows is not None:
            values = values[self.windows.examples]
        return np.bincount(values[values >= 0], minlength=classes)

    def digests_of_rows(self) -> list[int] | None:
        """Return the hash of each example, or of that of each window; None where nothing asked for them."""
        digests = self.digests.tolist()
        return [digests[self.example_of(row)] for row in range(len(self))] if digests else None

    def arrays(self) -> Iterator[np.ndarray]:
        """Yield everything that training reads, for a hash of it."""
        for text in self.texts.values():
            yield from (text.ids, text.starts)
            if text.lists is not None:
                yield text.lists
        yield from self.labels.values()
        yield from self.taught.values()
        if self.windows is not None:
            yield from (self.windows.examples, self.windows.starts, self.windows.stops)

    def sizes(self, names: Sequence[str]) -> np.ndarray:
        """Return the tokens of the texts `names` together, of each example or window; int64 [len(self)]."""
        sizes = np.zeros(len(self), dtype=np.int64)
        for name in names:
            longest = self.texts[name].longest()
            if self.windows is not None:
                longest = longest[self.windows.examples]
                if name == self.windows.text:
                    longest = self.windows.stops - self.windows.starts
            sizes += longest
        return sizes
