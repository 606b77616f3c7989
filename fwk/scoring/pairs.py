"""Minimal pairs (Warstadt et al. 2020, "BLiMP"): how often the better of two sentences is the likelier one.

A pair counts 1 where the good sentence has the higher score, 1/2 where both have the same, else 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fwk.data.text import check_characters, numbered_lines
from fwk.errors import DataError, did_you_mean
from fwk.scoring.scorer import ScoredText, place

GOOD, BAD = "sentence_good", "sentence_bad"


@dataclass(frozen=True)
class Pair:
    """paradigm, field: '' where the file does not say."""

    good: ScoredText
    bad: ScoredText
    paradigm: str = ""
    field: str = ""


def read_pairs(files: Sequence[str]) -> list[Pair]:
    """Of JSON lines with `sentence_good` and `sentence_bad`, and, if they like, `UID` and `field`."""
    pairs = []
    for file in files:
        before = len(pairs)
        for number, line in numbered_lines(file):
            if not line.strip():
                continue
            where = place(file, number)
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: not a JSON object ({str(error)[:80]})") from None
            if not isinstance(record, dict):
                raise DataError(
                    f"{where}: expected a JSON object with '{GOOD}' and '{BAD}', got {type(record).__name__}"
                )
            for key in (GOOD, BAD):
                if not isinstance(record.get(key), str):
                    raise DataError(
                        f"{where}: expected text in '{key}'{'' if key in record else did_you_mean(key, record)}"
                    )
                check_characters(record[key], file, number)
            pairs.append(
                Pair(
                    ScoredText(record[GOOD], file, number),
                    ScoredText(record[BAD], file, number),
                    str(record.get("UID", "")),
                    str(record.get("field", "")),
                )
            )
        if len(pairs) == before:
            raise DataError(f"{file} has no pairs; expected JSON lines with '{GOOD}' and '{BAD}'")
    return pairs


def points(good: float, bad: float) -> float:
    return 1.0 if good > bad else 0.5 if good == bad else 0.0


def accuracies(pairs: Sequence[Pair], scores: Iterable[tuple[float, float]]) -> dict[str, Any]:
    """Over all pairs, by field and by paradigm: name -> {accuracy, pairs}."""
    groups: dict[str, dict[str, list[float]]] = {"fields": {}, "paradigms": {}}
    every = []
    for pair, (good, bad) in zip(pairs, scores, strict=True):
        every.append(points(good, bad))
        for kind, name in (("fields", pair.field), ("paradigms", pair.paradigm)):
            groups[kind].setdefault(name, []).append(every[-1])
    about = {
        kind: {name: _mean(found) for name, found in sorted(named.items()) if name}
        for kind, named in groups.items()
    }
    return {"overall": _mean(every), **about}


def _mean(found: Sequence[float]) -> dict[str, Any]:
    return {"accuracy": sum(found) / len(found), "pairs": len(found)}


def shown(about: dict[str, Any]) -> list[str]:
    """The accuracies in per cent as lines of text."""
    lines = []
    for kind in ("paradigms", "fields"):
        width = max(map(len, about[kind]), default=0)
        lines += [
            f"{name:<{width}}  {100 * one['accuracy']:6.2f}  of {one['pairs']:,}"
            for name, one in about[kind].items()
        ]
        lines += [""] if about[kind] else []
    return [
        *lines,
        f"overall {100 * about['overall']['accuracy']:.2f} of {about['overall']['pairs']:,} pairs",
    ]
