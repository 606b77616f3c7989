"""The interface of tokenizers, and how they are saved."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
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
