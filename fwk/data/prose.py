"""Paragraphs of English prose out of documentation: no code, doctests, tables, parameter lists or licences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_WORD = re.compile(r"[A-Za-z]+(?:['’-][a-z]+)*")
_LICENCE = re.compile(
    r"copyright|licen[sc]|warrant|permission is hereby|redistribut|all rights reserved|"
    r"liabilit",
    re.I,
)
_CODE = re.compile(r"[{}<>=|\\_^~$@#*/\[\]]|\(\)|::|--|\w\.\w+\.\w|\d\.\d")
_ROLE = re.compile(r":[a-z:]+:`([^`<]*?)(?:\s*<[^`>]*>)?`")  # :class:`Name`
_TICKS = re.compile(r"`{1,2}([^`]*)`{1,2}_{0,2}")
_COMMON_WORDS = (
    "the a an of to in and is are be for that this with or as it if by on not from can will which when "
    "has have"
)
_COMMON = frozenset(_COMMON_WORDS.split())
_SECTION = re.compile(
    r"^(parameters|returns?|args|arguments|raises|yields|attributes|methods|see also|notes?|"
    r"examples?|references|keyword args|keyword arguments|warnings?|shape|inputs?|outputs?|usage)"
    r"\s*:?\s*$",
    re.I,
)
_RULE = frozenset("=-~^*+`#_. ")  # characters of a line that underlines a heading
_NUMBERED = re.compile(r"(\d+[.)]|[a-z]\)) ")
_NO_PROSE = (">>>", "...", ".. ", "$ ", "% ", "#", "|", "+-", ":param", ":return", ":type", "@")
# what may stand before the sentences of a paragraph: a bullet, "name (type): ", "Note: "
_BULLET = re.compile(r"^(?:[-*+•]|\d+[.)]|[a-z]\))\s+")
_TERM = re.compile(r"^[A-Za-z_][\w.]*(?: ?\([^)]{0,80}\))? ?(?::|--) ")
_ADMONITION = re.compile(r"^(?:note|warning|caution|tip|todo|fixme)s?\s*:+\s*", re.I)
_EMPHASIS = re.compile(r"(?<![\w*])\*(\w[^*]*)\*(?![\w*])")
_REPLACED = {"**": "", "~": "", "’": "'", "“": '"', "”": '"'}

WORDS = (6, 400)  # fewest and most words of a paragraph


def paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of prose in a piece of documentation, each on one line."""
    for block in _blocks(text):
        paragraph = _clean(block)
        if paragraph:
            yield paragraph


def _blocks(text: str) -> Iterator[list[str]]:
    """Yield the lines of each block: a paragraph, or an item of a list."""
    block: list[str] = []
    for line in text.expandtabs().split("\n"):
        stripped = line.strip()
        if not stripped or _SECTION.match(stripped) or set(stripped) <= _RULE:
            if block:
                yield block
            block = []
            continue
        if block and _begins_block(line, block[-1]):
            yield block
            block = []
        block.append(line.rstrip())
    if block:
        yield block


def _begins_block(line: str, before: str) -> bool:
    """Return whether a line begins an item of a list, or is indented differently from the line before."""
    stripped = line.strip()
    if stripped[:2] in ("- ", "* ", "+ ") or _NUMBERED.match(stripped):
        return True
    return abs(_indent(line) - _indent(before)) >= 2


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _clean(block: Sequence[str]) -> str | None:
    """Return the block as one line without markup; None where it is no prose."""
    text = " ".join(line.strip() for line in block)
    if text.startswith(_NO_PROSE):
        return None
    text = _without_markup(text)
    words = _WORD.findall(text)
    if not WORDS[0] <= len(words) <= WORDS[1] or not text[0].isalpha():
        return None
    text = text[0].upper() + text[1:].rstrip(": ")
    if text[-1] not in ".!?)\"'":
        if not text[-1].isalpha() or len(words) < 8:  # a heading, or the introduction of a list
            return None
        text += "."
    return text if _is_prose(text, words) else None


def _without_markup(text: str) -> str:
    for pattern in (_BULLET, _TERM, _ADMONITION):
        text = pattern.sub("", text)
    text = _TICKS.sub(r"\1", _ROLE.sub(r"\1", text))
    for old, new in _REPLACED.items():
        text = text.replace(old, new)
    text = _EMPHASIS.sub(r"\1", text)
    return re.sub(r"\s+", " ", text).strip()


def _is_prose(text: str, words: Sequence[str]) -> bool:
    """Return whether a text reads like English prose: mostly letters, enough common words, little code."""
    if not text.isascii() or _LICENCE.search(text):
        return False
    letters = sum(map(str.isalpha, text))
    if letters < 0.7 * len(text) or len(_CODE.findall(text)) > 0.06 * len(words) + 1:
        return False
    if sum(word.lower() in _COMMON for word in words) < 0.16 * len(words):
        return False
    return sum(word.isupper() and len(word) > 1 for word in words) <= 0.2 * len(words)
