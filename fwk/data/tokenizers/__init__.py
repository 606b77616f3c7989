"""Tokenizers behind one small interface.

A saved tokenizer is a folder: the file of its library, and `fwk-tokenizer.json`, which names that library and how text
is prepared. Nothing is ever unpickled.

Kinds that can be trained: `unigram` and `bpe` (sentencepiece), `wordpiece` and `byte_bpe` (Hugging Face `tokenizers`,
the optional extra `hf`).
"""

from __future__ import annotations

from collections.abc import Iterable

from fwk.data.tokenizers.base import SPECIAL, Frame, Span, Tokenizer
from fwk.data.tokenizers.byte_bpe import train_byte_bpe
from fwk.data.tokenizers.huggingface import HFTokenizer, tokenizers_library
from fwk.data.tokenizers.loading import load
from fwk.data.tokenizers.sentencepiece import SentencePiece, train_sentencepiece
from fwk.data.tokenizers.wordpiece import train_wordpiece
from fwk.errors import ConfigError, did_you_mean

KINDS = ("unigram", "bpe", "wordpiece", "byte_bpe")


def check_kind(kind: str, key: str = "task.tokenizer") -> None:
    """Raise ConfigError where no kind has this name, DataError where its library is not installed."""
    if kind not in KINDS:
        raise ConfigError(key, f"Unknown tokenizer '{kind}'{did_you_mean(kind, KINDS)}")
    if kind in ("wordpiece", "byte_bpe"):
        tokenizers_library()


def train(
    texts: Iterable[str],
    kind: str = "unigram",
    size: int = 32000,
    lower: bool = True,
    threads: int = 4,
) -> Tokenizer:
    """Return a tokenizer trained on an iterable of paragraphs.

    The result is a pure function of the texts, in order: `threads` has a fixed default, because the sums of
    sentencepiece depend on it. The vocabulary is smaller than `size` where the text does not support that many tokens.
    """
    check_kind(kind)
    if size < len(SPECIAL) + 1:
        raise ConfigError(
            "task.vocabulary", f"{size} is too small, expected more than {len(SPECIAL) + 1}"
        )
    if kind in ("unigram", "bpe"):
        return train_sentencepiece(texts, kind, size, lower, threads)
    if kind == "wordpiece":
        return train_wordpiece(texts, size, lower)
    return train_byte_bpe(texts, size, lower)


__all__ = [
    "KINDS",
    "SPECIAL",
    "Frame",
    "HFTokenizer",
    "SentencePiece",
    "Span",
    "Tokenizer",
    "check_kind",
    "load",
    "train",
]
