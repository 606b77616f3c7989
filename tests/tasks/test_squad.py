"""Questions about passages in windows: answers and scores against all pairs of tokens, and the files they go to."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fwk.criteria.answer_span import ABSOLUTE, RELATIVE
from fwk.data.layouts.squad import squad_scores
from fwk.errors import ConfigError, DataError
from fwk.tasks.squad import SOURCE, Squad

PASSAGE = (
    "Anna left the green door in the old barn, and Bert found the red apple in the new attic. "
    "Clara saw a white flower in the kitchen, and David took the blue book to the small school."
)
ANSWERS = {
    "q0": "the old barn",
    "q1": None,
    "q2": "David",
    "q3": "white flower in the kitchen",
    "q4": None,
}


def document(path: Path, answers: dict[str, str | None] = ANSWERS) -> Path:
    questions = [
        {
            "id": key,
            "question": f"What is asked in number {key}?",
            "answers": []
            if text is None
            else [{"text": text, "answer_start": PASSAGE.index(text)}],
            "is_impossible": text is None,
        }
        for key, text in answers.items()
    ]
    paragraphs = [{"context": PASSAGE, "qas": questions}]
    path.write_text(
        json.dumps({"version": "v2.0", "data": [{"title": "a", "paragraphs": paragraphs}]})
    )
    return path


def task(data: Path, **options: object) -> Squad:
    values = {"length": 32, "stride": 5, "question_length": 9, "vocabulary": 60, **options}
    return Squad(Squad.Config(data=str(data), **values), 1)


@pytest.fixture
def opened(tmp_path: Path) -> Squad:
    return task(document(tmp_path / "data.json"))


def token_of(opened: Squad, window: int) -> list[tuple[int, int]]:
    """Return the characters of each token of a window."""
    source = opened.sources("train")[SOURCE]
    text, windows = source.texts["context"], source.windows
    first = int(text.starts[source.example_of(window)])
    start, stop = int(windows.starts[window]), int(windows.stops[window])
    return [tuple(pair) for pair in text.offsets[first + start : first + stop].tolist()]


def random_scores(opened: Squad, kind: int, places: int = 6) -> dict[int, Tensor]:
    """Return predictions of every window with random spans and scores."""
    generator = np.random.default_rng(0)
    predictions = {}
    for number in range(len(opened.sources("train")[SOURCE])):
        tokens = len(token_of(opened, number))
        rows = [[kind, 0, generator.normal()]]
        for _ in range(places):
            first = int(generator.integers(tokens))
            last = int(generator.integers(first, min(tokens, first + 4)))
            rows.append([first, last, generator.normal()])
        rows.append([0, 0, -np.inf])
        predictions[number] = torch.tensor(rows, dtype=torch.float32)
    return predictions


def reference(opened: Squad, predictions: dict[int, Tensor]) -> dict[str, tuple[str, float]]:
    """Return the best text of each question over all of its windows, and the score of no answer beside it."""
    source, answers = opened.sources("train")[SOURCE], {}
    for example, key in enumerate(source.keys):
        windows = [n for n in predictions if source.example_of(n) == example]
        spans = []
        for number in windows:
            characters = token_of(opened, number)
            for first, last, score in predictions[number][1:].tolist():
                if np.isfinite(score):
                    begin, end = characters[int(first)][0], characters[int(last)][1]
                    spans.append((score, PASSAGE[begin:end]))
        score, text = max(spans)
        lowest = min(float(predictions[number][0, 2]) for number in windows)
        absolute = int(predictions[windows[0]][0, 0]) == ABSOLUTE
        answers[key] = text, lowest - score if absolute else lowest
    return answers


def test_windows_hold_all_tokens_and_a_span_where_it_is_whole(opened: Squad) -> None:
    source = opened.sources("train")[SOURCE]
    assert len(source) > 2 * len(ANSWERS)
    seen: dict[str, list[str]] = {key: [] for key in ANSWERS}
    covered: dict[str, set[int]] = {key: set() for key in ANSWERS}
    for number in range(len(source)):
        key, characters = source.keys[source.example_of(number)], token_of(opened, number)
        assert len(source[number].texts["context"][0]) == len(characters) <= 32
        covered[key] |= {place for begin, end in characters for place in range(begin, end)}
        first, last = source[number].labels["label"].tolist()
        if first >= 0:
            seen[key].append(PASSAGE[characters[first][0] : characters[last][1]].strip())
    letters = {place for place, letter in enumerate(PASSAGE) if letter != " "}
    for key, text in ANSWERS.items():
        assert letters <= covered[key]
        assert bool(seen[key]) == (text is not None)
        assert all(text in found and len(found) <= len(text) + 12 for found in seen[key])


@pytest.mark.parametrize("kind", [ABSOLUTE, RELATIVE])
@pytest.mark.parametrize("threshold", [-1.0, 0.0, 2.0])
def test_answers_and_scores_are_the_best_of_all_windows(
    kind: int, threshold: float, tmp_path: Path
) -> None:
    opened = task(document(tmp_path / "data.json"), no_answer_threshold=threshold)
    predictions = random_scores(opened, kind)
    answers = reference(opened, predictions)
    expected = {key: "" if gap > threshold else text for key, (text, gap) in answers.items()}
    gold = {key: [] if text is None else [text] for key, text in ANSWERS.items()}
    best = squad_scores(
        gold,
        {key: text for key, (text, _) in answers.items()},
        {key: gap for key, (_, gap) in answers.items()},
    )
    scores = squad_scores(gold, expected)
    scores |= {name: value for name, value in best.items() if name.startswith("best_")}
    metrics = opened.metrics_of_predictions("train", {SOURCE: {"label": predictions}})
    assert metrics == pytest.approx(scores)

    for name in ("said.json", "said.csv", "said.jsonl"):
        path = tmp_path / name
        opened.check_predictions("train", {SOURCE: path})
        opened.write_predictions("train", SOURCE, {"label": predictions}, path)
    assert json.loads((tmp_path / "said.json").read_text()) == expected
    with open(tmp_path / "said.csv", encoding="utf-8", newline="") as file:
        assert {row["key"]: row["label"] for row in csv.DictReader(file)} == expected
    lines = map(json.loads, (tmp_path / "said.jsonl").read_text().splitlines())
    said = {line["key"]: line["label"] for line in lines}
    for key, (_, gap) in answers.items():
        assert said[key]["prediction"] == expected[key]
        assert said[key]["no_answer"] == pytest.approx(gap)


def test_where_every_question_has_an_answer_none_is_left_out(tmp_path: Path) -> None:
    answered = {key: text for key, text in ANSWERS.items() if text}
    opened = task(document(tmp_path / "data.json", answered))
    predictions = random_scores(opened, ABSOLUTE)
    for rows in predictions.values():
        rows[0, 2] = 1000.0
    opened.write_predictions("train", SOURCE, {"label": predictions}, tmp_path / "said.json")
    said = json.loads((tmp_path / "said.json").read_text())
    assert said == {key: text for key, (text, _) in reference(opened, predictions).items()}


def test_a_passage_without_windows_is_cut_and_counted(tmp_path: Path, caplog) -> None:
    opened = task(document(tmp_path / "data.json"), stride=None, windows=None)
    assert len(opened.sources("train")[SOURCE]) == len(ANSWERS)
    assert "5 of 5 sequences have more than task.length=32 tokens" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [("{}", "not in SQuAD's layout"), ("[", "is not JSON"), ('{"data": []}', "no row|no question")],
)
def test_a_file_of_another_layout_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text(content)
    with pytest.raises(DataError, match=message):
        task(tmp_path / "data.json")


def test_training_data_are_needed() -> None:
    with pytest.raises(ConfigError, match="names no file"):
        Squad.Config(data="")
