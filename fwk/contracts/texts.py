"""Named texts of a batch, and how a view renders them as sequences of tokens.

An example of a labelled task is a group of named texts, such as a question and a passage. A view of the batch states
the texts that it renders (`fields`), in order:

    [CLS] question [SEP] passage [SEP]        fields: [question, passage]
    [CLS] question [SEP]                      fields: [question]

A named text may be a list, such as the choices of a question. A view that renders one has a row per element; the rows
of one example follow each other and have the same draw.

A view may also name a prompt (`fwk/contracts/prompts.py`), whose mask is its chosen position.

Letters: B examples, R rows, P parts of a sequence, F texts among them that can be cut, S sets of demonstrations,
T positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fwk.contracts.prompts import Prompt
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

    def cut(self, sizes: np.ndarray, fields: Sequence[str], room: int) -> np.ndarray:
        """Return how many tokens of each text remain, int64 [F, R], `room` at most in each row.

        sizes: int64 [F, R], before cutting. fields: the names of the texts, of which several may have one name.
        """
        excess = np.maximum(sizes.sum(0) - room, 0)  # [R]
        if not excess.any():
            return sizes
        sizes = sizes.copy()
        named = [number for number, name in enumerate(fields) if name == self.truncate]
        if named:
            before = sizes[named].sum(0)
            sizes[named] = longest_first(sizes[named], np.maximum(before - excess, 0))
            excess = excess - (before - sizes[named].sum(0))
        too_long = np.flatnonzero(excess)
        sizes[:, too_long] = longest_first(sizes[:, too_long], room)
        return sizes


def longest_first(sizes: np.ndarray, room: int | np.ndarray) -> np.ndarray:
    """Return sizes, int64 [F, R], of at most `room` in each column, after taking tokens from the longest text.

    room: for all columns, or int64 [R].

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


def teacher_label(label: str) -> str:
    """Return the name of the label that holds a teacher's outputs for another, as `Criterion.teach` gives them."""
    return f"{label} teacher"


@dataclass(frozen=True)
class Demonstrations:
    """The texts of examples that demonstrate classes in the prompts of a batch."""

    texts: Sequence[Mapping[str, NamedText]]  # by slot of the prompt and by name
    # a prompt has a row per set, and element s of a text belongs to set s; None: element i belongs to example i
    sets: int | None


@dataclass(frozen=True)
class _Part:
    """A part of the sequences of R rows: in each row an element of a text."""

    text: NamedText
    elements: np.ndarray  # int64 [R]
    cut_as: str  # the name under which it loses tokens; empty: it never does
    field: str  # the text of the example itself; empty: it is none
    ends: bool  # whether special tokens stand behind it


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The named texts of a batch. It stays on the CPU, where views are rendered."""

    fields: Mapping[str, NamedText]
    frame: Frame
    spans: Mapping[str, Span] = field(default_factory=dict)  # by label
    prompts: Mapping[str, Prompt] = field(default_factory=dict)  # by name
    demonstrations: Demonstrations | None = None
    # int64 [B], the token that the model is asked for, the original one at the mask; -1: it is unknown
    answers: np.ndarray | None = None

    def with_label_names(self, names: Mapping[str, str]) -> Texts:
        """Return the texts with other names of labels. names: by the name that a label has."""
        return replace(
            self, spans={names.get(name, name): span for name, span in self.spans.items()}
        )

    def rendered(self, batch: Batch, fields: Sequence[str], key: str = "fields") -> View:
        """Return the view of a batch that renders these texts. key: where they are named, for errors."""
        names = tuple(fields)
        if len(names) == 1 and names[0] in self.prompts:
            return self._prompted(batch, self.prompts[names[0]])
        rows = self._rows(names, len(batch), key)  # int64 [R]
        parts = []
        for name in names:
            text = self.fields[name]
            elements = rows if text.owners is None else np.arange(len(text.owners))
            parts.append(_Part(text, elements, name, name, ends=True))
        return self._view(batch, rows, parts, _Layout.of(parts, self.frame))

    def _prompted(self, batch: Batch, prompt: Prompt) -> View:
        """Return the view that renders a prompt: the mask is its chosen position."""
        demonstrations = self.demonstrations if prompt.demonstrates else None
        sets = 1 if demonstrations is None else demonstrations.sets or 1
        rows = np.repeat(np.arange(len(batch)), sets)  # int64 [R]
        parts: list[_Part] = []
        mask_part = 0
        for piece, ends in prompt.pieces:
            if piece.slot is not None and demonstrations is not None:
                text = demonstrations.texts[piece.slot][piece.text]
                by_set = demonstrations.sets is not None
                elements = np.tile(np.arange(sets), len(batch)) if by_set else rows
                parts.append(_Part(text, elements, piece.cut_as, "", ends))
            elif piece.text:
                parts.append(_Part(self.fields[piece.text], rows, piece.cut_as, piece.cut_as, ends))
            else:
                mask_part = len(parts) if piece.is_mask else mask_part
                text = NamedText.of([[np.array(piece.ids, dtype=np.int32)]], is_list=False)
                parts.append(_Part(text, np.zeros_like(rows), "", "", ends))
        layout = _Layout.of(parts, self.frame)
        view = self._view(batch, rows, parts, layout)
        positions = torch.from_numpy(layout.starts[mask_part])[:, None]  # [R, 1]
        target = view.tokens
        if self.answers is not None:
            answers = torch.from_numpy(self.answers[rows])[:, None]
            known = torch.where(answers < 0, target.gather(1, positions), answers)
            target = target.scatter(1, positions, known)
        valid = torch.ones_like(positions, dtype=torch.bool)
        return view.replace(
            target=target, positions=positions, valid=valid, changed=target != view.tokens
        )

    def _view(
        self, batch: Batch, rows: np.ndarray, parts: Sequence[_Part], layout: _Layout
    ) -> View:
        tokens, segments = layout.blank(), np.zeros(layout.shape, dtype=np.int64)
        for place, part in enumerate(parts):
            layout.fill(tokens, place, part.text, part.elements)
            layout.fill_segment(segments, place)
        inputs = {"tokens": torch.from_numpy(tokens)}
        if sum(layout.ends) > 1:
            inputs["segments"] = torch.from_numpy(segments)
        mask = layout.mask()
        index = torch.from_numpy(rows)
        labels = {name: label[index] for name, label in batch.labels.items()}
        names = [part.field for part in parts]
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
            if name in self.prompts:
                raise ConfigError(
                    key, f"'{name}' is a template of whole sequences, and others stand beside it"
                )
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
    """Where the parts of R rows stand."""

    sizes: np.ndarray  # int64 [P, R], tokens of each part
    starts: np.ndarray  # int64 [P, R], its first position
    lengths: np.ndarray  # int64 [R], with special tokens
    ends: Sequence[bool]  # by part: whether special tokens stand behind it
    frame: Frame

    @classmethod
    def of(cls, parts: Sequence[_Part], frame: Frame) -> _Layout:
        """Return the layout of parts, of which texts are cut where a row is too long."""
        sizes = np.stack([part.text.sizes[part.elements] for part in parts])  # [P, R]
        ends = [part.ends for part in parts]
        cuttable = [number for number, part in enumerate(parts) if part.cut_as]
        fixed = sum(int(part.text.sizes[0]) for part in parts if not part.cut_as)
        overhead = frame.overhead(sum(ends))
        names = [parts[number].cut_as for number in cuttable]
        sizes[cuttable] = frame.cut(sizes[cuttable], names, frame.length - overhead - fixed)
        step = sizes + len(frame.between) * np.array(ends)[:, None]
        starts = len(frame.before) + step.cumsum(0) - step
        return cls(sizes, starts, sizes.sum(0) + overhead, ends, frame)

    @property
    def shape(self) -> tuple[int, int]:
        """R and T."""
        # special tokens alone where there is no row
        shortest = self.frame.overhead(sum(self.ends))
        return len(self.lengths), int(self.lengths.max()) if len(self.lengths) else shortest

    def blank(self) -> np.ndarray:
        """Return padding and the special tokens of the frame, int64 [R, T]."""
        frame, tokens = self.frame, np.full(self.shape, self.frame.pad, dtype=np.int64)
        rows = np.arange(len(tokens))
        for number, token in enumerate(frame.before):
            tokens[:, number] = token
        for start, size, ends in zip(self.starts[:-1], self.sizes[:-1], self.ends):
            for number, token in enumerate(frame.between if ends else ()):
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
        """Write the segment of a part and of the special tokens behind it."""
        before = sum(self.ends[:number])
        segment = self.frame.segments[min(before, len(self.frame.segments) - 1)]
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
