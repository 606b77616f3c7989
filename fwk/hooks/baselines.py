"""How well text is predicted without reading its context: unigram and bigram cross-entropy, in nats per token.

A masked-LM loss is the mean of -log p(token) over tokens chosen uniformly among those that are not special, so it
compares with the cross-entropy of a unigram model on the same validation text: that is the loss of a model that knows
how often each token occurs and reads nothing. A bigram model reads one neighbour. Both are estimated on training text.

    unigram   p(w)     = (c(w) + 1/2) / (N + V/2)                                        (Krichevsky-Trofimov)
    bigram    p(w | v) = (c(v w) + t(v)·p(w)) / (c(v) + t(v))                            (Witten-Bell)

where c counts the training text, t(v) is the number of distinct tokens seen after v, N the length of the text and V
the number of tokens that are not special. A token at the start
of a document has no predecessor and is predicted by the unigram model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


def text_baselines(
    train_tokens: Iterable[np.ndarray],
    valid_tokens: Iterable[np.ndarray] | np.ndarray,
    vocabulary_size: int,
    special: Sequence[int] = (),
    limit: int = 20_000_000,
) -> dict[str, float]:
    """Token ids, one array per document (or block), -> {"unigram", "bigram", "entropy"} in nats per token.

    special: ids that are never predicted (they still count as a predecessor). limit: training tokens read at most.
    "entropy" is that of the validation text's own frequencies: no unigram model, not even one that has seen the text,
    is better. NaN where the validation text has no token to predict.
    """
    train = _joined(_up_to(train_tokens, limit))
    valid = _joined([valid_tokens] if isinstance(valid_tokens, np.ndarray) else valid_tokens)
    ordinary = np.ones(vocabulary_size, dtype=bool)
    ordinary[[token for token in special if 0 <= token < vocabulary_size]] = False

    token, before = valid[1:], valid[:-1]  # every array is preceded by the boundary -1
    chosen = (token >= 0) & ordinary[token]
    token, before = token[chosen], before[chosen]
    if not len(token):
        return {"unigram": float("nan"), "bigram": float("nan"), "entropy": float("nan")}

    counts = np.bincount(train[train >= 0], minlength=vocabulary_size) * ordinary
    unigram = (counts + 0.5) / (counts.sum() + 0.5 * ordinary.sum())

    pairs = (train[:-1] >= 0) & (train[1:] >= 0) & ordinary[train[1:]]
    keys, seen = np.unique(
        train[:-1][pairs] * vocabulary_size + train[1:][pairs], return_counts=True
    )
    followed = np.bincount(keys // vocabulary_size, weights=seen, minlength=vocabulary_size)
    distinct = np.bincount(keys // vocabulary_size, minlength=vocabulary_size)

    known = (before >= 0) & (followed[before] > 0)
    after, wanted = before[known], before[known] * vocabulary_size + token[known]
    found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    together = np.where(keys[found] == wanted, seen[found], 0) if len(keys) else np.zeros(0)
    probability = unigram[token]
    probability[known] = (together + distinct[after] * probability[known]) / (
        followed[after] + distinct[after]
    )

    own = np.bincount(token, minlength=vocabulary_size) / len(token)
    own = own[own > 0]
    return {
        "unigram": float(-np.log(unigram[token]).mean()),
        "bigram": float(-np.log(probability).mean()),
        "entropy": float(-(own * np.log(own)).sum()),
    }


def _joined(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Arrays of ids -> one int64 array with a -1 before each."""
    boundary = np.full(1, -1, dtype=np.int64)
    parts = [
        part
        for array in arrays
        for part in (boundary, np.asarray(array).reshape(-1).astype(np.int64))
    ]
    return np.concatenate(parts) if parts else boundary


def _up_to(arrays: Iterable[np.ndarray], limit: int) -> Iterable[np.ndarray]:
    for array in arrays:
        if limit <= 0:
            return
        yield np.asarray(array).reshape(-1)[:limit]
        limit -= len(array)
