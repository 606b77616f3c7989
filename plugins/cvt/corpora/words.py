"""The choice of the words that have ids, from the corpus and a file of word vectors."""

from __future__ import annotations

from torch import Tensor

from fwk_plugins.cvt.corpora.corpus import Corpus
from fwk_plugins.cvt.corpora.lexicon import Lexicon, count_words, normal
from fwk_plugins.cvt.corpora.vectors import Vectors, read_vectors
from fwk_plugins.cvt.logs import logger


def choose_words(
    corpus: Corpus, lower: bool, fewest: int, vectors_file: str | None
) -> tuple[Lexicon, Vectors | None, Tensor]:
    """Return the lexicon, the word vectors of the file, and the frequencies of words, float64 [V].

    A word is known if it occurs at least `fewest` times in the training text, or anywhere if it has a vector.
    """
    labelled = (sentence.words for sentence in corpus.labelled())
    counts = count_words(labelled, corpus.unlabelled.counts(), lower)
    known = {word for word, count in counts.items() if count >= fewest}
    vectors = None
    if vectors_file:
        held_out = {normal(w, lower) for s in corpus.held_out_sentences() for w in s.words}
        wanted = counts.keys() | held_out
        vectors = read_vectors(
            vectors_file,
            wanted,
            normal=lambda word: normal(word, lower),
            loosest=lambda word: normal(word, True),
        )
        known |= vectors.by_word.keys()
        logger.info(
            "%s of %s words have a vector in %s",
            f"{len(vectors.by_word):,}",
            f"{len(wanted):,}",
            vectors_file,
        )
    lexicon = Lexicon.from_counts(counts, known, lower)
    return lexicon, vectors, lexicon.frequencies(counts)
