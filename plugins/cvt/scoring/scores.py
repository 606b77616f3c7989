"""Precision, recall and F1 of spans, accuracy of tokens, and attachment of dependency trees, from sums that add up over
batches and processes. All scores are shares from 0 to 1; what would divide by nothing is left out."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from fwk.errors import DataError, did_you_mean
from fwk_plugins.cvt.corpora.tags import PREFIXES, Span, spans

# What stands for a gold value that is none of the label's values: there is none; training never saw it; training never saw it,
# and it goes on with the span that an unseen one began; training never saw this subtype, but the relation of number n (RELATED - n).
ABSENT, UNSEEN, GOES_ON, RELATED = -1, -2, -3, -4
TAG = re.compile(f"O|[{PREFIXES['BIOES']}]-.+", re.DOTALL)


def span_counts(
    predicted: Sequence[Sequence[Span]], gold: Sequence[Sequence[Span]], types: Sequence[str]
) -> Tensor:
    """Spans of a batch of sentences that are right (same words, same type), predicted and gold, int64 [3, C] by the C types."""
    number = {kind: index for index, kind in enumerate(types)}
    counts = [[0] * len(types) for _ in range(3)]
    for ours, theirs in zip(predicted, gold, strict=True):
        for row, found in enumerate((set(ours) & set(theirs), ours, theirs)):
            for _, _, kind in found:
                if kind not in number:
                    raise DataError(
                        f"a span has the type '{kind}', which is not among those counted{did_you_mean(kind, types)}"
                    )
                counts[row][number[kind]] += 1
    return torch.tensor(counts, dtype=torch.int64).view(3, len(types))


def span_scores(counts: Tensor, types: Sequence[str] = ()) -> dict[str, float]:
    """Over all types (micro averages), and the F1 of each one named, f1_TYPE; [3, C] as `span_counts` has it."""
    right, predicted, gold = counts.double().sum(1)
    shares = {
        "precision": (right, predicted),
        "recall": (right, gold),
        "f1": (2 * right, predicted + gold),
    }
    for kind, (one_right, one_predicted, one_gold) in zip(types, counts.double().T):
        shares[f"f1_{kind}"] = (2 * one_right, one_predicted + one_gold)
    return _shares(shares)


def token_counts(predicted: Tensor, gold: Tensor, counted: Tensor) -> Tensor:
    """How many of the counted tokens are right, and how many there are, int64 [2]; ids and bool counted of one shape."""
    return torch.stack([((predicted == gold) & counted).sum(), counted.sum()])


def token_scores(counts: Tensor) -> dict[str, float]:
    right, total = counts.double()
    return _shares({"accuracy": (right, total)})


def scored_words(
    columns: Mapping[str, Sequence[str]], xpos: Collection[str] = ()
) -> tuple[bool, ...]:
    """Which words count for attachment: all but punctuation, which is told by the column upos (PUNCT), or, where tags are named
    here, by the column xpos. Results on the Penn Treebank leave out ``, '', the comma, the colon and the stop, but no brackets."""
    name, left_out = ("xpos", xpos) if xpos else ("upos", ("PUNCT",))
    if name not in columns:
        raise DataError(
            f"punctuation is told by the column {name}, and there is none{did_you_mean(name, columns)}"
        )
    return tuple(tag not in left_out for tag in columns[name])


def without_subtypes(labels: Sequence[str]) -> Tensor:
    """For each label's number that of its universal relation (nsubj:pass -> nsubj), int64 [C]; where no label is the plain
    relation, the first of its subtypes stands for it."""
    numbers: dict[str, int] = {label: number for number, label in enumerate(labels)}
    plain = [label.partition(":")[0] for label in labels]
    return torch.tensor(
        [numbers.setdefault(relation, number) for number, relation in enumerate(plain)],
        dtype=torch.int64,
    )


def unseen_tags(tags: Sequence[str]) -> list[int]:
    """What stands for each tag of a sentence if training never saw it."""
    begun = (
        {start for start, _, _ in spans(tags, "BIOES")}
        if all(TAG.fullmatch(tag) for tag in tags)
        else range(len(tags))
    )
    return [UNSEEN if word in begun else GOES_ON for word in range(len(tags))]


def unseen_relation(relation: str, known: Sequence[str]) -> int:
    """What stands for a relation that training never saw."""
    plain = relation.partition(":")[0]
    return next(
        (
            RELATED - number
            for number, other in enumerate(known)
            if other.partition(":")[0] == plain
        ),
        UNSEEN,
    )


def attachment_counts(
    heads: Tensor,
    labels: Tensor,
    gold_heads: Tensor,
    gold_labels: Tensor,
    counted: Tensor,
    relations: Tensor | None = None,
) -> Tensor:
    """Counted words whose head is right, whose head and label are, and all of them, int64 [3]; all [B, T]. relations: from
    `without_subtypes`, to compare labels without them; by default they count."""
    if relations is not None:
        labels, gold_labels = (
            _plain(ids, relations.to(labels.device), counted) for ids in (labels, gold_labels)
        )
    attached = (heads == gold_heads) & counted
    return torch.stack([attached.sum(), (attached & (labels == gold_labels)).sum(), counted.sum()])


def _plain(ids: Tensor, relations: Tensor, counted: Tensor) -> Tensor:
    """Labels without subtypes; what is not counted may hold any number, -100 for one."""
    ids = torch.where(ids <= RELATED, RELATED - ids, ids).masked_fill(~counted, 0)
    return relations[ids.clamp(min=0)].masked_fill(ids < 0, UNSEEN)


def attachment_scores(counts: Tensor) -> dict[str, float]:
    attached, labelled, total = counts.double()
    return _shares({"uas": (attached, total), "las": (labelled, total)})


def _shares(parts: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
    return {name: float(part / whole) for name, (part, whole) in parts.items() if whole > 0}
