"""Losses with a teacher, against references written from the equations of `fwk/nn/mixed_targets.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from support.sequence_heads import build, labelled, softmax
from torch import Tensor

from fwk.contracts.texts import teacher_label, tokens_label
from fwk.contracts.views import Encoded, View
from fwk.criteria.answer_span import AnswerSpan
from fwk.criteria.classification import Classification
from fwk.criteria.multilabel import Multilabel
from fwk.criteria.multiple_choice import MultipleChoice
from fwk.criteria.regression import Regression
from fwk.errors import ConfigError
from fwk.nn.mixed_targets import Distillation, TeacherOptions

NAN, INF, T = math.nan, math.inf, 2.0
CLASSES = ("a", "b", "c")
CLASS = torch.tensor([0, -1, 2, 1, 1, -1, 2])
R = len(CLASS)
SHARES = [0.0, 0.3, 0.5]
TEACHER = torch.randn(R, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@dataclass
class At:
    """The context of an update in training, as far as these criteria read it."""

    progress: float = 0.0
    training: bool = True


def taught(cls: Any, kind: str, values: tuple[str, ...] = (), **options: object) -> Any:
    """Return a criterion with random weights in fp64 that has the stored outputs of a teacher."""
    torch.manual_seed(0)
    context = replace(build(kind, values), taught=("label",))
    criterion = cls(cls.Config(dropout=0.0, **options), context).double()
    with torch.no_grad():
        for parameter in criterion.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return criterion


def with_teacher(view: View, outputs: Tensor) -> View:
    return view.replace(labels={**view.labels, teacher_label("label"): outputs})


def cross_entropy(targets: list[float], logits: list[float]) -> float:
    pairs = zip(targets, softmax(logits), strict=True)
    return -sum(target * math.log(share) for target, share in pairs if target)


def soft(teacher: list[float], logits: list[float]) -> float:
    at = [[value / T for value in values] for values in (teacher, logits)]
    return T * T * cross_entropy(softmax(at[0]), at[1])


def check(criterion: Any, view: View, term: str, expected: float, count: float) -> None:
    """Check sum and count of a term, and its gradient by finite differences."""
    views = dict.fromkeys(criterion.reads(criterion.config), view)
    loss = criterion(views, At()).terms[term].sum
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-12)
    assert float(criterion.normalizers(views, At())[term]) == count
    parameter = next(p for p in reversed([*criterion.parameters()]) if p.dim() == 2)
    (gradient,) = torch.autograd.grad(loss, parameter)
    with torch.no_grad():
        direction, step = torch.randn_like(parameter), 1e-6
        parameter += step * direction
        higher = criterion(views, At()).terms[term].sum
        parameter -= 2 * step * direction
        lower = criterion(views, At()).terms[term].sum
        parameter += step * direction
    slope = float((higher - lower) / (2 * step))
    assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-6)


@pytest.mark.parametrize("share", SHARES)
def test_classes_have_the_cross_entropy_of_the_mixed_target(share: float) -> None:
    weights = {"b": 3.0}
    options = {"label_smoothing": 0.3, "class_weights": weights, "temperature": T}
    criterion = taught(Classification, "class", CLASSES, gold=share, **options)
    view = with_teacher(labelled(CLASS), TEACHER)
    logits = criterion.logits(view).tolist()
    expected = count = 0.0
    for y, teacher, z in zip(CLASS.tolist(), TEACHER.tolist(), logits, strict=True):
        part = share if y >= 0 else 0.0
        gold = [0.1 + 0.7 * (c == y) for c in range(3)]
        weight = weights.get(CLASSES[y], 1.0) if y >= 0 else 1.0
        expected += weight * (part * cross_entropy(gold, z) + (1 - part) * soft(teacher, z))
        count += weight
    check(criterion, view, "classification", expected, count)


def test_without_temperature_the_loss_is_that_of_the_mixed_distribution() -> None:
    criterion = taught(Classification, "class", CLASSES, gold=0.25)
    view = with_teacher(labelled(CLASS.clamp(min=0)), TEACHER)
    expected = 0.0
    for y, teacher, z in zip(
        CLASS.clamp(min=0).tolist(), TEACHER.tolist(), criterion.logits(view).tolist()
    ):
        mixed = [0.25 * (c == y) + 0.75 * p for c, p in enumerate(softmax(teacher))]
        expected += cross_entropy(mixed, z)
    check(criterion, view, "classification", expected, R)


@pytest.mark.parametrize("share", SHARES)
def test_several_classes_have_the_binary_cross_entropy_of_the_mixed_target(share: float) -> None:
    label = torch.tensor([[0, 1, 1], [-1, -1, -1], [1, 0, 0]] * 3)[:R].double()
    criterion = taught(
        Multilabel, "classes", CLASSES, gold=share, positive_weight=2.0, temperature=T
    )
    view = with_teacher(labelled(label), TEACHER)

    def binary(y: float, z: float) -> float:
        p = 1 / (1 + math.exp(-z))
        return -(2.0 * y * math.log(p) + (1 - y) * math.log(1 - p))

    rows = zip(label.tolist(), TEACHER.tolist(), criterion.logits(view).tolist(), strict=True)
    expected = 0.0
    for ys, teacher, logits in rows:
        for y, u, z in zip(ys, teacher, logits, strict=True):
            part = share if y >= 0 else 0.0
            p = 1 / (1 + math.exp(-u / T))
            gold = binary(y, z) if y >= 0 else 0.0
            expected += part * gold + (1 - part) * T * T * binary(p, z / T)
    check(criterion, view, "multilabel", expected, 3 * R)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("activation", ["linear", "sigmoid"])
def test_numbers_have_the_squared_error_of_the_mixed_number(share: float, activation: str) -> None:
    label = torch.tensor([1.0, NAN, 4.5, 0.0, 2.0, NAN, 5.0]).double()
    teacher = 5 * TEACHER[:, 0].sigmoid()
    criterion = taught(Regression, "number", gold=share, low=1.0, high=5.0, activation=activation)
    view = with_teacher(labelled(label), teacher)
    expected = 0.0
    out = criterion._out(view).tolist()
    for y, t, o in zip(label.tolist(), teacher.tolist(), out, strict=True):
        mixed = t if math.isnan(y) else share * y + (1 - share) * t
        expected += (o - (mixed - 1.0) / 4.0) ** 2
    check(criterion, view, "regression", expected, R)


@pytest.mark.parametrize("share", SHARES)
def test_choices_have_the_cross_entropy_of_the_mixed_target(share: float) -> None:
    sizes, right = [2, 3, 2], [1, -1, 0]
    per_row = torch.tensor(sizes)
    label = torch.tensor(right).repeat_interleave(per_row)
    # the file has places for four choices, of which nobody here has so many
    outputs = [[0.3, -1.0, -INF, -INF], [0.1, 0.2, 2.0, -INF], [1.0, 0.5, -INF, -INF]]
    rows = torch.tensor(outputs, dtype=torch.float64).repeat_interleave(per_row, 0)
    criterion = taught(MultipleChoice, "choice", gold=share, temperature=T)
    view = with_teacher(labelled(label, torch.arange(3).repeat_interleave(per_row).tolist()), rows)
    expected, logits = 0.0, criterion.logits(view).tolist()
    for size, y, teacher, z in zip(sizes, right, outputs, logits, strict=True):
        part = share if y >= 0 else 0.0
        gold = cross_entropy([float(c == y) for c in range(size)], z[:size]) if y >= 0 else 0.0
        expected += part * gold + (1 - part) * soft(teacher[:size], z[:size])
    check(criterion, view, "multiple_choice", expected, 3)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("impossible", ["cls", "skip"])
def test_answers_have_the_cross_entropy_of_mixed_starts_and_ends(
    share: float, impossible: str
) -> None:
    view = labelled(torch.tensor([[3, 4]] * (R - 1) + [[-1, -1]]))
    rows, length = view.tokens.shape
    tokens = torch.full((rows, length), -1)
    tokens[:, 2:5] = torch.arange(3)
    generator = torch.Generator().manual_seed(5)
    outputs = torch.randn(rows, 4, 2, dtype=torch.float64, generator=generator)
    view = with_teacher(view, outputs)
    view = view.replace(labels={**view.labels, tokens_label("label"): tokens})
    criterion = taught(AnswerSpan, "span", gold=share, impossible=impossible, temperature=T)
    logits = criterion.teach({"text": view}, At())["label"]  # of [CLS] and of each token
    expected = 0.0
    for row in range(rows):
        absent = int(view.labels["label"][row, 0]) < 0
        gold = [0, 0] if absent else [2, 3]  # positions 3 and 4 are the tokens 1 and 2
        part = 0.0 if absent and impossible == "skip" else share
        for end in (0, 1):
            z = logits[row, :4, end].tolist()
            one_hot = [float(c == gold[end]) for c in range(4)]
            teacher = outputs[row, :, end].tolist()
            losses = part * cross_entropy(one_hot, z) + (1 - part) * soft(teacher, z)
            expected += losses / 2
    check(criterion, view, "span", expected, rows)


def test_what_an_answer_teaches_is_in_the_order_of_the_text() -> None:
    view = labelled(torch.tensor([[3, 4]] * R))
    rows, length = view.tokens.shape
    tokens = torch.full((rows, length), -1)
    tokens[:, 2:5] = torch.arange(3)
    view = view.replace(labels={**view.labels, tokens_label("label"): tokens})
    criterion = taught(AnswerSpan, "span")
    logits = criterion.head.output(view.encoded.features)  # [R, T, 2]
    teaching = criterion.teach({"text": view}, At())["label"]
    assert torch.equal(teaching[:, :4], logits[:, [0, 2, 3, 4]])
    assert bool(teaching[:, 4:].isneginf().all())


@pytest.mark.parametrize(
    ("gold", "shares"),
    [
        (0.5, [0.5, 0.5, 0.5, 0.5]),
        ({"from": 0.0, "to": 1.0}, [0.0, 0.25, 0.5, 1.0]),
        ({"from": 0.0, "to": 1.0, "start": 0.25, "end": 0.5}, [0.0, 0.0, 1.0, 1.0]),
        ({"from": 1.0, "to": 0.5}, [1.0, 0.875, 0.75, 0.5]),
        ({"from": 0.0, "to": 1.0, "schedule": "linear"}, [0.0, 0.25, 0.5, 1.0]),
        (
            {"from": 0.0, "to": 1.0, "schedule": "cosine"},
            [0.0, (1 - math.cos(math.pi / 4)) / 2, 0.5, 1.0],
        ),
    ],
)
def test_the_share_of_the_label_is_exact(gold: Any, shares: list[float]) -> None:
    context = replace(build("class", CLASSES), taught=("label",))
    distillation = Distillation(TeacherOptions(gold=gold), context, "label")
    found = [distillation.share(At(progress)) for progress in (0.0, 0.25, 0.5, 1.0)]
    if "schedule" in (gold if isinstance(gold, dict) else {}) and gold["schedule"] == "cosine":
        assert found == pytest.approx(shares, abs=1e-15)
    else:
        assert found == shares
    assert distillation.share(At(0.0, training=False)) == 1.0
    assert Distillation(TeacherOptions(gold=gold), build("class"), "label").share(At()) == 1.0


@pytest.mark.parametrize(
    ("gold", "message"),
    [
        ({"from": 0.0}, "gold.to: a share that changes needs this key"),
        ({"from": 0.0, "to": 1.0, "until": 1.0}, "has the keys from, to, start, end, schedule"),
        ({"from": 0.0, "to": 1.0, "schedul": "cosine"}, "Did you mean 'schedule'"),
        ({"from": 0.0, "to": "x"}, "gold.to: is 'x', expected a number"),
        ({"from": 0.0, "to": 1.0, "schedule": 1.0}, "expected the name of a schedule"),
        ({"from": 0.0, "to": 1.0, "start": 0.5, "end": 0.2}, "expected 0 <= start < end <= 1"),
    ],
)
def test_a_share_that_cannot_be_is_refused(gold: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TeacherOptions(gold=gold)


@pytest.mark.parametrize("name", ["constant", "inverse_sqrt", "inverse_time"])
def test_a_schedule_that_counts_updates_is_refused(name: str) -> None:
    gold: Any = {"from": 0.0, "to": 1.0, "schedule": name}
    context = replace(build("class", CLASSES), taught=("label",))
    with pytest.raises(ConfigError, match="no function of the share of the run"):
        Distillation(TeacherOptions(gold=gold), context, "label")


def test_numbers_have_no_temperature_and_the_joint_head_no_teacher() -> None:
    with pytest.raises(ConfigError, match="expected 1"):
        Regression.Config(temperature=2.0)
    with pytest.raises(ConfigError, match="expected head: independent"):
        taught(AnswerSpan, "span", head="joint")


def test_evaluation_and_the_end_of_annealing_leave_the_supervised_loss_bit_for_bit() -> None:
    view = labelled(CLASS)
    plain = Classification(Classification.Config(dropout=0.0), build("class", CLASSES)).double()
    criterion = taught(Classification, "class", CLASSES)
    criterion.load_state_dict(plain.state_dict())
    (expected,) = plain({"text": view}, None).terms.values()
    # no outputs of a teacher are needed there
    for context in (At(1.0), At(0.3, training=False)):
        (term,) = criterion({"text": view}, context).terms.values()
        assert torch.equal(term.sum, expected.sum)
        (count,) = criterion.normalizers({"text": view}, context).values()
        assert int(count) == int((CLASS >= 0).sum())


def test_the_teacher_gets_no_gradient() -> None:
    criterion = taught(Classification, "class", CLASSES, gold=0.0)
    view = labelled(CLASS)
    features = view.encoded.features.clone().requires_grad_()
    view = with_teacher(view.replace(encoded=Encoded(features=features)), TEACHER)
    criterion({"text": view}, At()).terms["classification"].sum.backward()
    assert bool(features.grad.abs().sum() > 0) and TEACHER.grad is None
