"""Re-ranking of n-best lists: the hypothesis with the highest score + weight * log p(text) is chosen.

The weight is the best one on a dev file. Files are JSON objects, utterance -> {"hyp_1": {"score": s, "text": t}, ...,
"ref": r}, as mlm-scoring writes them (Salazar et al. 2020); s is a log score of the recogniser or translator, higher is
better.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import NoReturn

from fwk.contracts.json_files import parse_json
from fwk.contracts.plain import PlainDict, PlainMapping
from fwk.data.text import check_characters, numbered_lines
from fwk.errors import ConfigError, DataError, did_you_mean
from fwk.scoring.scorer import ScoredText, place

RANK = re.compile(r"hyp_([1-9]\d{0,8})")
KEYS = "hyp_1, hyp_2, ... and ref"  # of an utterance, in words


@dataclass(frozen=True)
class Hypothesis:
    """A text that a recogniser or translator proposes."""

    score: float  # log score, higher is better
    text: str


@dataclass(frozen=True)
class Utterance:
    """An n-best list."""

    name: str
    hypotheses: tuple[Hypothesis, ...]  # by rank, the best one first
    reference: str | None  # the right text; None where the file has none
    file: str
    line: int  # from 1

    @property
    def label(self) -> str:
        """The utterance in words."""
        return f"utterance '{self.name}'"

    @property
    def where(self) -> str:
        """The place of the utterance, for messages."""
        return f"{place(self.file, self.line)}, {self.label}"


def read_lists(file: str, lenient: bool = False) -> list[Utterance]:
    """Return the n-best lists of a file. Raises DataError, with file and line, where it is no such file.

    lenient: hypotheses and references may be empty.
    """
    text = "\n".join(line for _, line in numbered_lines(file))
    try:
        content = parse_json(text, _without_duplicates)
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        raise DataError(
            f"{file}, line {line}: not JSON ({getattr(error, 'msg', error)}); expected an object of n-best lists"
        ) from None
    if not isinstance(content, dict) or not content:
        problem = "an empty one" if content == {} else type(content).__name__
        raise DataError(
            f"{file}, line 1: expected a JSON object, utterance -> {KEYS}, got {problem}"
        )
    lines = _lines_of_keys(text, content)
    utterances = [
        _utterance(name, entry, file, line, lenient)
        for (name, entry), line in zip(content.items(), lines, strict=True)
    ]
    with_reference = [utterance.reference is not None for utterance in utterances]
    if any(with_reference) and not all(with_reference):
        first = utterances[with_reference.index(False)]
        raise DataError(f"{first.where}: it has no 'ref', although others have one")
    return utterances


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return the pairs of a JSON object as a dict. Raises ValueError for a key that occurs twice."""
    content: dict[str, object] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"the key '{key}' occurs twice")
        content[key] = value
    return content


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]|\n', re.DOTALL)


def _lines_of_keys(text: str, keys: Iterable[str]) -> list[int]:
    """Return the line of each key of a JSON object, in the order of the file, in one pass over its text."""
    lines: list[int] = []
    depth, line = 0, 1
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token == "\n":
            line += 1
        elif token[0] == '"':
            # a text at the top is a key: `_utterance` refuses an utterance that is one
            if depth == 1:
                lines.append(line)
        else:
            depth += 1 if token in "[{" else -1
    count = len(list(keys))
    return [*lines, *[line] * count][:count]


def _utterance(name: str, entry: object, file: str, line: int, lenient: bool) -> Utterance:
    """Return one entry of a file, which is any JSON value, as an n-best list."""
    where = f"{place(file, line)}, utterance '{name}'"
    if not isinstance(entry, dict):
        raise DataError(f"{where}: expected an object with {KEYS}, got {type(entry).__name__}")
    ranked: dict[int, object] = {}
    for key, value in entry.items():
        if match := RANK.fullmatch(key):
            ranked[int(match[1])] = value
        elif key != "ref":
            hint = did_you_mean(key, ["ref", "hyp_1"], 0)
            raise DataError(f"{where}: unknown key '{key}', expected {KEYS}{hint}")
    ranks = sorted(ranked)
    if not ranks or ranks != [*range(1, len(ranks) + 1)]:
        names = ", ".join(f"hyp_{rank}" for rank in ranks[:5]) or "none"
        raise DataError(f"{where}: expected hyp_1 to hyp_n without a gap, got {names}")

    hypotheses = tuple(_hypothesis(rank, ranked[rank], where, file, line) for rank in ranks)
    reference = entry.get("ref")
    if reference is not None and not isinstance(reference, str):
        raise DataError(f"{where}: 'ref' is not a text")
    texts = {"ref": reference, **{f"hyp_{rank}": h.text for rank, h in enumerate(hypotheses, 1)}}
    empty = [key for key, text in texts.items() if text is not None and not text.strip()]
    if empty and not lenient:
        raise DataError(f"{where}: {empty[0]} is empty; expected a text (or --lenient)")
    for text in (name, reference or ""):
        check_characters(text, file, line)
    if reference is not None:
        reference = reference.strip()
    return Utterance(name, hypotheses, reference, file, line)


def _hypothesis(rank: int, value: object, where: str, file: str, line: int) -> Hypothesis:
    """Return a hypothesis, which is any JSON value in the file."""

    def refuse() -> NoReturn:
        raise DataError(f'{where}: hyp_{rank} is not {{"score": a number, "text": a text}}')

    if not isinstance(value, dict):
        refuse()
    score, text = value.get("score"), value.get("text")
    if not isinstance(score, (int, float)) or isinstance(score, bool) or not abs(score) < 1e30:
        refuse()
    if not isinstance(text, str):
        refuse()
    check_characters(text, file, line)
    return Hypothesis(float(score), text.strip())


def check_portions(
    dev: Sequence[str], test: Sequence[str], lists: Mapping[str, Sequence[Utterance]]
) -> None:
    """Raise an error where dev and test files do not belong together. lists: by file."""
    if test and len(dev) != len(test):
        raise ConfigError(
            "--test",
            f"{len(test)} files for {len(dev)} dev files; expected one for each, in the same order",
        )
    for file in dev:
        if lists[file][0].reference is None:
            raise DataError(
                f"{file}, line 1: has no references, by which the weight is chosen; expected 'ref' in each utterance"
            )
    for dev_file, test_file in zip(dev, test):
        _check_pair(dev_file, test_file, lists)


def _check_pair(dev: str, test: str, lists: Mapping[str, Sequence[Utterance]]) -> None:
    """Raise DataError where a test file has lists of another length, or utterances of the dev file."""
    longest = {
        file: max(len(utterance.hypotheses) for utterance in lists[file]) for file in (dev, test)
    }
    if longest[dev] != longest[test]:
        raise DataError(
            f"{test} holds {longest[test]}-best lists and {dev} {longest[dev]}-best lists; a weight that was chosen on "
            "one does not fit the other"
        )
    known = {utterance.name for utterance in lists[dev]}
    common = [utterance for utterance in lists[test] if utterance.name in known]
    if common:
        raise DataError(
            f"{common[0].where} is in {dev} too (as are {len(common):,} of {len(lists[test]):,}); expected a test file "
            "that the weight was not chosen on"
        )


def texts_of(lists: Mapping[str, Sequence[Utterance]]) -> list[ScoredText]:
    """Return every text that is not empty once, in the order in which it first occurs. lists: by file."""
    texts: dict[str, ScoredText] = {}
    for utterances in lists.values():
        for utterance in utterances:
            for hypothesis in utterance.hypotheses:
                text = hypothesis.text
                if text:
                    scored = ScoredText(text, utterance.file, utterance.line, utterance.label)
                    texts.setdefault(text, scored)
    return list(texts.values())


def choose(
    utterances: Sequence[Utterance], scores: Mapping[str, float], weight: float
) -> list[str]:
    """Return the best text of each list; the first one of several that are equal.

    scores: log p by text. An empty text has none, and is chosen only where no other is listed.
    """

    def total(hypothesis: Hypothesis) -> float:
        if not weight:
            return hypothesis.score
        return hypothesis.score + weight * (
            scores[hypothesis.text] if hypothesis.text else -math.inf
        )

    return [max(utterance.hypotheses, key=total).text for utterance in utterances]


def error_rate(utterances: Sequence[Utterance], texts: Sequence[str]) -> float:
    """Return the word error rate over a whole file: edits divided by words of the references.

    Raises DataError where all references are empty.
    """
    if not any(utterance.reference for utterance in utterances):
        raise DataError(
            f"{utterances[0].file}: all references are empty, so there is no error rate"
        )
    return jiwer().wer([utterance.reference for utterance in utterances], list(texts))


def oracle(utterances: Sequence[Utterance]) -> list[str]:
    """Return the text of each list with the fewest edits. Every utterance must have a reference."""
    process_words = jiwer().process_words

    def edits(reference: str | None, text: str) -> int:
        output = process_words(reference, text)
        return output.substitutions + output.deletions + output.insertions

    return [
        min(
            (hypothesis.text for hypothesis in utterance.hypotheses),
            key=lambda text: edits(utterance.reference, text),
        )
        for utterance in utterances
    ]


def rerank(
    dev: Sequence[Utterance],
    test: Sequence[Utterance] | None,
    scores: Mapping[str, float],
    weights: Sequence[float],
) -> PlainDict:
    """Return the error rate on dev of each weight, the best weight, and the texts chosen with it on dev and test.

    The best weight is the smallest of those with the lowest error rate. scores: log p by text.
    """
    sweep = {weight: error_rate(dev, choose(dev, scores, weight)) for weight in weights}
    best = min(sweep, key=lambda weight: (sweep[weight], weight))
    results: PlainDict = {
        "weight": best,
        "sweep": [{"weight": weight, "wer": rate} for weight, rate in sweep.items()],
    }
    for name, utterances in (("dev", dev), ("test", test)):
        if utterances is not None:
            results[name] = _portion(utterances, choose(utterances, scores, best))
    return results


def _portion(utterances: Sequence[Utterance], texts: Sequence[str]) -> PlainDict:
    """Return the texts chosen for the utterances of a file, with error rates where the file has references."""
    names = [utterance.name for utterance in utterances]
    portion: PlainDict = {"utterances": len(utterances), "choices": dict(zip(names, texts))}
    if utterances[0].reference is not None:
        first = [utterance.hypotheses[0].text for utterance in utterances]
        portion["first"] = error_rate(utterances, first)
        portion["wer"] = error_rate(utterances, texts)
        portion["oracle"] = error_rate(utterances, oracle(utterances))
    return portion


def jiwer() -> ModuleType:
    """Return the package that counts edits. Raises DataError where it is not installed."""
    try:
        return import_module("jiwer")
    except ImportError:
        raise DataError(
            "word error rates need the package 'jiwer'; install it with pip install 'fwk[eval]'"
        ) from None


def describe(dev: str, test: str | None, results: PlainMapping) -> list[str]:
    """Return the result of `rerank` as lines of text, error rates in per cent. dev, test: names of the files."""
    lines = [f"weight {results['weight']:g}, chosen on {dev}"]
    for name, file in (("dev", dev), ("test", test)):
        portion = results.get(name, {})
        if "wer" in portion:
            first, wer, best = (100 * portion[key] for key in ("first", "wer", "oracle"))
            lines.append(
                f"  {name:<4}  first {first:.2f}  re-ranked {wer:.2f}  oracle {best:.2f}  "
                f"WER of {portion['utterances']:,} utterances of {file}"
            )
    return lines
