"""Options that every task of labelled examples has."""

from __future__ import annotations

from dataclasses import dataclass

from fwk.contracts.options import option
from fwk.contracts.texts import LONGEST_FIRST
from fwk.data.tokenizers import KINDS
from fwk.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LabelledOptions:
    """How examples are encoded, cut, chosen and measured."""

    length: int = option(
        128, "tokens of the longest sequence, special tokens included", low=8, high=65536
    )
    truncate: str = option(
        LONGEST_FIRST,
        "the text that loses tokens where a sequence is too long; longest_first: the longest one",
    )
    stride: int | None = option(
        None,
        "read the text `windows` in overlapping windows that begin so many tokens after each other (SQuAD: 128); null: "
        "it is cut",
        low=1,
        high=65536,
    )
    windows: str | None = option(None, "the text that is read in windows (null: the last one)")
    tokenizer: str | None = option(
        None,
        f"path of a tokenizer, or the kind to train on the texts ({', '.join(KINDS)}); null: that of the model "
        "that the run starts from, otherwise unigram",
        paths=(),
        names=KINDS,
    )
    vocabulary: int = option(
        4096, "tokens in a vocabulary that the task trains", low=16, high=10_000_000
    )
    lower: bool = option(True, "lower-case the text for a tokenizer that the task trains")
    fraction: float = option(
        1.0,
        "share of the training examples; a smaller share is part of a larger one",
        above=0,
        high=1,
    )
    per_class: int | None = option(
        None,
        "training examples of each class (few-shot); a smaller number is part of a larger",
        low=1,
        high=10_000_000,
    )
    choice_seed: int | None = option(
        None, "seed of the choice of examples (null: that of the run)", low=0, high=2**63 - 1
    )
    by_length: bool = option(
        True, "make batches of sequences of similar length, in an order that the seed decides"
    )
    templates: dict[str, str] = option(
        {},
        "renderings with a mask, by the name that a view states in `fields`, as {prompt: '{sentence} It was [MASK].'}",
    )
    label_words: dict[str, str | tuple[str, ...]] = option(
        {}, "words that stand for a class in place of the mask, one token each; one or several"
    )
    demonstrations: int = option(
        0,
        "training examples of each class that follow a template, with their words in place of the mask (LM-BFF: 1)",
        low=0,
        high=64,
    )
    demonstration_sets: int = option(
        8,
        "sets of demonstrations that predictions are averaged over, outside of training (LM-BFF's code: 16)",
        low=1,
        high=1024,
    )
    teacher: str | None = option(
        None,
        "file of a teacher's outputs for every training example (fwk-evaluate --targets), from which criteria learn",
        paths=(),
    )
    metrics: tuple[str, ...] = option(
        (), "metrics of whole splits (empty: the usual ones of the kind of label)"
    )
    skip_malformed: bool = option(
        False, "leave out rows that cannot be read, and count them, instead of ending the run"
    )

    def __post_init__(self) -> None:
        if self.fraction < 1 and self.per_class is not None:
            raise ConfigError(
                "per_class", "fraction and per_class both choose examples; expected one of them"
            )
        if self.demonstrations and not (self.templates and self.label_words):
            raise ConfigError(
                "demonstrations", "needs templates and label_words, with which they are written"
            )
        if self.templates and self.stride is not None:
            raise ConfigError("stride", "a template shows whole texts, and none in windows")
        if self.windows is not None and self.stride is None:
            raise ConfigError("windows", "needs stride: how many tokens later each window begins")
