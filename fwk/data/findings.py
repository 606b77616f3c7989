"""What was found in the text of a task, where it is not what the options ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from fwk.data.blocks import Blocks
from fwk.data.named_text import NamedText, TextOptions, idle_options
from fwk.data.text_corpus import TextCorpus


class BlockOptions(TextOptions, Protocol):
    """The options that name text and cut it into examples."""

    @property
    def blocks(self) -> str:
        """How documents become examples."""

    @property
    def length(self) -> int:
        """The tokens of an example."""


def findings(
    options: BlockOptions, named: NamedText, corpus: TextCorpus, blocks: Mapping[str, Blocks]
) -> Iterator[str]:
    """Yield a sentence for each thing that differs from what the options ask for. blocks: of training, by source."""
    yield from _without_effect(options)
    yield from _nothing_held_out(options, named, corpus)
    yield from _cut_off(options, blocks)
    yield from _size_of_vocabulary(options, named, corpus)


def one_document(separator: str, flag: str) -> str:
    """Return why a text is one document, and the option that divides it. flag: how the option is written, up to '='."""
    if separator == "empty-line":
        return f"it has no empty line between documents; {flag}line makes a document of each line"
    if separator == "file":
        return f"each file is one; {flag}line or {flag}empty-line divides it"
    return "it is one line"


def _without_effect(options: BlockOptions) -> Iterator[str]:
    """Say which options were given although they cannot act."""
    defaults = type(options)()
    for name, reason in idle_options(options).items():
        value = getattr(options, name)
        if value != getattr(defaults, name):
            yield f"task.{name}={value} has no effect: {reason}"


def _nothing_held_out(options: BlockOptions, named: NamedText, corpus: TextCorpus) -> Iterator[str]:
    """Say for which sources there is nothing to validate on, although a share of them was to be held out."""
    if named.valid or not options.valid_share:
        return
    remedy = "or name text to validate on in task.valid"
    for name, store in corpus.stores.items():
        if "valid" in store.splits:
            continue
        if not named.texts.get(name):
            yield (
                f"the token store {store.folder} (source '{name}') holds no documents out, so nothing of it is "
                f"validated on; preprocess it with a share for validation, {remedy}"
            )
        elif store.split("train").documents == 1:
            yield (
                f"nothing of source '{name}' can be held out for validation (task.valid_share="
                f"{options.valid_share:g}), because it is 1 document: "
                f"{one_document(options.documents, 'task.documents=')}, {remedy}"
            )


def _cut_off(options: BlockOptions, blocks: Mapping[str, Blocks]) -> Iterator[str]:
    """Say how much of the training text truncation throws away."""
    lost = sum(source.cut_off for source in blocks.values())
    if not lost:
        return
    tokens = sum(source.split.tokens for source in blocks.values())
    documents = sum(source.split.documents for source in blocks.values())
    advice = "task.blocks=within reads every token"
    if options.documents != "line":
        advice += ", and task.documents=line makes shorter documents of text"
    yield (
        f"truncation throws away {lost / tokens:.1%} of the training text ({lost:,} of {tokens:,} tokens in "
        f"{_counted(documents, 'document')}): task.blocks=document keeps the first tokens of a document that fit into "
        f"task.length={options.length}; {advice}"
    )


def _size_of_vocabulary(
    options: BlockOptions, named: NamedText, corpus: TextCorpus
) -> Iterator[str]:
    """Say where a vocabulary that was trained is not of the size that was asked for."""
    is_trained = named.tokenizer is None and (not named.sources or all(named.texts.values()))
    if is_trained and options.vocabulary is not None:
        yield from size_of_vocabulary(corpus.tokenizer.size, options.vocabulary, "task.vocabulary")


def size_of_vocabulary(size: int, wanted: int, key: str) -> Iterator[str]:
    """Say that a trained vocabulary is larger or smaller than `key` asks for."""
    if size < wanted:
        yield f"the vocabulary has {size:,} tokens instead of {key}={wanted}: the text supports no more"
    elif size > wanted:
        yield (
            f"the vocabulary has {size:,} tokens instead of {key}={wanted}: the special tokens and the single "
            "characters (or bytes) alone are that many"
        )


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
