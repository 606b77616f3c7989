"""Spans as tags: IOB1, IOB2 and BIOES.

words   the  United  Nations  and  its  US   Ukraine  envoys       types of the spans
IOB1    O    I-ORG   I-ORG    O    O    I-L  B-L      O            B only where a span of the same type ends just before
IOB2    O    B-ORG   I-ORG    O    O    B-L  B-L      O            B begins every span
BIOES   O    B-ORG   E-ORG    O    O    S-L  S-L      O            E ends a span, S is a span of one word
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Literal, get_args

from fwk.errors import DataError, UnknownName

Scheme = Literal["IOB1", "IOB2", "BIOES"]
Span = tuple[int, int, str]  # first word, the word after the last one, type
Pair = tuple[str, str]  # a tag and the one after it
PREFIXES: dict[Scheme, str] = {"IOB1": "BI", "IOB2": "BI", "BIOES": "BIES"}


def split_tag(tag: str, prefixes: str = "BIES", place: str = "") -> tuple[str, str]:
    """Return a tag's prefix and type; the type of O is empty.

    place: where the tag is, for the DataError that is raised for an invalid tag.
    """
    prefix, dash, kind = tag.partition("-")
    if tag == "O":
        return tag, ""
    if not dash or not kind or len(prefix) != 1 or prefix not in prefixes:
        where = f"{place}: " if place else ""
        raise DataError(
            f"{where}the tag is '{tag}', expected O or PREFIX-TYPE with a prefix of {', '.join(prefixes)}"
        )
    return prefix, kind


def spans_of(tags: Sequence[str], scheme: Scheme, place: str = "") -> list[Span]:
    """Return the spans of one sentence, in order.

    Tags that break the scheme are read as conlleval reads them: a span begins where the type changes or where the
    previous span has ended, and an I or E without a beginning begins a span itself.
    """
    prefixes = _prefixes(scheme)
    spans: list[Span] = []
    open_ = False  # whether the last span may continue
    for word, tag in enumerate(tags):
        prefix, kind = split_tag(tag, prefixes, _place_of(place, word))
        if prefix == "O":
            open_ = False
            continue
        if open_ and prefix in "IE" and spans[-1][2] == kind:
            spans[-1] = (spans[-1][0], word + 1, kind)
        else:
            spans.append((word, word + 1, kind))
        open_ = prefix not in "ES"
    return spans


def tags_of(spans: Iterable[Span], length: int, scheme: Scheme) -> tuple[str, ...]:
    """Return the tags of a sentence of `length` words. The spans are in order and do not overlap."""
    _prefixes(scheme)
    tags, before = ["O"] * length, (0, 0, "")
    for start, stop, kind in spans:
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
    """Return the same spans in another scheme. Raises DataError for a tag that the source scheme does not have."""
    return tags_of(spans_of(tags, source, place), len(tags), target)


def may_follow(before: str, after: str, scheme: Scheme) -> bool:
    """Return whether `after` may follow `before`. The beginning and the end of a sentence count as O."""
    (old_prefix, old_kind), (prefix, kind) = split_tag(before), split_tag(after)
    if any(name not in "O" + PREFIXES[scheme] for name in (old_prefix, prefix)):
        return False
    if scheme == "BIOES":  # a span that a B opened continues until its E
        inside = old_prefix in "BI"
        return inside == (prefix in "IE") and (not inside or old_kind == kind)
    return old_kind == kind or prefix != ("B" if scheme == "IOB1" else "I")


def detect_scheme(
    sequences: Iterable[Sequence[str]], places: Iterable[str] | None = None
) -> Scheme:
    """Return the scheme that all sequences follow strictly; IOB2 where no tag marks a span.

    places: where each sequence is, for error messages; sequences are numbered from 1 by default. Raises DataError
    where no scheme fits.
    """
    if places is None:
        places = (f"sentence {number}" for number in count(1))
    first_places = _first_places(sequences, places)
    breaks: dict[Scheme, Pair] = {}  # the first pair that breaks each scheme
    for scheme in ("IOB2", "IOB1", "BIOES"):
        broken = next((pair for pair in first_places if not may_follow(*pair, scheme)), None)
        if broken is None:
            return scheme
        breaks[scheme] = broken
    raise _no_scheme_fits(breaks, first_places)


def _first_places(sequences: Iterable[Sequence[str]], places: Iterable[str]) -> dict[Pair, str]:
    """Return the place where each pair of neighbouring tags occurs first; there are few pairs."""
    first_places: dict[Pair, str] = {}
    for place, tags in zip(places, sequences):
        before = "O"
        for word, tag in enumerate([*tags, "O"]):
            if (before, tag) not in first_places:
                first_places[before, tag] = _place_of(place, word)
                split_tag(tag, place=_place_of(place, word))
            before = tag
    return first_places


def _no_scheme_fits(breaks: dict[Scheme, Pair], first_places: dict[Pair, str]) -> DataError:
    """Return the error that names a violation of every scheme.

    The scheme that was followed longest comes first, because it is probably the intended one.
    """
    order = list(first_places)
    likeliest = max(breaks, key=lambda scheme: order.index(breaks[scheme]))
    others = "; ".join(
        f"'{after}' after '{before}' at {first_places[before, after]} is not {scheme}"
        for scheme, (before, after) in breaks.items()
        if scheme != likeliest
    )
    before, after = breaks[likeliest]
    place = first_places[before, after]
    return DataError(
        f"{place}: '{after}' after '{before}' is not {likeliest}, and no other scheme fits: {others}"
    )


def _prefixes(scheme: Scheme) -> str:
    if scheme not in PREFIXES:
        raise UnknownName("tagging scheme", scheme, get_args(Scheme))
    return PREFIXES[scheme]


def _place_of(place: str, word: int) -> str:
    return f"{place}{', ' if place else ''}word {word + 1}"
