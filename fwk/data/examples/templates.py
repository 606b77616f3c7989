"""Templates and label words as users write them, as tokens.

    templates: {prompt: "{sentence} It was [MASK]."}         a text in braces, the mask, and everything else as it is
    label_words: {positive: great, negative: terrible}       the words of classes, one token each

The fixed parts become tokens as they would inside a text: " It was" begins with a new word, "." is joined to what
stands before it. `{{` and `}}` are braces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from string import Formatter

from fwk.contracts.prompts import Piece
from fwk.data.tokenizers import Tokenizer
from fwk.errors import ConfigError, did_you_mean

MASK = "[MASK]"
SPACED = " {}"  # the name of a text that is encoded behind a space
_ANCHORS = ("a", "1", ".", "x")  # before fixed parts while they are encoded


def parse_template(
    template: str, texts: Sequence[str], tokenizer: Tokenizer, key: str
) -> tuple[Piece, ...]:
    """Return the pieces of a template. texts: the names that it may use. key: of the template.

    Raises ConfigError for an unknown text, no text at all, and none or several masks.
    """
    if tokenizer.mask < 0:
        raise ConfigError(key, "the tokenizer has no mask, and a template asks for a masked token")
    pieces: list[Piece] = []
    spaced = needs_space(tokenizer)
    follows_space = False
    for literal, name in _parts(template, key):
        for number, words in enumerate(re.split(re.escape(MASK), literal)):
            if number:
                pieces.append(Piece(ids=(tokenizer.mask,), is_mask=True))
            if words.strip():
                pieces.append(Piece(ids=_fixed(tokenizer, words.rstrip(), first=not pieces)))
            follows_space = words[-1:].isspace()
        if name is not None:
            if name not in texts:
                raise ConfigError(key, f"the task has no text '{name}'{did_you_mean(name, texts)}")
            behind_space = spaced and follows_space and bool(pieces)
            text = SPACED.format(name) if behind_space else name
            pieces.append(Piece(text=text, source=name))
    _check(pieces, template, key)
    return tuple(pieces)


def _parts(template: str, key: str) -> Iterator[tuple[str, str | None]]:
    """Yield fixed parts, and the name of the text behind each."""
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(key, f"'{template:.80}' is no template ({error})") from None
    for literal, name, form, conversion in parsed:
        if form or conversion:
            raise ConfigError(key, f"'{template:.80}': expected the name of a text in each {{}}")
        yield literal, name


def _check(pieces: Sequence[Piece], template: str, key: str) -> None:
    masks = sum(piece.is_mask for piece in pieces)
    if masks != 1:
        raise ConfigError(key, f"'{template:.80}' has {masks} times {MASK}, expected one")
    if not any(piece.text for piece in pieces):
        raise ConfigError(key, f"'{template:.80}' shows no text; write {{NAME}} for one")


def _fixed(tokenizer: Tokenizer, words: str, first: bool) -> tuple[int, ...]:
    return tuple(tokenizer.encode(words) if first else encode_behind(tokenizer, words))


def encode_behind(tokenizer: Tokenizer, words: str) -> list[int]:
    """Return the ids of words that stand behind a text, whose last word they may be joined to."""
    for anchor in _ANCHORS:
        before, whole = tokenizer.encode(anchor), tokenizer.encode(anchor + words)
        if whole[: len(before)] == before:
            return whole[len(before) :]
    return tokenizer.encode(words)


def needs_space(tokenizer: Tokenizer) -> bool:
    """Return whether a text has other tokens behind a space than at the beginning of a sequence."""
    return tokenizer.encode(" a") != tokenizer.encode("a")


def encode_words(
    words: Mapping[str, str | Sequence[str]],
    classes: Sequence[str],
    tokenizer: Tokenizer,
    key: str,
) -> tuple[tuple[int, ...], ...]:
    """Return the ids of the words of each class, in the order of the classes. key: of the words.

    Raises ConfigError where a class has no word, and for a word that is not one token or that two classes have.
    """
    for name in words:
        if name not in classes:
            raise ConfigError(key, f"there is no class '{name}'{did_you_mean(name, classes)}")
    owners: dict[int, str] = {}
    result = []
    for name in classes:
        listed = words.get(name, ())
        listed = (listed,) if isinstance(listed, str) else tuple(listed)
        if not listed:
            raise ConfigError(key, f"the class '{name}' has no word")
        ids = tuple(_token(word, tokenizer, f"{key}.{name}") for word in listed)
        for word, index in zip(listed, ids):
            if index in owners:
                raise ConfigError(
                    f"{key}.{name}",
                    f"the word '{word}' is the token '{tokenizer.token(index)}', which '{owners[index]}' has",
                )
            owners[index] = name
        result.append(ids)
    return tuple(result)


def _token(word: str, tokenizer: Tokenizer, key: str) -> int:
    """Return the token of a word. Raises ConfigError where it is not exactly one."""
    ids = encode_behind(tokenizer, f" {word.strip()}")
    if len(ids) != 1:
        tokens = ", ".join(tokenizer.token(index) for index in ids)
        raise ConfigError(
            key,
            f"the word '{word}' is {len(ids)} tokens ({tokens}); expected a word that is one token",
        )
    if ids[0] in tokenizer.special:
        raise ConfigError(key, f"the word '{word}' is not in the vocabulary")
    return ids[0]
