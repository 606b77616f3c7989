"""Classification by filling a mask, against references written from its equations."""

from __future__ import annotations

import math

import pytest
import torch
from support.small_text import VOCABULARY, B, D, Stub, T, text
from torch import Tensor

from fwk import BuildContext
from fwk.contracts.views import Encoded, View
from fwk.criteria.masked_lm import MaskedLM
from fwk.criteria.verbalizer import Verbalizer
from fwk.errors import ConfigError

WORDS = ((5,), (6, 9), (7,))
CLASSES = ("bad", "fine", "good")


def build(**changes: object) -> BuildContext:
    values = {
        "labels": {"label": CLASSES},
        "label_kinds": {"label": "class"},
        "label_words": {"label": WORDS},
        "key": "criterion.verbalizer",
    }
    return BuildContext(encoder=Stub(), vocabulary=VOCABULARY, **{**values, **changes})


def random_criterion(**options: object) -> Verbalizer:
    torch.manual_seed(0)
    criterion = Verbalizer(Verbalizer.Config(**options), build()).double()
    with torch.no_grad():
        for parameter in criterion.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return criterion


def prompts(draws: list[int] | None = None) -> View:
    """Return a view with one chosen position per row; the second row has no label."""
    view = text()
    label = torch.tensor([0, -1, 2, 1, 1, 0, 2])
    return view.replace(
        draws=view.draws if draws is None else torch.tensor(draws),
        positions=torch.arange(1, B + 1)[:, None],
        valid=torch.ones(B, 1, dtype=torch.bool),
        labels={"label": label},
        encoded=Encoded(features=torch.randn(B, T, D, dtype=torch.float64)),
    )


def reference(criterion: Verbalizer, features: Tensor) -> list[float]:
    """Return the probabilities of the classes at one position, by the equation."""
    logits = criterion.head(features).tolist()
    scores = [sum(math.exp(logits[word]) for word in ids) for ids in WORDS]
    return [score / sum(scores) for score in scores]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_is_the_equation_in_float64(smoothing: float, tied: bool) -> None:
    criterion, view = random_criterion(label_smoothing=smoothing, tied_output=tied), prompts()
    expected = 0.0
    for row, target in enumerate(view.labels["label"].tolist()):
        if target >= 0:
            shares = reference(criterion, view.encoded.features[row, row + 1])
            expected -= (1 - smoothing) * math.log(shares[target])
            expected -= smoothing * sum(map(math.log, shares)) / len(CLASSES)
    output = criterion({"prompt": view}, None)
    assert float(output.terms["verbalizer"].sum.detach()) == pytest.approx(expected, rel=1e-12)
    assert int(criterion.normalizers({"prompt": view}, None)["verbalizer"]) == B - 1


def test_outside_of_training_the_rows_of_an_example_share_one_answer() -> None:
    criterion, view = random_criterion().eval(), prompts([3, 3, 3, 4, 4, 9, 9])
    view = view.replace(labels={"label": torch.tensor([0, 0, 0, 2, 2, -1, -1])})
    expected, answers = 0.0, []
    for rows, target in ((range(3), 0), (range(3, 5), 2), (range(5, 7), None)):
        shares = [reference(criterion, view.encoded.features[row, row + 1]) for row in rows]
        means = [math.exp(sum(math.log(s[c]) for s in shares) / len(shares)) for c in range(3)]
        answers.append([mean / sum(means) for mean in means])
        expected -= 0.0 if target is None else math.log(answers[-1][target])
    output = criterion({"prompt": view}, None)
    assert float(output.terms["verbalizer"].sum.detach()) == pytest.approx(expected, rel=1e-12)
    assert int(criterion.normalizers({"prompt": view}, None)["verbalizer"]) == 2
    predicted = criterion.predict({"prompt": view}, None)["label"].softmax(-1)
    torch.testing.assert_close(predicted, torch.tensor(answers, dtype=torch.float64))
    right = sum(answer.index(max(answer)) == target for answer, target in zip(answers, (0, 2)))
    assert int(output.statistics["right"]) == right


def test_the_head_is_that_of_masked_lm() -> None:
    theirs = MaskedLM(MaskedLM.Config(), BuildContext(encoder=Stub(), vocabulary=VOCABULARY))
    ours = random_criterion().float()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.load_state_dict(theirs.state_dict())
    assert Verbalizer.roles == MaskedLM.roles


def test_a_label_without_words_is_refused() -> None:
    with pytest.raises(ConfigError, match="states no words for the classes of 'label'"):
        Verbalizer(Verbalizer.Config(), build(label_words={}))
