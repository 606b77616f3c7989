"""Prompts: renderings of an example as one text with a mask, whose token the model is asked for.

A prompt is a list of segments, and a segment a list of pieces: fixed tokens, texts of the example, and the mask. The
first segment asks about the example; each of the others is a demonstration, the same prompt about another example
with the word of its class in place of the mask (Gao et al. 2021, "Making Pre-trained Language Models Better Few-shot
Learners"):

    [CLS] No reason to watch . It was [MASK] . [SEP] A fun ride . It was great . [SEP] Dull . It was terrible . [SEP]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """A part of a segment: a text where it names one, otherwise fixed tokens."""

    ids: tuple[int, ...] = ()  # of fixed tokens
    text: str = ""  # the name of a text
    source: str = ""  # the name under which it can be cut; empty: it is `text`
    slot: int | None = None  # the demonstration that the text belongs to; None: the example itself
    is_mask: bool = False  # fixed tokens that are chosen positions

    @property
    def cut_as(self) -> str:
        """The name under which tokens can be taken from the piece; empty: it is never cut."""
        return self.source or self.text


@dataclass(frozen=True)
class Prompt:
    """A rendering of an example as one sequence with one chosen position."""

    segments: tuple[tuple[Piece, ...], ...]

    @property
    def pieces(self) -> Iterator[tuple[Piece, bool]]:
        """The pieces of all segments in order, and whether a segment ends behind each."""
        for segment in self.segments:
            for number, piece in enumerate(segment):
                yield piece, number == len(segment) - 1

    @property
    def fixed(self) -> int:
        """The number of tokens that are never cut."""
        return sum(len(piece.ids) for piece, _ in self.pieces)

    @property
    def demonstrates(self) -> bool:
        """Whether demonstrations follow the example."""
        return len(self.segments) > 1
