"""From sentences to examples and batches: ids of words, characters, and gold labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from fwk import Batch, Source
from fwk_plugins.cvt.corpora.corpus import BySet
from fwk_plugins.cvt.corpora.examples import (
    LABELLED_SET,
    UNLABELLED,
    Example,
    LabelledSentences,
    PretrainedInputs,
    UnlabelledSentences,
    spell,
    stack,
)
from fwk_plugins.cvt.corpora.label_spaces import LabelSpaces
from fwk_plugins.cvt.corpora.labelled_sets import LabelledSet
from fwk_plugins.cvt.corpora.lexicon import Lexicon
from fwk_plugins.cvt.corpora.packed import Packed
from fwk_plugins.cvt.corpora.readers import Sentence


class ExampleBuilder:
    """Makes examples of sentences, and batches of examples, with the words and labels of one run."""

    def __init__(
        self,
        lexicon: Lexicon,
        spaces: LabelSpaces,
        longest_word: int,
        pretrained: PretrainedInputs | None,
    ) -> None:
        self.lexicon, self.spaces = lexicon, spaces
        self.longest_word, self.pretrained = longest_word, pretrained

    def unlabelled(self, words: Sequence[str]) -> Example:
        """Return the example of a sentence without labels."""
        pretrained = None if self.pretrained is None else self.pretrained.encode(words)
        ids = np.array([*map(self.lexicon.id_of, words)], dtype=np.int32)
        return Example(ids, spell(words, self.longest_word), {}, pretrained)

    def labelled(self, sentence: Sentence, labelled_set: LabelledSet) -> Example:
        """Return the example of a sentence with the labels of its set."""
        labels = self.spaces.encode(sentence, labelled_set)
        return self.unlabelled(sentence.words)._replace(labels=labels)

    def labelled_sources(self, by_set: BySet, sets: Mapping[str, LabelledSet]) -> dict[str, Source]:
        """Return a source for each labelled set."""
        return {
            name: LabelledSentences(name, [self.labelled(s, sets[name]) for s in sentences])
            for name, sentences in by_set.items()
        }

    def unlabelled_source(self, sentences: Packed) -> Source:
        """Pack the sentences and return them as the source of unlabelled text."""
        sentences.pack(self.lexicon.id_of)
        return UnlabelledSentences(UNLABELLED, sentences, self.longest_word, self.pretrained)

    def batch(
        self,
        examples: Sequence[Example],
        draws: np.ndarray,
        sources: np.ndarray,
        labelled_sets: int,
    ) -> Batch:
        """Return a batch of B sentences. draws, sources: int64 [B]. labelled_sets: their number."""
        stacked = stack(examples, self.spaces.values)
        inputs = stacked.inputs
        if self.pretrained is not None:
            inputs |= self.pretrained.inputs([example.pretrained for example in examples])
            sets = torch.from_numpy(sources + 1)  # the labelled sets are the first sources
            inputs[LABELLED_SET] = sets.masked_fill(sets > labelled_sets, 0)
        return Batch(
            inputs=inputs,
            draws=torch.from_numpy(draws),
            mask=stacked.mask,
            source=torch.from_numpy(sources),
            labels=stacked.labels,
        )

    def input_shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of one example by input name. length: words of the longest sentence."""
        shapes: dict[str, tuple[int, ...]] = {
            "tokens": (length,),
            "characters": (length, self.longest_word),
            "unlabelled": (),
        }
        if self.pretrained is not None:
            shapes |= {**self.pretrained.shapes(length), LABELLED_SET: ()}
        return shapes
