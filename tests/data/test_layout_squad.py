"""Files of SQuAD become questions with spans; the scores are those of the official evaluation."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from support.paths import SHARED

from fwk.data.layouts.squad import (
    exact_match,
    normalise_answer,
    predictions_json,
    read_squad,
    squad_scores,
    token_f1,
)
from fwk.data.tables import BadRow
from fwk.errors import DataError

CONTEXT = "The bär ran to the 😀 forest in 1999."


def answer(text: str, start: int | None = None) -> dict:
    return {"text": text, "answer_start": CONTEXT.index(text) if start is None else start}


def write(path: Path, *questions: dict, version: str = "v2.0") -> str:
    numbered = [
        {"id": f"q{number}", "question": "Why?"} | fields for number, fields in enumerate(questions)
    ]
    paragraphs = [{"context": CONTEXT, "qas": numbered}]
    content = {"version": version, "data": [{"title": "Bears", "paragraphs": paragraphs}]}
    path.write_text(json.dumps(content))
    return str(path)


def test_questions_have_the_span_of_their_first_answer(tmp_path):
    answers = [answer("forest"), answer("😀 forest"), answer("forest")]
    path = write(tmp_path / "a.json", {"answers": answers}, version="1.1")
    (example,) = read_squad(path)
    start, end = example.labels["answer"]
    assert CONTEXT[start:end] == "forest"
    assert example.texts == {"question": "Why?", "context": CONTEXT}
    assert example.key == "q0"
    assert example.place == f"{path}: data[0].paragraphs[0].qas[0] (q0)"
    assert example.extra == {
        "title": "Bears",
        "impossible": False,
        "answers": ("forest", "😀 forest", "forest"),
        "spans": ((21, 27), (19, 27)),
    }


def test_a_question_without_an_answer_is_impossible_or_has_no_label(tmp_path):
    plausible = {"plausible_answers": [answer("bär")]}
    path = write(
        tmp_path / "a.json",
        {"answers": [], "is_impossible": True} | plausible,
        {"answers": []},
        {},
        {"is_impossible": False, "answers": [answer("1999")]},
    )
    examples = list(read_squad(path))
    assert [example.labels for example in examples] == [
        {"answer": None}, {"answer": None}, {}, {"answer": (31, 35)}
    ]  # fmt: skip
    assert [example.extra["impossible"] for example in examples] == [True, True, False, False]


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"answers": [answer("forest", 20)]}, "the answer 'forest' is not at character 20 of the context, where '"),
        ({"answers": [answer("The", -37)]}, "is not at character -37"),
        ({"answers": [answer("bär"), answer("bär", 10**9)]}, "is not at character 1000000000"),
        ({"answers": [{"text": "bär"}]}, "expected an answer with 'text' and the number 'answer_start'"),
        ({"answers": ["bär"]}, "expected an answer with 'text'"),
        ({"answers": {"text": ["bär"]}}, "expected a list of answers, got a mapping"),
        ({"answers": [answer("", 3)]}, "an answer is empty"),
        ({"answers": [], "is_impossible": False}, "is not marked as impossible, and has no answer"),
        ({"question": None}, "the question has no text 'question'"),
        ({"id": None}, "the question has no 'id'"),
        ({"question": "\ud83d"}, "not text (\\ud83d is half a character)"),
    ],
)  # fmt: skip
def test_a_bad_question_is_named_or_left_out(tmp_path, fields, reason):
    path = write(tmp_path / "a.json", {}, fields, {})
    with pytest.raises(BadRow) as refused:
        list(read_squad(path))
    assert reason in str(refused.value)
    assert refused.value.place.startswith(f"{path}: data[0].paragraphs[0].qas[1]")
    bad: list[BadRow] = []
    assert [example.key for example in read_squad(path, bad.append)] == ["q0", "q2"]
    assert [str(error) for error in bad] == [str(refused.value)]


@pytest.mark.parametrize(
    "content, message",
    [
        ("[]", "is not in SQuAD's layout: expected an object with the list 'data'"),
        ('{"data": 1', "is not JSON"),
        ('{"data": [1]}', "data[0] is 1, expected SQuAD's layout"),
        ('{"data": [{}]}', "data[0] has no list 'paragraphs'"),
        (
            '{"data": [{"paragraphs": [{"qas": []}]}]}',
            "data[0].paragraphs[0] has no text 'context'",
        ),
    ],
)
def test_a_file_of_another_structure_is_refused(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DataError) as refused:
        list(read_squad(str(path), lambda bad: None))
    assert message in str(refused.value)
    assert str(path) in str(refused.value)


# -- scores ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, normal",
    [
        ("The  Bär!", "bär"),
        ("an apple-a-day", "appleaday"),
        ("a.b the c", "ab c"),
        ("theory, then", "theory then"),
        (
            "“the” – one",
            "“ ” – one",
        ),  # ASCII punctuation alone is left out, articles at word boundaries
        ("the a an", ""),
    ],
)
def test_answers_are_compared_without_case_punctuation_and_articles(text, normal):
    assert normalise_answer(text) == normal


def test_f1_counts_each_word_as_often_as_both_answers_have_it():
    assert token_f1("a b b c", "b c c") == pytest.approx(2 * (2 / 3) * (2 / 3) / (4 / 3), abs=1e-15)
    assert token_f1("b", "c") == 0
    assert token_f1("the", "") == 1
    assert token_f1("the", "b") == 0
    assert exact_match("The b.", "b") == 1


GOLD = {
    "exact": ["Denver Broncos", "Broncos"],
    "half": ["the Denver Broncos"],
    "wrong": ["1999"],
    "missing": ["x"],
    "articles": ["the", "b"],
    "none right": [],
    "none wrong": [],
}
PREDICTED = {
    "exact": "The Broncos.",
    "half": "Broncos",
    "wrong": "2000",
    "articles": "",
    "none right": "",
    "none wrong": "Denver",
}


def test_scores_are_those_of_the_official_evaluation():
    scores = squad_scores(GOLD, PREDICTED)
    half = 2 * 1 * 0.5 / 1.5
    assert scores == pytest.approx(
        {
            "exact": 100 * 2 / 7,
            "f1": 100 * (2 + half) / 7,
            "total": 7,
            "HasAns_exact": 100 * 1 / 5,
            "HasAns_f1": 100 * (1 + half) / 5,
            "HasAns_total": 5,
            "NoAns_exact": 50,
            "NoAns_f1": 50,
            "NoAns_total": 2,
        },
        abs=1e-12,  # rounding of sums
    )


def test_scores_of_1_1_have_no_group_of_questions_without_answers():
    gold = {key: answers for key, answers in GOLD.items() if answers}
    assert set(squad_scores(gold, PREDICTED)) == {
        "exact", "f1", "total", "HasAns_exact", "HasAns_f1", "HasAns_total"
    }  # fmt: skip
    assert squad_scores({}, {}) == {}


def test_the_best_threshold_is_found_among_the_scores_of_having_no_answer():
    # from the least doubtful question on: exact +1, none wrong -1, half +0.67 in F1 alone, none right and wrong +0
    doubt = {
        "exact": 0.1,
        "none wrong": 0.3,
        "half": 0.4,
        "none right": 0.8,
        "wrong": 0.9,
        "x": 0.0,
    }
    gold = {key: GOLD[key] for key in doubt if key != "x"}
    scores = squad_scores(gold, PREDICTED, doubt)
    assert (scores["best_exact"], scores["best_exact_thresh"]) == (100 * 3 / 5, 0.1)
    assert (scores["best_f1"], scores["best_f1_thresh"]) == (100 * 3 / 5, 0.1)
    doubt["half"] = 0.2
    scores = squad_scores(gold, PREDICTED, doubt)
    assert scores["best_f1"] == pytest.approx(100 * (3 + 2 / 3) / 5, abs=1e-12)
    assert scores["best_f1_thresh"] == 0.2
    never = squad_scores(gold, dict.fromkeys(PREDICTED, "no"), doubt)
    assert (never["best_exact"], never["best_exact_thresh"]) == (100 * 2 / 5, 0.0)


def test_no_other_threshold_gives_a_better_score():
    draw = random.Random(2)
    for _ in range(50):
        keys = [f"q{number}" for number in range(8)]
        gold = {key: draw.choice([[], ["a b"], ["b"]]) for key in keys}
        predicted = {key: draw.choice(["", "b", "b c", "d"]) for key in keys}
        doubt = {key: draw.random() for key in keys}
        scores = squad_scores(gold, predicted, doubt)
        for name in ("exact", "f1"):
            reached = [
                squad_scores(
                    gold, {key: predicted[key] if doubt[key] <= limit else "" for key in keys}
                )[name]
                for limit in (-1.0, *doubt.values())
            ]
            assert scores[f"best_{name}"] == pytest.approx(max(reached), abs=1e-9)


def test_predictions_are_an_object():
    assert json.loads(predictions_json({"q0": "bär", "q1": ""})) == {"q0": "bär", "q1": ""}
    assert "bär" in predictions_json({"q0": "bär"})


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "squad").is_dir(), reason="the data sets are not there")
def test_gold_answers_of_real_files_score_100():
    for path in sorted((SHARED / "squad").glob("*.json.xz")):
        examples = list(read_squad(str(path)))
        gold = {example.key: example.extra["answers"] for example in examples}
        spans = {
            example.key: example.texts["context"][slice(*example.labels["answer"])]
            for example in examples
            if example.labels["answer"]
        }
        scores = squad_scores(gold, {key: spans.get(key, "") for key in gold})
        assert (scores["exact"], scores["f1"], scores["total"]) == (100, 100, len(examples))
