"""The interface of tokenizers, and how they are saved."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fwk.errors import DataError
from fwk.files import write_atomically

SPECIAL = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
)  # ids 0..4 in every tokenizer that fwk trains
META = "fwk-tokenizer.json"
_ALIASES = {
    "pad": ("[PAD]", "<pad>", "<|pad|>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<cls>", "<s>"),
    "sep": ("[SEP]", "<sep>", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}


_SPACE_MARKS = "\u2581\u0120"  # how sentencepiece and byte-level BPE write a space
Span = tuple[int, int]  # of characters: the first one, and the one after the last


@dataclass(frozen=True)
class Frame:
    """The special ids around one text, `before` A `after`, or around two, `before` A `between` B `after`."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    segments: tuple[int, int]  # of the two texts; what stands before or between them has the first


class Tokenizer:
    """The interface of all tokenizers: text to ids and back. A special id is -1 where that token is missing."""

    kind: str = ""
    pad = unk = cls = sep = mask = -1

    @property
    def size(self) -> int:
        """The number of tokens in the vocabulary."""
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        """Return the ids of one piece of text, without [CLS] or [SEP]."""
        raise NotImplementedError

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of several pieces of text."""
        return [self.encode(text) for text in texts]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[Span]]]:
        """Return for each text the ids that `encode` gives, and the span of characters in the text of each of them.

        A span neither begins nor ends with white space. It is empty for a token that stands for white space alone.
        Tokens that share a character, such as the bytes of one, have the same span.
        """
        raise NotImplementedError

    @property
    def frame(self) -> Frame:
        """The special ids that go around one text and two: as BERT's, [CLS] A [SEP] B [SEP]."""
        cls, sep = (() if index < 0 else (index,) for index in (self.cls, self.sep))
        return Frame(before=cls, between=sep, after=sep, segments=(0, 1))

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, without [PAD], [CLS] and [SEP]."""
        raise NotImplementedError

    def token(self, index: int) -> str:
        """Return the token of an id as the library writes it."""
        raise NotImplementedError

    def id(self, token: str) -> int:
        """Return the id of a token as the library writes it; -1 for an unknown one."""
        raise NotImplementedError

    @property
    def special(self) -> tuple[int, ...]:
        """The ids that never stand for text, in ascending order."""
        special = {self.pad, self.unk, self.cls, self.sep, self.mask}
        return tuple(sorted(index for index in special if index >= 0))

    @property
    def fingerprint(self) -> str:
        """The sha256 of everything that determines how text becomes ids."""
        raise NotImplementedError

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer to a folder, from which `load` reads it."""
        raise NotImplementedError

    def _find_special(self) -> None:
        """Set the special ids from the names that libraries give these tokens."""
        for name, aliases in _ALIASES.items():
            ids = [index for index in map(self.id, aliases) if index >= 0]
            setattr(self, name, ids[0] if ids else -1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kind}, size={self.size}, fingerprint={self.fingerprint[:12]})"


def spans_without_space(text: str, tokens: Sequence[str], spans: Sequence[Span]) -> list[Span]:
    """Return the spans of tokens as `Tokenizer.encode_with_offsets` defines them.

    tokens: as the library writes them. spans: as it gives them, with white space; where one character becomes several
    tokens, sentencepiece gives it to the last of them, and nothing, or the space before, to the others.
    """
    result: list[Span] = []
    following: Span = (len(text), len(text))
    for token, (begin, end) in zip(reversed(tokens), reversed(spans), strict=True):
        content = text[begin:end]
        blank = not content.strip()
        if not token.strip(_SPACE_MARKS):
            # a space that the library puts before a text has the span of the first character, or none
            begin = end = end if blank else begin
        elif not content or (blank and token.startswith("\u2581")):
            begin, end = following
        elif blank:  # such as a newline
            begin = end
        else:
            begin, end = end - len(content.lstrip()), begin + len(content.rstrip())
            following = begin, end
        result.append((begin, end))
    return result[::-1]


def save_files(folder: Path, files: Mapping[str, bytes], meta: Mapping[str, object]) -> None:
    """Write the files of a tokenizer and then its description."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)
    write_atomically(folder / META, (json.dumps(meta, indent=2) + "\n").encode())


def nothing_to_train_on() -> DataError:
    """Return the error for texts without a character that a vocabulary can hold."""
    return DataError(
        "there is no text to train a tokenizer on: it is empty, or holds control and invisible characters alone"
    )


def shorten(error: BaseException) -> str:
    """Return the message of a library's error, on one line and not too long."""
    return " ".join(str(error).split())[:160] or type(error).__name__
