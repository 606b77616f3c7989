"""From predicted spans of tokens to answers: the texts of spans, over all windows of a question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fwk.data.examples.encoded import EncodedExamples
from fwk.data.examples.labels import LabelSpace

ABSOLUTE, RELATIVE = -1, -2  # see `AnswerSpan.predict`


@dataclass(frozen=True)
class Answer:
    """What a model answers to one question."""

    best: Sequence[
        tuple[str, float]
    ]  # texts and scores, the best first; empty: no span is possible
    no_answer: float  # the score of "no answer" minus that of the best answer

    @property
    def text(self) -> str:
        """The best answer, whatever the score of "no answer"."""
        return self.best[0][0] if self.best else ""


def decode_answers(
    source: EncodedExamples, space: LabelSpace, predictions: Mapping[int, Tensor], most: int = 20
) -> dict[int, Answer]:
    """Return the answers by number of the example. predictions: by number of the window, [1 + N, 3] each."""
    windows: dict[int, list[int]] = {}
    for number in predictions:
        windows.setdefault(source.example_of(number), []).append(number)
    return {
        example: _answer(source, space, example, numbers, predictions, most)
        for example, numbers in windows.items()
    }


def _answer(
    source: EncodedExamples,
    space: LabelSpace,
    example: int,
    windows: Sequence[int],
    predictions: Mapping[int, Tensor],
    most: int,
) -> Answer:
    scores: dict[str, float] = {}
    no_answers = []
    for number in windows:
        rows = predictions[number].double().numpy()
        no_answers.append((int(rows[0, 0]), float(rows[0, 2])))
        for first, last, score in rows[1:]:
            if np.isfinite(score):
                text = _text(source, space, example, number, int(first), int(last))
                scores[text] = max(scores.get(text, -np.inf), float(score))
    best = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:most]
    kind, no_answer = min(no_answers)
    if kind == ABSOLUTE:
        no_answer -= best[0][1] if best else -np.inf
    return Answer(best, no_answer)


def _text(
    source: EncodedExamples, space: LabelSpace, example: int, window: int, first: int, last: int
) -> str:
    """Return the characters of a span. first, last: tokens within the window."""
    text = source.texts[space.text]
    assert text.offsets is not None
    start = int(text.starts[example])
    if source.windows is not None and source.windows.text == space.text:
        start += int(source.windows.starts[window])
    begin, end = int(text.offsets[start + first, 0]), int(text.offsets[start + last, 1])
    return source.raw[space.text][example][begin:end]


def gold_answers(source: EncodedExamples, space: LabelSpace, example: int) -> list[str]:
    """Return all right answers to a question; none where it has no answer."""
    extra = source.extra[example]
    if "answers" in extra:
        return [str(answer) for answer in extra["answers"]]
    span = extra.get("span")
    return [] if span is None else [source.raw[space.text][example][span[0] : span[1]]]


def decided_answers(
    answers: Mapping[int, Answer], optional: bool, threshold: float
) -> dict[int, str]:
    """Return the final answers by number of the example.

    optional: whether a question may have no answer; it then has none where `no_answer` is above the threshold.
    """
    return {
        number: "" if optional and answer.no_answer > threshold else answer.text
        for number, answer in answers.items()
    }
