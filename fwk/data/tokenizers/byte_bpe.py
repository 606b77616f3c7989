"""Byte-level BPE tokenizers."""

from __future__ import annotations

from collections.abc import Iterable

from fwk.data.tokenizers.base import SPECIAL
from fwk.data.tokenizers.huggingface import HFTokenizer, tokenizers_library


def train_byte_bpe(texts: Iterable[str], size: int, lower: bool) -> HFTokenizer:
    """Return a byte-level BPE tokenizer trained on texts."""
    library = tokenizers_library()
    tokenizer = library.Tokenizer(library.models.BPE())
    if lower:
        tokenizer.normalizer = library.normalizers.Lowercase()
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        show_progress=False,
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return HFTokenizer(tokenizer.to_str())
