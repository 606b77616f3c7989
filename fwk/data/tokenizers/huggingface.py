"""Tokenizers of the Hugging Face library `tokenizers`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from fwk.data.tokenizers.base import (
    Frame,
    Span,
    Tokenizer,
    save_files,
    shorten,
    spans_without_space,
)
from fwk.errors import DataError


def tokenizers_library() -> ModuleType:
    """Return the package `tokenizers`, set up to use no threads. Raises DataError where it is not installed."""
    try:
        import tokenizers
    except ImportError:
        raise DataError(
            "WordPiece and byte-level BPE need the package 'tokenizers'; install it with "
            "pip install 'fwk[hf]', or use the kinds unigram or bpe"
        ) from None
    # preprocessing runs one process per core already
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return tokenizers


MOST_HOLES = 100_000  # ids without a token; each one would cost an embedding


class HFTokenizer(Tokenizer):
    """A tokenizer of the library `tokenizers`, held as the text of its `tokenizer.json`."""

    kind = "huggingface"

    def __init__(self, content: str, where: str = "tokenizer.json") -> None:
        """Parse a `tokenizer.json`. where: its name in messages."""
        self._content = content
        tokenizers = tokenizers_library()
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(content)
        except (KeyboardInterrupt, SystemExit):
            raise
        except (
            BaseException
        ) as error:  # the library raises bare Exception; its panics are not even that
            raise DataError(
                f"{where} is not a tokenizer of the tokenizers library ({shorten(error)})"
            ) from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True  # "[MASK]" in a text is text

        _require_unknown(self._tokenizer, where)
        self._find_special()
        added = self._tokenizer.get_added_tokens_decoder().items()
        self._specials = tuple(sorted(index for index, token in added if token.special))
        self._size, self._holes = _size_and_holes(
            self._tokenizer.get_vocab(with_added_tokens=True).values(), where
        )
        self._fingerprint = hashlib.sha256(b"huggingface" + content.encode()).hexdigest()

    def __reduce__(self) -> tuple[type[HFTokenizer], tuple[str]]:
        return HFTokenizer, (self._content,)

    @property
    def size(self) -> int:
        return self._size

    @property
    def holes(self) -> tuple[int, ...]:
        """The ids below `size` that no token has."""
        return self._holes

    @property
    def special(self) -> tuple[int, ...]:
        return tuple(sorted({*self._specials, *self._holes, *super().special}))

    def encode(self, text: str) -> list[int]:
        with _naming_unknown():
            return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        with _naming_unknown():
            encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[Span]]]:
        with _naming_unknown():
            encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [
            (encoding.ids, spans_without_space(text, encoding.tokens, encoding.offsets))
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    @cached_property
    def frame(self) -> Frame:
        """What the post-processor puts around a pair of texts; as BERT's, where it puts nothing."""
        with _naming_unknown():
            pair = self._tokenizer.encode("a", "b", add_special_tokens=True)
        places = pair.sequence_ids  # 0 and 1 in the texts, None for what is put around them
        if None not in places or 0 not in places or 1 not in places:
            return super().frame
        first, second = places.index(0), places.index(1)
        first_end, second_end = (len(places) - places[::-1].index(text) for text in (0, 1))
        return Frame(
            before=tuple(pair.ids[:first]),
            between=tuple(pair.ids[first_end:second]),
            after=tuple(pair.ids[second_end:]),
            segments=(pair.type_ids[first], pair.type_ids[second]),
        )

    def decode(self, ids: Iterable[int]) -> str:
        hidden = {self.pad, self.cls, self.sep}
        shown = [int(index) for index in ids if int(index) not in hidden]
        return self._tokenizer.decode(shown, skip_special_tokens=False)

    def token(self, index: int) -> str:
        token = self._tokenizer.id_to_token(int(index))
        return f"[no token {index}]" if token is None else token

    def id(self, token: str) -> int:
        index = self._tokenizer.token_to_id(token)
        return -1 if index is None else index

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def save(self, folder: str | Path) -> None:
        meta = {
            "format": 1,
            "library": "tokenizers",
            "file": "tokenizer.json",
            "fingerprint": self.fingerprint,
        }
        save_files(Path(folder), {"tokenizer.json": self._content.encode()}, meta)


@contextmanager
def _naming_unknown() -> Iterator[None]:
    """Turn an error of the library, such as for a character that it does not know, into a DataError."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # bare Exception, and panics, as of a regular expression
        raise DataError(
            f"tokenizer.json cannot encode a text ({shorten(error)}); expected a tokenizer with a token for what is "
            "unknown, such as [UNK]"
        ) from None


def _require_unknown(tokenizer: Any, where: str) -> None:  # a tokenizers.Tokenizer
    """Raise DataError where the tokenizer fails on a character that it does not know, as without an [UNK]."""
    try:
        tokenizer.encode("a \U0010fffd", add_special_tokens=False)
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{where} cannot encode unknown characters ({shorten(error)})") from None


def _size_and_holes(ids: Iterable[int], where: str) -> tuple[int, tuple[int, ...]]:
    """Return the largest id + 1, and the ids below it that no token has.

    Two lines of a vocabulary with one token, or added tokens, leave such holes. Raises DataError for too many of them.
    """
    known = set(ids)
    size = max(known, default=-1) + 1
    if not known or size - len(known) > MOST_HOLES:
        raise DataError(f"{where} has {len(known)} tokens, and its largest id is {size - 1}")
    return size, tuple(index for index in range(size) if index not in known)
