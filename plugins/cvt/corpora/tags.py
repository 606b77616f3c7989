"""Spans as tags: IOB1, IOB2 and BIOES.

words   the  United  Nations  and  its  US   Ukraine  envoys       types of the spans
IOB1    O    I-ORG   I-ORG    O    O    I-L  B-L      O            a B only where a span of the same type ends just before
IOB2    O    B-ORG   I-ORG    O    O    B-L  B-L      O            a B begins each span
BIOES   O    B-ORG   E-ORG    O    O    S-L  S-L      O            an E ends it, an S is a span of one word
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from fwk.errors import DataError, UnknownName

Scheme = Literal["IOB1", "IOB2", "BIOES"]
Span = tuple[int, int, str]  # first word, the one after the last, type
PREFIXES: dict[str, str] = {"IOB1": "BI", "IOB2": "BI", "BIOES": "BIES"}


def split(tag: str, prefixes: str = "BIES", place: str = "") -> tuple[str, str]:
    """A tag's prefix and type, which is empty for O. place begins the `DataError` for what is no tag."""
    prefix, dash, kind = tag.partition("-")
    if tag == "O":
        return tag, ""
    if not dash or not kind or len(prefix) != 1 or prefix not in prefixes:
        raise DataError(
            f"{place}{': ' if place else ''}the tag is '{tag}', expected O or PREFIX-TYPE with a prefix of "
            f"{', '.join(prefixes)}"
        )
    return prefix, kind


def spans(tags: Sequence[str], scheme: Scheme, place: str = "") -> list[Span]:
    """The spans of one sentence, in order. What does not follow the scheme is read as conlleval reads it: a span begins where the
    type changes or where the one before has ended, and each I or E that has no beginning is one."""
    prefixes, found, open_ = _prefixes(scheme), [], False
    for word, tag in enumerate(tags):
        prefix, kind = split(tag, prefixes, _at(place, word))
        if prefix == "O":
            open_ = False
            continue
        if open_ and prefix in "IE" and found[-1][2] == kind:
            found[-1] = (found[-1][0], word + 1, kind)
        else:
            found.append((word, word + 1, kind))
        open_ = prefix not in "ES"
    return found


def tagged(found: Iterable[Span], length: int, scheme: Scheme) -> tuple[str, ...]:
    """The tags of a sentence of that many words; the spans are in order and do not overlap."""
    _prefixes(scheme)
    tags, before = ["O"] * length, (0, 0, "")
    for start, stop, kind in found:
        tags[start:stop] = [f"I-{kind}"] * (stop - start)
        if scheme != "IOB1" or before[1:] == (start, kind):
            tags[start] = f"B-{kind}"
        if scheme == "BIOES":
            tags[stop - 1] = f"{'E' if stop - start > 1 else 'S'}-{kind}"
        before = (start, stop, kind)
    return tuple(tags)


def convert(
    tags: Sequence[str], source: Scheme, target: Scheme, place: str = ""
) -> tuple[str, ...]:
    """The spans that `spans` finds, in another scheme. DataError for what is no tag of the source."""
    return tagged(spans(tags, source, place), len(tags), target)


def follows(before: str, after: str, scheme: Scheme) -> bool:
    """Whether a tag may stand after another, or after the beginning or before the end of a sentence, which count as O."""
    (was, old), (prefix, kind) = split(before), split(after)
    if any(one not in "O" + PREFIXES[scheme] for one in (was, prefix)):
        return False
    if scheme == "BIOES":  # what a B opened goes on until its E
        return (was in "BI") == (prefix in "IE") and (was not in "BI" or old == kind)
    return old == kind or prefix != ("B" if scheme == "IOB1" else "I")


def detect(sequences: Iterable[Sequence[str]], places: Iterable[str] | None = None) -> Scheme:
    """The scheme that all sequences follow strictly; IOB2 where there is no span. places: of each sequence, for the error;
    otherwise they are counted from 1."""
    first: dict[
        tuple[str, str], str
    ] = {}  # where each pair of neighbours was seen first: pairs are few
    places = (
        (f"sentence {number}" for number, _ in enumerate(iter(int, 1), start=1))
        if places is None
        else places
    )
    for place, tags in zip(places, sequences):
        before = "O"
        for word, tag in enumerate([*tags, "O"]):
            if (before, tag) not in first:
                first[before, tag] = _at(place, word)
                split(tag, place=_at(place, word))
            before = tag
    breaks: dict[str, tuple[str, str]] = {}
    for scheme in ("IOB2", "IOB1", "BIOES"):
        broken = next((pair for pair in first if not follows(*pair, scheme)), None)
        if broken is None:
            return scheme
        breaks[scheme] = broken
    seen = list(first)
    last = max(
        breaks, key=lambda scheme: seen.index(breaks[scheme])
    )  # the likeliest meant: it lasted longest
    told = "; ".join(
        f"'{after}' after '{before}' at {first[before, after]} is not {scheme}"
        for scheme, (before, after) in breaks.items()
        if scheme != last
    )
    before, after = breaks[last]
    raise DataError(
        f"{first[before, after]}: '{after}' after '{before}' is not {last}, and no other scheme fits: {told}"
    )


def _prefixes(scheme: str) -> str:
    if scheme not in PREFIXES:
        raise UnknownName("tagging scheme", scheme, get_args(Scheme))
    return PREFIXES[scheme]


def _at(place: str, word: int) -> str:
    return f"{place}{', ' if place else ''}word {word + 1}"
