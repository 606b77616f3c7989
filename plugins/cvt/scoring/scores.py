"""Scores of spans, tokens and dependency trees, from sums that add up over batches and processes.

All scores are shares from 0 to 1. A share of nothing is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fwk.errors import DataError, did_you_mean
from fwk_plugins.cvt.corpora.label_spaces import SUBTYPE_UNSEEN, UNSEEN
from fwk_plugins.cvt.corpora.tags import Span

# -- spans: precision, recall and F1 -----------------------------------------------------------------------------------


def span_counts(
    predicted: Sequence[Sequence[Span]], gold: Sequence[Sequence[Span]], types: Sequence[str]
) -> Tensor:
    """Return the numbers of correct, predicted and gold spans of a batch, int64 [3, C], by the C types.

    A span is correct where its words and its type are. Raises DataError for a type that is not among `types`.
    """
    index = {kind: number for number, kind in enumerate(types)}
    counts = [[0] * len(types) for _ in range(3)]
    for predicted_spans, gold_spans in zip(predicted, gold, strict=True):
        correct = set(predicted_spans) & set(gold_spans)
        for row, spans in enumerate((correct, predicted_spans, gold_spans)):
            for _, _, kind in spans:
                if kind not in index:
                    raise DataError(
                        f"a span has the type '{kind}', which is not among those counted{did_you_mean(kind, types)}"
                    )
                counts[row][index[kind]] += 1
    return torch.tensor(counts, dtype=torch.int64).view(3, len(types))


def span_scores(counts: Tensor, types: Sequence[str] = ()) -> dict[str, float]:
    """Return precision, recall and f1 over all types (micro averages), and f1_TYPE for each type that is named.

    counts: [3, C] as from `span_counts`.
    """
    correct, predicted, gold = counts.double().sum(1)
    shares = {
        "precision": (correct, predicted),
        "recall": (correct, gold),
        "f1": (2 * correct, predicted + gold),
    }
    for kind, (type_correct, type_predicted, type_gold) in zip(types, counts.double().T):
        shares[f"f1_{kind}"] = (2 * type_correct, type_predicted + type_gold)
    return _shares(shares)


# -- tokens: accuracy --------------------------------------------------------------------------------------------------


def token_counts(predicted: Tensor, gold: Tensor, counted: Tensor) -> Tensor:
    """Return the numbers of correct and of all counted tokens, int64 [2]. All arguments have one shape."""
    return torch.stack([((predicted == gold) & counted).sum(), counted.sum()])


def token_scores(counts: Tensor) -> dict[str, float]:
    """Return the accuracy. counts: [2] as from `token_counts`."""
    correct, total = counts.double()
    return _shares({"accuracy": (correct, total)})


# -- trees: attachment -------------------------------------------------------------------------------------------------


def attachment_counts(
    heads: Tensor,
    labels: Tensor,
    gold_heads: Tensor,
    gold_labels: Tensor,
    counted: Tensor,
    relations: Tensor | None = None,
) -> Tensor:
    """Return the numbers of counted words with the right head, with the right head and label, and of all, int64 [3].

    All arguments are [B, T]. relations: from `without_subtypes`, to compare labels without subtypes; None compares them
    with subtypes.
    """
    if relations is not None:
        relations = relations.to(labels.device)
        labels = _universal(labels, relations, counted)
        gold_labels = _universal(gold_labels, relations, counted)
    attached = (heads == gold_heads) & counted
    return torch.stack([attached.sum(), (attached & (labels == gold_labels)).sum(), counted.sum()])


def attachment_scores(counts: Tensor) -> dict[str, float]:
    """Return UAS and LAS. counts: [3] as from `attachment_counts`."""
    attached, labelled, total = counts.double()
    return _shares({"uas": (attached, total), "las": (labelled, total)})


def without_subtypes(labels: Sequence[str]) -> Tensor:
    """Return the number of each label's universal relation (nsubj:pass -> nsubj), int64 [C].

    Where no label is the universal relation itself, the first of its subtypes stands for it.
    """
    numbers: dict[str, int] = {label: number for number, label in enumerate(labels)}
    universal = [label.partition(":")[0] for label in labels]
    return torch.tensor(
        [numbers.setdefault(relation, number) for number, relation in enumerate(universal)],
        dtype=torch.int64,
    )


def _universal(ids: Tensor, relations: Tensor, counted: Tensor) -> Tensor:
    """Return labels without subtypes; words that are not counted may have any number, such as -100."""
    ids = torch.where(ids <= SUBTYPE_UNSEEN, SUBTYPE_UNSEEN - ids, ids).masked_fill(~counted, 0)
    return relations[ids.clamp(min=0)].masked_fill(ids < 0, UNSEEN)


def _shares(parts: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
    return {name: float(part / whole) for name, (part, whole) in parts.items() if whole > 0}
