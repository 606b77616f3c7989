"""The prompts of a task: its templates and label words as tokens, and the demonstrations that follow them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from fwk.contracts.prompts import Piece, Prompt
from fwk.contracts.texts import Demonstrations, Frame
from fwk.data.examples.demonstrations import Pool
from fwk.data.examples.encoded import EncodedExamples, Example
from fwk.data.examples.encoding import TextSpec
from fwk.data.examples.labels import LabelSpace
from fwk.data.examples.options import LabelledOptions
from fwk.data.examples.templates import encode_words, parse_template
from fwk.data.tokenizers import Tokenizer
from fwk.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Templates by name, and the words of each class of the label that they ask for."""

    templates: Mapping[str, tuple[Piece, ...]]
    words: tuple[tuple[int, ...], ...]  # by class; empty: the task states none
    label: str  # whose classes they are
    each: int  # demonstrations of every class
    pool: Pool | None = None  # where there are demonstrations

    @classmethod
    def of(
        cls,
        config: LabelledOptions,
        texts: Sequence[TextSpec],
        space: LabelSpace | None,
        tokenizer: Tokenizer,
    ) -> Prompts:
        """Return the prompts of a task. space: the label with classes. Raises ConfigError for what does not fit."""
        if config.label_words and space is None:
            raise ConfigError("task.label_words", "the task has no label with classes")
        plain = [spec.name for spec in texts if not spec.is_list]
        templates = {}
        for name, template in config.templates.items():
            key = f"task.templates.{name}"
            if any(spec.name == name for spec in texts):
                raise ConfigError(key, f"the task has a text called '{name}'; rename the template")
            templates[name] = parse_template(template, plain, tokenizer, key)
        words: tuple[tuple[int, ...], ...] = ()
        if config.label_words and space is not None:
            words = encode_words(config.label_words, space.values, tokenizer, "task.label_words")
        label = space.name if space is not None else ""
        return cls(templates=templates, words=words, label=label, each=config.demonstrations)

    @cached_property
    def prompts(self) -> dict[str, Prompt]:
        """The prompts by name, with the slots of their demonstrations."""
        return {
            name: Prompt((pieces, *self._demonstrations(pieces)))
            for name, pieces in self.templates.items()
        }

    def _demonstrations(self, pieces: Sequence[Piece]) -> list[tuple[Piece, ...]]:
        """Return a segment per slot: the first word of its class in place of the mask."""
        segments = []
        for slot in range(self.each * len(self.words)):
            word = Piece(ids=self.words[slot // self.each][:1])
            filled = (word if piece.is_mask else piece for piece in pieces)
            segments.append(tuple(replace(p, slot=slot) if p.text else p for p in filled))
        return segments

    @property
    def shown(self) -> tuple[str, ...]:
        """The encodings of texts that the templates show."""
        pieces = (piece for template in self.templates.values() for piece in template)
        return tuple(dict.fromkeys(piece.text for piece in pieces if piece.text))

    @property
    def encodings(self) -> tuple[TextSpec, ...]:
        """The further encodings of texts that the templates need."""
        pieces = (piece for template in self.templates.values() for piece in template)
        spaced = {piece.text: piece.source for piece in pieces if piece.text != piece.source}
        return tuple(TextSpec(name, behind_space=source) for name, source in spaced.items())

    def demonstrations(
        self, examples: Sequence[Example], draws: np.ndarray
    ) -> Demonstrations | None:
        """Return the demonstrations in a batch."""
        if self.pool is None:
            return None
        numbers = [example.number for example in examples]
        if not numbers or numbers[0] < 0:
            return self.pool.fixed
        return self.pool.drawn(numbers, draws)

    def answers(self, labels: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Return the first word of each example's class, int64 [B]; -1: unknown. labels: of a batch, by name."""
        if not self.words:
            return None
        words = np.array([*(ids[0] for ids in self.words), -1])
        return words[labels[self.label]]

    def too_long(self, source: EncodedExamples, length: int, frame: Frame) -> int:
        """Return how many prompts of a source have more than `length` tokens with the longest of the fixed sets."""
        count = 0
        for name, pieces in self.templates.items():
            names = [piece.text for piece in pieces if piece.text]
            prompt = self.prompts[name]
            fixed = prompt.fixed + frame.overhead(len(prompt.segments))
            if self.pool is not None:
                shown = self.pool.sets.sizes(names).reshape(-1, self.pool.slots)
                fixed += int(shown.max(0).sum())
            count += int((source.sizes(names) + fixed > length).sum())
        return count
