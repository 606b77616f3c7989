"""Examples: what the task hands to the model for each sentence, and how examples become a batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from fwk import Source
from fwk.contracts.task import RawText
from fwk.errors import DataError
from fwk_plugins.cvt.corpora.label_spaces import ABSENT
from fwk_plugins.cvt.corpora.packed import Packed

UNLABELLED = "unlabelled"  # the source of sentences without labels
LABELLED_SET = "labelled_set"  # input int64 [B]: number of the set from 1, in the order of `task.data`; 0: none
NO_SET = -1  # the source number of an example that belongs to no set


class PretrainedInputs(Protocol):
    """How sentences become inputs of a frozen encoder (`task.pretrained`)."""

    def encode(self, words: Sequence[str]) -> object:
        """Return what that encoder reads of one sentence."""
        ...

    def inputs(self, examples: Sequence[object]) -> dict[str, Tensor]:
        """Return the inputs of a batch, by name, each [B, ...]."""
        ...

    def shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of one example by input name. length: words of the longest sentence."""
        ...


class Example(NamedTuple):
    """A sentence of n words."""

    words: np.ndarray  # ids, int32 [n]
    characters: np.ndarray  # bytes of UTF-8 + 1, 0 where a word has ended, int16 [n, W]
    labels: Mapping[str, np.ndarray]  # int32 [n] each; empty for an unlabelled sentence
    pretrained: object = None  # what the encoder of `task.pretrained` reads


class LabelledSentences(Source):
    """The examples of one labelled set."""

    def __init__(self, name: str, examples: Sequence[Example]) -> None:
        self.name, self.examples = name, examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


class UnlabelledSentences(Source):
    """Packed sentences without labels, which become examples when they are read."""

    def __init__(
        self, name: str, sentences: Packed, longest_word: int, pretrained: PretrainedInputs | None
    ) -> None:
        self.name, self.sentences = name, sentences
        self.longest_word, self.pretrained = longest_word, pretrained

    def __len__(self) -> int:
        return len(self.sentences)

    def __getitem__(self, index: int) -> Example:
        ids, characters = self.sentences.encoded(index, self.longest_word)
        pretrained = None
        if self.pretrained is not None:
            pretrained = self.pretrained.encode(self.sentences.words(index))
        return Example(ids, characters, {}, pretrained)


def words_of(text: RawText) -> tuple[str, ...]:
    """Return the words of a raw text: those between whitespace, as in files of plain text, or those of a list.

    Raises DataError for a text without words, and for words that UTF-8 cannot encode.
    """
    parts: Sequence[object] = ()
    if isinstance(text, (str, Sequence)):
        parts = text.split() if isinstance(text, str) else text
    words = tuple(word for word in parts if isinstance(word, str) and word)
    if not words or len(words) < len(parts):
        raise DataError(
            f"expected a text of at least one word, or a list of words, got {text!r}"[:200]
        )
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"UTF-8 cannot encode the word {word!r} ({error.reason})") from None
    return words


def spell(words: Sequence[str], longest: int) -> np.ndarray:
    """Return the characters of words, int16 [n, W]: bytes of UTF-8 + 1, and 0 where a word has ended.

    Words of more than `longest` bytes lose their middle. W is at least 1, because convolutions need a position.
    """
    spelled = [word.encode() for word in words]
    width = min(max(1, *map(len, spelled)), longest)
    characters = np.zeros((len(words), width), dtype=np.int16)
    for number, word in enumerate(spelled):
        if len(word) > longest:
            word = word[: longest - longest // 2] + word[-(longest // 2) :]
        characters[number, : len(word)] = np.frombuffer(word, dtype=np.uint8) + np.int16(1)
    return characters


class Stacked(NamedTuple):
    """Examples as padded tensors."""

    inputs: dict[
        str, Tensor
    ]  # tokens int64 [B, T], characters int64 [B, T, W], unlabelled bool [B]
    mask: Tensor  # bool [B, T]
    labels: dict[
        str, Tensor
    ]  # int64 [B, T] each, ABSENT in the padding and where a sentence lacks the label


def stack(examples: Sequence[Example], label_names: Iterable[str]) -> Stacked:
    """Return examples as padded tensors with the labels that are named."""
    B, T = len(examples), max(len(example.words) for example in examples)
    W = max(example.characters.shape[1] for example in examples)
    tokens = np.zeros((B, T), dtype=np.int64)
    characters = np.zeros((B, T, W), dtype=np.int64)
    mask = np.zeros((B, T), dtype=bool)
    labels = {name: np.full((B, T), ABSENT, dtype=np.int64) for name in label_names}
    for row, example in enumerate(examples):
        n = len(example.words)
        tokens[row, :n], mask[row, :n] = example.words, True
        characters[row, :n, : example.characters.shape[1]] = example.characters
        for name, values in example.labels.items():
            labels[name][row, :n] = values
    return Stacked(
        inputs={
            "tokens": torch.from_numpy(tokens),
            "characters": torch.from_numpy(characters),
            "unlabelled": torch.tensor([not example.labels for example in examples]),
        },
        mask=torch.from_numpy(mask),
        labels={name: torch.from_numpy(values) for name, values in labels.items()},
    )
