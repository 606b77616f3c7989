"""Answers as spans, against references written from the equations, and against all pairs of positions."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from support.sequence_heads import labelled, random_criterion
from support.small_text import B, T
from torch import Tensor

from fwk.contracts.texts import tokens_label
from fwk.contracts.views import View
from fwk.criteria.answer_span import ABSOLUTE, RELATIVE, AnswerSpan, JointHead

HEADS = ("independent", "joint")
FIRST = 3  # the passage begins at this position, with its token 2: the view holds a window
# by row: first and last position of the answer; the second and the last row hold none
ANSWERS = torch.tensor([[3, 3], [-1, -1], [4, 5], [3, 4], [5, 5], [4, 4], [-1, -1]])


def view_of(answers: Tensor = ANSWERS) -> View:
    view = labelled(answers)
    lengths = torch.tensor([5, 12, 8, 6, 7, 9, 10])  # the last position of a row is a special token
    mask = torch.arange(T) < lengths[:, None]
    tokens = torch.arange(T) - FIRST + 2
    inside = (torch.arange(T) >= FIRST) & (torch.arange(T) < lengths[:, None] - 1)
    labels = {**view.labels, tokens_label("label"): torch.where(inside, tokens, -1)}
    return view.replace(mask=mask, labels=labels)


def criterion_of(head: str, **options: object) -> AnswerSpan:
    return random_criterion(AnswerSpan, "span", head=head, hidden=4, **options)


def log_shares(logits: dict[int, float]) -> dict[int, float]:
    top = max(logits.values())
    total = top + math.log(sum(math.exp(logit - top) for logit in logits.values()))
    return {place: logit - total for place, logit in logits.items()}


def affine(layer: torch.nn.Linear, x: list[float]) -> list[float]:
    bias = [0.0] * layer.out_features if layer.bias is None else layer.bias.tolist()
    return [sum(w * v for w, v in zip(row, x)) + b for row, b in zip(layer.weight.tolist(), bias)]


def gelu(values: list[float]) -> list[float]:
    return [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in values]


class Reference:
    """The equations of one row."""

    def __init__(self, criterion: AnswerSpan, view: View, row: int) -> None:
        self.head = criterion.head
        self.features = view.encoded.features[row].tolist()
        tokens = view.labels[tokens_label("label")][row].tolist()
        self.passage = [place for place, token in enumerate(tokens) if token >= 0]
        self.tokens, self.allowed = tokens, [0, *self.passage]
        if criterion.config.positions == "all":
            self.allowed = list(range(T))
        elif criterion.config.positions == "content":
            self.allowed = [place for place in range(T) if view.content[row, place]]

    def start_logits(self) -> dict[int, float]:
        layer = self.head.start if isinstance(self.head, JointHead) else self.head.output
        return {place: affine(layer, self.features[place])[0] for place in self.allowed}

    def end_logits(self, start: int) -> dict[int, float]:
        head = self.head
        if not isinstance(head, JointHead):
            return {place: affine(head.output, self.features[place])[1] for place in self.allowed}
        of_start = affine(head.end_of_start, self.features[start])
        logits = {}
        for place in self.allowed:
            of_place = affine(head.end_of_position, self.features[place])
            hidden = gelu([a + b for a, b in zip(of_start, of_place)])
            logits[place] = affine(head.end, hidden)[0]
        return logits

    def answerable(self) -> float:
        shares = {
            place: math.exp(value) for place, value in log_shares(self.start_logits()).items()
        }
        summary = [
            sum(share * self.features[place][column] for place, share in shares.items())
            for column in range(len(self.features[0]))
        ]
        hidden = gelu(affine(self.head.answerable_hidden, self.features[0] + summary))
        return affine(self.head.answerable, hidden)[0]

    def score(self, start: int, end: int) -> float:
        if isinstance(self.head, JointHead):
            starts, ends = log_shares(self.start_logits()), log_shares(self.end_logits(start))
            return starts[start] + ends[end]
        return self.start_logits()[start] + self.end_logits(start)[end]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("positions", ["passage", "content", "all"])
@pytest.mark.parametrize("impossible", ["cls", "skip"])
def test_the_loss_is_the_equation_in_float64(head: str, positions: str, impossible: str) -> None:
    criterion = criterion_of(head, positions=positions, impossible=impossible)
    view, span, answerable, rows = view_of(), 0.0, 0.0, 0
    for row, (start, end) in enumerate(ANSWERS.tolist()):
        reference, has_answer = Reference(criterion, view, row), start >= 0
        if impossible == "skip" and not has_answer:
            continue
        rows += 1
        start, end = (start, end) if has_answer else (0, 0)
        span -= log_shares(reference.start_logits())[start] / 2
        span -= log_shares(reference.end_logits(start))[end] / 2
        if head == "joint":
            share = 1 / (1 + math.exp(-reference.answerable()))
            answerable -= math.log(share if has_answer else 1 - share)
    terms = criterion({"text": view}, None).terms
    assert float(terms["span"].sum.detach()) == pytest.approx(span, rel=1e-10)
    normalizers = criterion.normalizers({"text": view}, None)
    assert {int(count) for count in normalizers.values()} == {rows}
    assert terms.keys() == normalizers.keys()
    if head == "joint":
        assert float(terms["answerable"].sum.detach()) == pytest.approx(answerable, rel=1e-10)
        assert terms["answerable"].weight == 0.5


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("longest", [1, 2, 30])
def test_a_wide_beam_finds_the_best_of_all_pairs(head: str, longest: int) -> None:
    criterion = criterion_of(head, longest=longest, beam=1000, best=6).eval()
    view = view_of()
    answers = criterion.predict({"text": view}, None)["label"]
    assert answers.shape == (B, 7, 3)
    for row in range(B):
        reference = Reference(criterion, view, row)
        pairs = product(reference.passage, repeat=2)
        expected = sorted(
            (
                (reference.score(start, end), reference.tokens[start], reference.tokens[end])
                for start, end in pairs
                if 0 <= end - start < longest
            ),
            reverse=True,
        )[:6]
        found = [entry for entry in answers[row, 1:].tolist() if math.isfinite(entry[2])]
        assert [tuple(map(int, entry[:2])) for entry in found] == [pair[1:] for pair in expected]
        assert [entry[2] for entry in found] == pytest.approx([pair[0] for pair in expected])
        kind, _, score = answers[row, 0].tolist()
        if head == "joint":
            assert kind == RELATIVE and score == pytest.approx(-reference.answerable())
        else:
            assert kind == ABSOLUTE and score == pytest.approx(reference.score(0, 0))


@pytest.mark.parametrize("head", HEADS)
def test_a_narrow_beam_finds_the_best_of_the_likeliest_starts_and_ends(head: str) -> None:
    beam = 2
    criterion = criterion_of(head, beam=beam).eval()
    view = view_of()
    answers = criterion.predict({"text": view}, None)["label"]
    for row in range(B):
        reference = Reference(criterion, view, row)
        logits = reference.start_logits()
        starts = sorted(reference.passage, key=lambda place: -logits[place])[:beam]
        expected = set()
        for start in starts:
            ends = reference.end_logits(start)
            best = sorted(reference.passage, key=lambda place: -ends[place])[:beam]
            expected |= {
                (reference.tokens[start], reference.tokens[end]) for end in best if end >= start
            }
        found = answers[row, 1:][answers[row, 1:, 2].isfinite()]
        assert {tuple(map(int, entry)) for entry in found[:, :2].tolist()} == expected


@pytest.mark.parametrize("head", HEADS)
def test_a_window_without_passage_has_no_answer(head: str) -> None:
    view, label = view_of(torch.full_like(ANSWERS, -1)), tokens_label("label")
    view = view.replace(labels={**view.labels, label: torch.full_like(view.labels[label], -1)})
    criterion = criterion_of(head).eval()
    answers = criterion.predict({"text": view}, None)["label"]
    assert bool((answers[:, 1:, 2] == -math.inf).all()) and bool(answers[:, 0].isfinite().all())
    terms = criterion({"text": view}, None).terms
    assert all(bool(term.sum.isfinite()) for term in terms.values())
