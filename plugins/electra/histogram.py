"""Accuracy, precision, recall and AUC of yes-or-no decisions from one additive histogram of their logits."""

from __future__ import annotations

import torch
from torch import Tensor

BINS, REACH = (
    4096,
    16.0,
)  # bins of 1/128 over logits in [-16, 16); what lies outside falls into the outermost


def histogram(logits: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    """How many negatives and positives have a logit in each bin, int64 [2, BINS]; logits, bool positive and bool counted of
    one shape."""
    place = (
        ((logits.detach().float().nan_to_num(0.0) + REACH) * (BINS / (2 * REACH)))
        .floor()
        .clamp(0, BINS - 1)
        .to(torch.int64)
    )
    found = torch.zeros(2 * BINS, dtype=torch.int64, device=logits.device)
    found.index_add_(0, (place + BINS * positive).flatten(), counted.flatten().to(torch.int64))
    return found.view(2, BINS)


def binary_metrics(counts: Tensor) -> dict[str, float]:
    """Of `histogram`s added up. A logit of 0 or more is a yes. AUC: the chance that a positive has a higher logit than a
    negative, one half where both are in one bin. What would divide by nothing is left out."""
    negative, positive = counts.double()
    no, yes = slice(0, BINS // 2), slice(BINS // 2, BINS)
    right, found, claimed = (
        positive[yes].sum() + negative[no].sum(),
        positive[yes].sum(),
        positive[yes].sum() + negative[yes].sum(),
    )
    total = counts.sum()
    below = negative.cumsum(0) - negative / 2
    shares = {
        "accuracy": (right, total),
        "precision": (found, claimed),
        "recall": (found, positive.sum()),
        "auc": ((positive * below).sum(), positive.sum() * negative.sum()),
        "positive": (positive.sum(), total),
    }
    return {name: float(part / whole) for name, (part, whole) in shares.items() if whole > 0}
