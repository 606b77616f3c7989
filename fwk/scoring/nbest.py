"""Re-ranking of n-best lists: the hypothesis with the highest score + weight * log p(text), the weight chosen on a dev file.

Files are JSON objects, utterance -> {"hyp_1": {"score": s, "text": t}, ..., "ref": r}, as mlm-scoring writes them (Salazar et
al. 2020); s is a log score of the recogniser or translator, higher is better.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from fwk.data.text import check_characters, numbered_lines
from fwk.errors import ConfigError, DataError, did_you_mean
from fwk.scoring.scorer import ScoredText, place

RANK = re.compile(r"hyp_([1-9]\d{0,8})")


@dataclass(frozen=True)
class Hypothesis:
    score: float
    text: str


@dataclass(frozen=True)
class Utterance:
    """hypotheses: by rank, the first one first. reference: None where the file has none."""

    name: str
    hypotheses: tuple[Hypothesis, ...]
    reference: str | None
    file: str
    line: int

    @property
    def what(self) -> str:
        return f"utterance '{self.name}'"

    @property
    def where(self) -> str:
        return f"{place(self.file, self.line)}, {self.what}"


def read_lists(file: str) -> list[Utterance]:
    """DataError names file and line of what is not an n-best list."""
    text = "\n".join(line for _, line in numbered_lines(file))
    try:
        content = json.loads(text, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise DataError(
            f"{file}, line {line}: not JSON ({getattr(error, 'msg', error)}); expected an object of n-best lists"
        ) from None
    if not isinstance(content, dict) or not content:
        raise DataError(
            f"{file}, line 1: expected a JSON object, utterance -> hyp_1, hyp_2, ... and ref, got "
            f"{'an empty one' if content == {} else type(content).__name__}"
        )
    at, line, found = 0, 1, []
    for name, entry in content.items():  # in the order of the file
        place = text.find(json.dumps(name, ensure_ascii=False), at)
        place = place if place >= 0 else text.find(json.dumps(name), at)
        if place >= 0:
            line += text.count("\n", at, place)
            at = place + 1
        found.append(_utterance(name, entry, file, line))
    with_reference = [one.reference is not None for one in found]
    if any(with_reference) and not all(with_reference):
        missing = found[with_reference.index(False)]
        raise DataError(f"{missing.where}: has no 'ref', and others have one")
    return found


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        raise ValueError(
            f"the key '{next(key for key, _ in pairs if key in seen or seen.add(key))}' is there twice"
        )
    return found


def _utterance(name: str, entry: Any, file: str, line: int) -> Utterance:
    where = f"{place(file, line)}, utterance '{name}'"
    if not isinstance(entry, dict):
        raise DataError(
            f"{where}: expected an object with hyp_1, hyp_2, ... and ref, got {type(entry).__name__}"
        )
    ranked = {
        int(match[1]): value for key, value in entry.items() if (match := RANK.fullmatch(key))
    }
    if unknown := [key for key in entry if key != "ref" and not RANK.fullmatch(key)]:
        raise DataError(
            f"{where}: unknown key '{unknown[0]}', expected hyp_1, hyp_2, ... and ref"
            f"{did_you_mean(unknown[0], ['ref', 'hyp_1'], 0)}"
        )
    if not ranked or sorted(ranked) != [*range(1, len(ranked) + 1)]:
        raise DataError(
            f"{where}: expected hyp_1 to hyp_n without a gap, got {', '.join(f'hyp_{rank}' for rank in sorted(ranked)[:5]) or 'none'}"
        )
    hypotheses = []
    for rank in sorted(ranked):
        value = ranked[rank]
        score, text = (
            (value.get("score"), value.get("text")) if isinstance(value, dict) else (None, None)
        )
        number = (
            isinstance(score, (int, float)) and not isinstance(score, bool) and abs(score) < 1e30
        )
        if not number or not isinstance(text, str):
            raise DataError(f'{where}: hyp_{rank} is not {{"score": a number, "text": a text}}')
        check_characters(text, file, line)
        if not text.strip():
            raise DataError(f"{where}: hyp_{rank} is empty")
        hypotheses.append(Hypothesis(float(score), text.strip()))
    reference = entry.get("ref")
    if reference is not None and (not isinstance(reference, str) or not reference.strip()):
        raise DataError(f"{where}: 'ref' is not a text")
    for text in (name, reference or ""):
        check_characters(text, file, line)
    return Utterance(
        name, tuple(hypotheses), reference if reference is None else reference.strip(), file, line
    )


def check_portions(
    dev: Sequence[str], test: Sequence[str], lists: Mapping[str, Sequence[Utterance]]
) -> None:
    """DataError where dev and test files do not belong together."""
    if test and len(dev) != len(test):
        raise ConfigError(
            "--test",
            f"{len(test)} files for {len(dev)} dev files; expected one for each, in the same order",
        )
    for file in dev:
        if lists[file][0].reference is None:
            raise DataError(
                f"{file}, line 1: has no references, which the weight is chosen by; expected 'ref' in each utterance"
            )
    for mine, theirs in zip(dev, test):
        a, b = ({len(one.hypotheses) for one in lists[file]} for file in (mine, theirs))
        if max(a) != max(b):
            raise DataError(
                f"{theirs} holds {max(b)}-best lists and {mine} {max(a)}-best lists; a weight that was chosen on the one "
                "does not fit the other"
            )
        known = {one.name for one in lists[mine]}
        if both := [one for one in lists[theirs] if one.name in known]:
            raise DataError(
                f"{both[0].where} is in {mine} too (so are {len(both):,} of {len(lists[theirs]):,}); expected a test file that the weight "
                "was not chosen on"
            )


def texts_of(lists: Mapping[str, Sequence[Utterance]]) -> list[ScoredText]:
    """Every text once, in the order in which it first occurs."""
    found: dict[str, ScoredText] = {}
    for utterances in lists.values():
        for one in utterances:
            for hypothesis in one.hypotheses:
                found.setdefault(
                    hypothesis.text, ScoredText(hypothesis.text, one.file, one.line, one.what)
                )
    return list(found.values())


def choose(
    utterances: Sequence[Utterance], scores: Mapping[str, float], weight: float
) -> list[str]:
    """The best text of each list; the first of several with one score."""
    return [
        max(
            one.hypotheses, key=lambda h: h.score + (weight * scores[h.text] if weight else 0.0)
        ).text
        for one in utterances
    ]


def error_rate(utterances: Sequence[Utterance], texts: Sequence[str]) -> float:
    """Word error rate over the whole file: edits divided by words of the references."""
    return jiwer().wer([one.reference for one in utterances], list(texts))


def oracle(utterances: Sequence[Utterance]) -> list[str]:
    """The text of each list with the fewest edits."""
    count = jiwer().process_words

    def edits(reference: str, text: str) -> int:
        made = count(reference, text)
        return made.substitutions + made.deletions + made.insertions

    return [
        min((h.text for h in one.hypotheses), key=lambda text: edits(one.reference, text))
        for one in utterances
    ]


def rerank(
    dev: Sequence[Utterance],
    test: Sequence[Utterance] | None,
    scores: Mapping[str, float],
    weights: Sequence[float],
) -> dict[str, Any]:
    """The sweep over weights on dev, the best of them (the smallest of equals), and what it makes of test."""
    sweep = {weight: error_rate(dev, choose(dev, scores, weight)) for weight in weights}
    best = min(sweep, key=lambda weight: (sweep[weight], weight))
    found = {
        "weight": best,
        "sweep": [{"weight": weight, "wer": rate} for weight, rate in sweep.items()],
    }
    for name, utterances in (("dev", dev), ("test", test)):
        if utterances is None:
            continue
        chosen = choose(utterances, scores, best)
        found[name] = {
            "utterances": len(utterances),
            "choices": dict(zip((one.name for one in utterances), chosen)),
        }
        if utterances[0].reference is not None:
            first = [one.hypotheses[0].text for one in utterances]
            found[name] |= {
                "first": error_rate(utterances, first),
                "wer": error_rate(utterances, chosen),
                "oracle": error_rate(utterances, oracle(utterances)),
            }
    return found


def jiwer() -> Any:
    """The package that counts edits. DataError where it is not installed."""
    try:
        return import_module("jiwer")
    except ImportError:
        raise DataError(
            "word error rates need the package 'jiwer'; install it with pip install 'fwk[eval]'"
        ) from None


def shown(dev: str, test: str | None, made: Mapping[str, Any]) -> list[str]:
    """Error rates in per cent as lines of text."""
    lines = [f"weight {made['weight']:g}, chosen on {dev}"]
    for name, file in (("dev", dev), ("test", test)):
        if "wer" in made.get(name, {}):
            one = made[name]
            lines.append(
                f"  {name:<4}  first {100 * one['first']:.2f}  re-ranked {100 * one['wer']:.2f}  oracle "
                f"{100 * one['oracle']:.2f}  WER of {one['utterances']:,} utterances of {file}"
            )
    return lines
