"""Minimal pairs (Warstadt et al. 2020, "BLiMP"): the share of pairs whose better sentence is the likelier one.

A pair counts 1 where the good sentence has the higher score, 1/2 where both have the same, else 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from fwk.contracts.json_files import parse_json
from fwk.data.text import check_characters, numbered_lines
from fwk.errors import DataError, did_you_mean, printable
from fwk.scoring.scorer import ScoredText, place

GOOD, BAD = "sentence_good", "sentence_bad"


@dataclass(frozen=True)
class Pair:
    """Two sentences that differ in one respect."""

    good: ScoredText
    bad: ScoredText
    paradigm: str = ""  # '' where the file names none
    field: str = ""  # of grammar; '' where the file names none


class Accuracy(TypedDict):
    """The accuracy over some pairs."""

    accuracy: float  # in [0, 1]
    pairs: int


class Accuracies(TypedDict):
    """The accuracy over all pairs, by field and by paradigm."""

    overall: Accuracy
    fields: dict[str, Accuracy]
    paradigms: dict[str, Accuracy]


def read_pairs(files: Sequence[str]) -> list[Pair]:
    """Return the pairs in files of JSON lines with `sentence_good`, `sentence_bad`, and optional `UID` and `field`.

    Raises DataError, with file and line, where a line is no pair.
    """
    pairs: list[Pair] = []
    for file in files:
        before = len(pairs)
        for number, line in numbered_lines(file):
            if line.strip():
                pairs.append(_pair(line, file, number))
        if len(pairs) == before:
            raise DataError(f"{file} has no pairs; expected JSON lines with '{GOOD}' and '{BAD}'")
    return pairs


def _pair(line: str, file: str, number: int) -> Pair:
    where = place(file, number)
    try:
        record = parse_json(line)
    except ValueError as error:
        raise DataError(f"{where}: not a JSON object ({str(error)[:80]})") from None
    if not isinstance(record, dict):
        raise DataError(
            f"{where}: expected a JSON object with '{GOOD}' and '{BAD}', got {type(record).__name__}"
        )
    for key in (GOOD, BAD):
        if not isinstance(record.get(key), str):
            hint = "" if key in record else did_you_mean(key, record)
            raise DataError(f"{where}: expected text in '{key}'{hint}")
        check_characters(record[key], file, number)
    return Pair(
        ScoredText(record[GOOD], file, number),
        ScoredText(record[BAD], file, number),
        str(record.get("UID", "")),
        str(record.get("field", "")),
    )


def points(good: float, bad: float) -> float:
    """Return what a pair with these scores counts: 1, 1/2 or 0."""
    if good == bad:
        return 0.5
    return 1.0 if good > bad else 0.0


def accuracies(pairs: Sequence[Pair], scores: Iterable[tuple[float, float]]) -> Accuracies:
    """Return the accuracies of scored pairs. scores: of the good and of the bad sentence of each pair."""
    every: list[float] = []
    fields: dict[str, list[float]] = {}
    paradigms: dict[str, list[float]] = {}
    for pair, (good, bad) in zip(pairs, scores, strict=True):
        every.append(points(good, bad))
        fields.setdefault(pair.field, []).append(every[-1])
        paradigms.setdefault(pair.paradigm, []).append(every[-1])
    return {
        "overall": _mean(every),
        "fields": _means(fields),
        "paradigms": _means(paradigms),
    }


def _means(groups: Mapping[str, Sequence[float]]) -> dict[str, Accuracy]:
    return {name: _mean(counts) for name, counts in sorted(groups.items()) if name}


def _mean(counts: Sequence[float]) -> Accuracy:
    return {"accuracy": sum(counts) / len(counts), "pairs": len(counts)}


def describe(results: Accuracies) -> list[str]:
    """Return the accuracies in per cent as lines of text."""
    lines = []
    for group in (results["paradigms"], results["fields"]):
        width = max(map(len, group), default=0)
        for name, result in group.items():
            lines.append(
                f"{printable(name):<{width}}  {_percent(result):6.2f}  of {result['pairs']:,}"
            )
        if group:
            lines.append("")
    overall = results["overall"]
    return [*lines, f"overall {_percent(overall):.2f} of {overall['pairs']:,} pairs"]


def _percent(result: Accuracy) -> float:
    return 100 * result["accuracy"]
