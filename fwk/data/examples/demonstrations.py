"""Which training examples demonstrate the classes in prompts.

In training, the demonstrations of an example are drawn anew each time it is read, from all training examples but
itself. Everywhere else, a few fixed sets of examples are used, each in a row of its own.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from fwk.contracts.keyed import Key
from fwk.contracts.texts import Demonstrations, NamedText
from fwk.data.examples.encoded import EncodedExamples, Example

Sets = tuple[tuple[Mapping[str, str], ...], ...]  # by set and slot: the texts by name
PURPOSE = "demonstrations"


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The examples that demonstrate classes, encoded. A prompt has a slot for each."""

    each: int  # slots of every class
    sets: EncodedExamples  # the fixed sets, end to end
    names: tuple[str, ...]  # of the texts that are shown
    slots: int
    seed: int = 0
    sources: Sequence[EncodedExamples] = ()  # of training; empty: nothing is trained
    # by class, int64 [n]: the numbers of its examples over all sources, ascending
    members: Sequence[np.ndarray] = ()

    def with_training(
        self, encoded: Mapping[str, EncodedExamples], label: str, classes: int, seed: int
    ) -> tuple[Pool, dict[str, EncodedExamples]]:
        """Return the pool with the examples of training, and these with their numbers in it."""
        numbered, start = {}, 0
        for name, source in encoded.items():
            numbered[name] = replace(source, first=start)
            start += len(source)
        values = np.concatenate([source.labels[label] for source in numbered.values()])
        members = [np.flatnonzero(values == number) for number in range(classes)]
        pool = replace(self, seed=seed, sources=tuple(numbered.values()), members=members)
        return pool, numbered

    @cached_property
    def fixed(self) -> Demonstrations:
        """The fixed sets, each of which has a row of every example."""
        sets = len(self.sets) // self.slots
        chosen = [[self.sets[s * self.slots + k] for s in range(sets)] for k in range(self.slots)]
        return Demonstrations([self._texts(examples) for examples in chosen], sets)

    def drawn(self, numbers: Sequence[int], draws: np.ndarray) -> Demonstrations:
        """Return the demonstrations of training examples. numbers: in the pool, none of which demonstrates itself."""
        words = Key(self.seed, PURPOSE, torch.from_numpy(draws)).bits(self.slots).tolist()
        chosen: list[list[Example]] = [[] for _ in range(self.slots)]
        for number, row in zip(numbers, words):
            for place, members in enumerate(self.members):
                begin = place * self.each
                own = int(np.searchsorted(members, number))
                taken = [own] if own < len(members) and members[own] == number else []
                picked = distinct(row[begin : begin + self.each], len(members), taken)
                for slot, member in enumerate(picked, begin):
                    chosen[slot].append(self._example(int(members[member])))
        return Demonstrations([self._texts(examples) for examples in chosen], None)

    def _example(self, number: int) -> Example:
        for source in self.sources:
            if number < len(source):
                return source[number]
            number -= len(source)
        raise IndexError(number)

    def _texts(self, examples: Sequence[Example]) -> dict[str, NamedText]:
        """Return the texts of a slot, an element per example."""
        return {
            name: NamedText.of([example.texts[name] for example in examples], is_list=False)
            for name in self.names
        }


def distinct(words: Sequence[int], size: int, taken: Sequence[int]) -> list[int]:
    """Return a number below `size` for each random word, all different and none of them in `taken`."""
    left_out = sorted(taken)
    numbers = []
    for word in words:
        number = word % (size - len(left_out))
        for other in left_out:
            number += number >= other
        insort(left_out, number)
        numbers.append(number)
    return numbers
