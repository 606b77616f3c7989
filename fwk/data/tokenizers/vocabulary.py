"""What components need to know of a tokenizer: the size and the special ids of its vocabulary."""

from __future__ import annotations

import numpy as np
import torch

from fwk.contracts.context import Vocabulary
from fwk.data.tokenizers.base import Tokenizer
from fwk.errors import DataError


def vocabulary_of(tokenizer: Tokenizer, unigrams: np.ndarray | None = None) -> Vocabulary:
    """Return the vocabulary of a tokenizer. Raises DataError where it has no padding token.

    unigrams: occurrences of each token, [V], where they are known.
    """
    if tokenizer.pad < 0:
        raise DataError("the tokenizer has no padding token; expected one of [PAD], <pad>")
    counts = None
    if unigrams is not None:
        counts = torch.from_numpy(np.asarray(unigrams, dtype=np.float64))
    return Vocabulary(
        size=tokenizer.size,
        pad=tokenizer.pad,
        cls=tokenizer.cls,
        sep=tokenizer.sep,
        mask=tokenizer.mask,
        unk=tokenizer.unk,
        special=tokenizer.special,
        counts=counts,
        fingerprint=tokenizer.fingerprint,
    )


def framing_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the special tokens that frame text; [UNK] stands for text."""
    return tuple(index for index in tokenizer.special if index != tokenizer.unk)
