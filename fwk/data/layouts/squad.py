"""The files of SQuAD, and the scores of its official evaluation.

Sources: Rajpurkar et al. 2016, "SQuAD: 100,000+ questions for machine comprehension of text" (1.1); Rajpurkar, Jia and
Liang 2018, "Know what you don't know: Unanswerable questions for SQuAD" (2.0, where a question may have no answer).
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from fwk.contracts.json_files import parse_json
from fwk.contracts.plain import PlainMapping
from fwk.contracts.shapes import Plain, shown
from fwk.data.labelled import Labelled
from fwk.data.tables import BadRow, OnBad, convert
from fwk.data.text import FileKind, find_files, read_text
from fwk.errors import DataError

LARGEST = 1 << 28  # bytes of a file, which is read as a whole; SQuAD 2.0 has 42 million
_FILES = FileKind("file of SQuAD", (".json",), "write it to a file first")
_CONTEXT = 20  # characters of a context that a message shows


class _Question(NamedTuple):
    """A question as the file has it, with what surrounds it."""

    place: str
    title: str
    context: str
    fields: Plain


# ---- questions ----


def read_squad(paths: str | Sequence[str], on_bad: OnBad | None = None) -> Iterator[Labelled]:
    """Return an iterator over the questions of files in SQuAD's JSON, 1.1 or 2.0, compressed or not.

    texts: question and context. labels: "answer", the span of the first answer in the context, or None for a question
    that has none; a question without the field 'answers' has no label. extra: title; impossible; answers and spans, the
    text and the span of all answers. on_bad: see `read_table`; a question is bad where an answer is not at its place.
    """
    files = find_files([paths] if isinstance(paths, str) else list(paths), _FILES)
    return (
        example for file in files for example in convert(_questions(file, on_bad), _example, on_bad)
    )


def _questions(file: str, on_bad: OnBad | None) -> Iterator[_Question]:
    """Yield the questions of one file. Raises DataError for a file of another structure."""
    try:
        content = parse_json(read_text(file, LARGEST))
    except ValueError as error:
        raise DataError(f"{file} is not JSON ({str(error)[:100]})") from None
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        raise DataError(f"{file} is not in SQuAD's layout: expected an object with the list 'data'")
    for article, place in _items(content, "data", f"{file}: "):
        title = article.get("title", "")
        for paragraph, inner in _items(article, "paragraphs", place):
            context = paragraph.get("context")
            if not isinstance(context, str):
                raise DataError(f"{inner} has no text 'context', expected SQuAD's layout")
            for fields, innermost in _items(paragraph, "qas", inner):
                yield _Question(innermost, str(title), context, fields)


def _items(outer: PlainMapping, name: str, place: str) -> Iterator[tuple[PlainMapping, str]]:
    """Yield the objects of a list, each with its place. Raises DataError for anything else."""
    items = outer.get(name)
    if not isinstance(items, list):
        raise DataError(f"{place} has no list '{name}', expected SQuAD's layout")
    dot = "" if place.endswith(" ") else "."
    for index, item in enumerate(items):
        inner = f"{place}{dot}{name}[{index}]"
        if not isinstance(item, dict):
            raise DataError(f"{inner} is {shown(item)}, expected SQuAD's layout")
        yield item, inner


def _example(question: _Question) -> Labelled:
    """Return the example of a question. Raises BadRow."""
    place, title, context, fields = question
    text, key = fields.get("question"), fields.get("id")
    if not isinstance(text, str):
        raise BadRow(place, "the question has no text 'question'")
    if not isinstance(key, (str, int)):
        raise BadRow(place, "the question has no 'id'")
    try:
        f"{text}{key}{context}".encode()
    except UnicodeEncodeError as error:
        half = ord(error.object[error.start])
        raise BadRow(place, f"not text (\\u{half:04x} is half a character)") from None
    place = f"{place} ({key})"
    spans = tuple(dict.fromkeys(_spans(fields.get("answers", []), context, place)))
    answers = tuple(answer["text"] for answer in fields.get("answers", []))
    impossible = fields.get("is_impossible", not spans) is True
    if not impossible and not spans and "answers" in fields:
        raise BadRow(place, "the question is not marked as impossible, and has no answer")
    labels: dict[str, tuple[int, int] | None] = {}
    if "answers" in fields:
        labels["answer"] = None if impossible else spans[0]
    return Labelled(
        place,
        key=str(key),
        texts={"question": text, "context": context},
        labels=labels,
        extra={
            "title": title,
            "impossible": impossible and bool(labels),
            "answers": () if impossible else answers,
            "spans": () if impossible else spans,
        },
    )


def _spans(answers: Plain, context: str, place: str) -> Iterator[tuple[int, int]]:
    """Yield the span of each answer, in characters of the context. Raises BadRow."""
    if not isinstance(answers, list):
        raise BadRow(place, f"expected a list of answers, got {shown(answers)}")
    for answer in answers:
        text = answer.get("text") if isinstance(answer, dict) else None
        start = answer.get("answer_start") if isinstance(answer, dict) else None
        if not isinstance(text, str) or not isinstance(start, int) or isinstance(start, bool):
            raise BadRow(place, "expected an answer with 'text' and the number 'answer_start'")
        if not text:
            raise BadRow(place, "an answer is empty")
        if start < 0 or not context.startswith(text, start):
            at_start = context[max(start, 0) :][:_CONTEXT]
            raise BadRow(
                place,
                f"the answer {shown(text)} is not at character {start} of the context, where {shown(at_start)} is",
            )
        yield start, start + len(text)


# ---- scores ----

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_answer(text: str) -> str:
    """Return an answer as it is compared: in lower case, without ASCII punctuation and articles, with single blanks."""
    bare = text.lower().translate(_WITHOUT_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(predicted: str, gold: str) -> float:
    """Return 1 where two answers are compared as equal, else 0."""
    return float(normalise_answer(predicted) == normalise_answer(gold))


def token_f1(predicted: str, gold: str) -> float:
    """Return the harmonic mean of precision and recall of the predicted words, as bags.

    Where one answer has no words after `normalise_answer`, it is 1 if neither has and 0 otherwise (2.0's rule).
    """
    words, gold_words = normalise_answer(predicted).split(), normalise_answer(gold).split()
    if not words or not gold_words:
        return float(words == gold_words)
    common = (Counter(words) & Counter(gold_words)).total()
    # 2 p r / (p + r) with p = common / |words| and r = common / |gold|, in the order of the official arithmetic
    precision, recall = common / len(words), common / len(gold_words)
    return 2 * precision * recall / (precision + recall) if common else 0.0


def squad_scores(
    gold: Mapping[str, Sequence[str]],
    predicted: Mapping[str, str],
    no_answer: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Return the scores of the official evaluation, in percent: "exact", "f1" and "total", and those of the two groups.

    gold: the answers of each question; none where it has no answer, for which the prediction "" is right. A question
    without a prediction scores 0. Questions with answers are scored as HasAns_exact, HasAns_f1 and HasAns_total; those
    without, which only 2.0 has, as NoAns_... no_answer: a score of each question that grows with the belief that it has
    no answer; it adds the best scores that a threshold on it gives, and that threshold: best_exact, best_exact_thresh,
    best_f1, best_f1_thresh.

    The scores are those of 2.0's evaluation. 1.1's differ in F1 alone, where an answer has no words but articles.
    """
    exact, f1 = (_best_of_gold(measure, gold, predicted) for measure in (exact_match, token_f1))
    groups = {"": list(gold)}
    groups["HasAns_"] = [key for key in gold if gold[key]]
    groups["NoAns_"] = [key for key in gold if not gold[key]]
    scores: dict[str, float] = {}
    for group, keys in groups.items():
        if keys:
            scores[f"{group}exact"] = 100 * sum(exact[key] for key in keys) / len(keys)
            scores[f"{group}f1"] = 100 * sum(f1[key] for key in keys) / len(keys)
            scores[f"{group}total"] = len(keys)
    if no_answer is not None:
        for name, of_questions in (("exact", exact), ("f1", f1)):
            best, threshold = _best_threshold(of_questions, gold, predicted, no_answer)
            scores[f"best_{name}"], scores[f"best_{name}_thresh"] = best, threshold
    return scores


def _best_of_gold(
    measure: Callable[[str, str], float],
    gold: Mapping[str, Sequence[str]],
    predicted: Mapping[str, str],
) -> dict[str, float]:
    """Return the best score of each prediction over the gold answers of its question."""
    scores = {}
    for key, answers in gold.items():
        # an answer of articles and punctuation alone would be matched by an empty prediction
        texts = [answer for answer in answers if normalise_answer(answer)] or [""]
        scores[key] = (
            max(measure(predicted[key], text) for text in texts) if key in predicted else 0.0
        )
    return scores


def _best_threshold(
    scores: Mapping[str, float],
    gold: Mapping[str, Sequence[str]],
    predicted: Mapping[str, str],
    no_answer: Mapping[str, float],
) -> tuple[float, float]:
    """Return the best mean score, in percent, and the threshold of `no_answer` above which no answer is given.

    At first no question is answered, so all questions without an answer are right. Then the threshold rises over one
    question after another: an answer adds its score, or costs 1 if the question has no answer.
    """
    current = best = float(sum(not answers for answers in gold.values()))
    threshold = 0.0
    for key in sorted(no_answer, key=lambda key: no_answer[key]):
        if key in scores:
            wrong = -1.0 if predicted.get(key) else 0.0
            current += scores[key] if gold[key] else wrong
            if current > best:
                best, threshold = current, no_answer[key]
    return 100 * best / max(len(scores), 1), threshold


def predictions_json(predicted: Mapping[str, str]) -> str:
    """Return predictions, or no-answer scores, as the official evaluation reads them: an object of id -> text."""
    return json.dumps(dict(predicted), ensure_ascii=False, indent=1) + "\n"
