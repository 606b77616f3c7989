"""Baselines that read no context: unigram and bigram cross-entropy of a text, in nats per token.

The loss of a model that predicts chosen tokens is the mean of -log p(token) over tokens chosen uniformly among those
that are not special. It compares with the cross-entropy of a unigram model on the same validation text: the loss of a
model that knows how often each token occurs and reads nothing. A bigram model reads one neighbour. Both are estimated
on training text.

    unigram   p(w)     = (c(w) + 1/2) / (N + V/2)                                        (Krichevsky-Trofimov)
    bigram    p(w | v) = (c(v w) + t(v)·p(w)) / (c(v) + t(v))                            (Witten-Bell)

where c counts the training text, t(v) is the number of distinct tokens seen after v, N the length of the text and V
the number of tokens that are not special. The first token of a document has no predecessor and is predicted by the
unigram model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np


def text_baselines(
    train_tokens: Iterable[np.ndarray],
    valid_tokens: Iterable[np.ndarray] | np.ndarray,
    vocabulary_size: int,
    special: Sequence[int] = (),
    limit: int = 20_000_000,
) -> dict[str, float]:
    """Return "unigram", "bigram" and "entropy" of the validation text, in nats per token.

    train_tokens, valid_tokens: token ids, one array per document (or block). special: ids that are never predicted
    (they still count as a predecessor). limit: training tokens read at most. "entropy" is that of the token frequencies
    in the validation text: no unigram model is better, not even one that was estimated on this text. All are NaN where
    the validation text has no token to predict.
    """
    train = _joined(_up_to(train_tokens, limit))
    valid = _joined([valid_tokens] if isinstance(valid_tokens, np.ndarray) else valid_tokens)
    ordinary = np.ones(vocabulary_size, dtype=bool)
    ordinary[[token for token in special if 0 <= token < vocabulary_size]] = False

    tokens, before = valid[1:], valid[:-1]  # every document is preceded by the boundary -1
    predicted = (tokens >= 0) & ordinary[tokens]
    tokens, before = tokens[predicted], before[predicted]
    if not len(tokens):
        return {"unigram": float("nan"), "bigram": float("nan"), "entropy": float("nan")}

    counts = np.bincount(train[train >= 0], minlength=vocabulary_size) * ordinary
    unigram = (counts + 0.5) / (counts.sum() + 0.5 * ordinary.sum())  # [V]
    bigram = _bigram(train, ordinary, tokens, before, unigram[tokens])
    frequency = np.bincount(tokens, minlength=vocabulary_size) / len(tokens)
    frequency = frequency[frequency > 0]
    return {
        "unigram": float(-np.log(unigram[tokens]).mean()),
        "bigram": float(-np.log(bigram).mean()),
        "entropy": float(-(frequency * np.log(frequency)).sum()),
    }


def _bigram(
    train: np.ndarray,
    ordinary: np.ndarray,
    tokens: np.ndarray,
    before: np.ndarray,
    unigram: np.ndarray,
) -> np.ndarray:
    """Return the bigram probability of each token [n], given the token before it.

    train: the training text, with -1 before each document. ordinary: bool [V], False for special tokens. unigram: the
    unigram probability of each token [n], which is the answer after a token that the training text does not continue.
    """
    size = len(ordinary)
    within = (train[:-1] >= 0) & (train[1:] >= 0) & ordinary[train[1:]]
    # a pair (v, w) as one number, v * V + w: each distinct one, in ascending order, and its count
    pairs, pair_counts = np.unique(
        train[:-1][within] * size + train[1:][within], return_counts=True
    )
    first = pairs // size
    continued = np.bincount(first, weights=pair_counts, minlength=size)  # c(v)
    distinct = np.bincount(first, minlength=size)  # t(v)

    known = (before >= 0) & (continued[before] > 0)
    v, wanted = before[known], before[known] * size + tokens[known]
    place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    counts = np.zeros(0)
    if len(pairs):
        counts = np.where(pairs[place] == wanted, pair_counts[place], 0)  # c(v w)
    probability = unigram.copy()
    probability[known] = (counts + distinct[v] * unigram[known]) / (continued[v] + distinct[v])
    return probability


def _joined(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Return arrays of ids as one int64 array with a -1 before each."""
    boundary = np.full(1, -1, dtype=np.int64)
    parts = [
        part
        for array in arrays
        for part in (boundary, np.asarray(array).reshape(-1).astype(np.int64))
    ]
    return np.concatenate(parts) if parts else boundary


def _up_to(arrays: Iterable[np.ndarray], limit: int) -> Iterator[np.ndarray]:
    """Yield the arrays up to `limit` ids in all."""
    for array in arrays:
        if limit <= 0:
            return
        yield np.asarray(array).reshape(-1)[:limit]
        limit -= len(array)
