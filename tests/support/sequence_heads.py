"""Random encodings with labels, and the outputs of heads in plain Python."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fwk import BuildContext, Criterion
from fwk.contracts.views import Encoded, View
from fwk.nn.pooling import SequenceHead
from support.small_text import VOCABULARY, B, D, Stub, T, text


def build(kind: str, values: tuple[str, ...] = ()) -> BuildContext:
    """Return what criteria are built from, with one label of this kind."""
    return BuildContext(
        encoder=Stub(),
        vocabulary=VOCABULARY,
        labels={"label": values},
        label_kinds={"label": kind},
        key="criterion.tested",
    )


def random_criterion(
    cls: type[Criterion[Any]], kind: str, values: tuple[str, ...] = (), **options: object
) -> Any:
    """Return a criterion with random weights in fp64."""
    torch.manual_seed(0)
    criterion = cls(cls.Config(**options), build(kind, values)).double()  # type: ignore[attr-defined]
    with torch.no_grad():
        for parameter in criterion.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return criterion


def labelled(label: Tensor, draws: list[int] | None = None, seed: int = 0) -> View:
    """Return a view of B random encodings, some of them with padding, in fp64."""
    view = text(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(B, T, D, dtype=torch.float64, generator=generator)
    return view.replace(
        draws=view.draws if draws is None else torch.tensor(draws),
        labels={"label": label},
        encoded=Encoded(features=features),
    )


def outputs(head: SequenceHead, view: View) -> list[list[float]]:
    """Return W x + b of the vector x of each row, by the equations of `fwk/nn/pooling.py` without a dense layer."""
    rows = []
    for features, content in zip(view.encoded.features.tolist(), view.content.tolist()):
        vectors = [vector for vector, counts in zip(features, content) if counts]
        if head.pooling == "cls":
            x = features[0]
        elif head.pooling == "mean":
            x = [sum(column) / len(vectors) for column in zip(*vectors)]
        elif head.pooling == "max":
            x = [max(column) for column in zip(*vectors)]
        else:
            x = vectors[-1]
        weight, bias = head.output.weight.tolist(), head.output.bias.tolist()
        rows.append([sum(w * v for w, v in zip(row, x)) + b for row, b in zip(weight, bias)])
    return rows


def softmax(logits: list[float]) -> list[float]:
    """Return the shares of logits."""
    top = max(logits)
    powers = [math.exp(logit - top) for logit in logits]
    return [power / sum(powers) for power in powers]
