"""From sentences to examples: ids of words, characters, and gold labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fwk import Source
from fwk_plugins.cvt.corpora.corpus import BySet
from fwk_plugins.cvt.corpora.examples import (
    UNLABELLED,
    Example,
    LabelledSentences,
    PretrainedInputs,
    UnlabelledSentences,
    spell,
)
from fwk_plugins.cvt.corpora.label_spaces import LabelSpaces
from fwk_plugins.cvt.corpora.labelled_sets import LabelledSet
from fwk_plugins.cvt.corpora.lexicon import Lexicon
from fwk_plugins.cvt.corpora.packed import Packed
from fwk_plugins.cvt.corpora.readers import Sentence


class ExampleBuilder:
    """Makes examples of sentences, with the words and labels of one run."""

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
