"""Accuracy, precision, recall and AUC of binary decisions, from an additive histogram of logits."""

from __future__ import annotations

import torch
from torch import Tensor

# bins of 1/128 over logits in [-16, 16); values outside fall into the outermost bins
BINS = 4096
REACH = 16.0


def histogram(logits: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    """Count the negatives (row 0) and positives (row 1) whose logit falls into each bin, int64 [2, BINS].

    logits; bool positive; bool counted: all of one shape.
    """
    scaled = (logits.detach().float().nan_to_num(0.0) + REACH) * (BINS / (2 * REACH))
    bins = scaled.floor().clamp(0, BINS - 1).to(torch.int64)
    counts = torch.zeros(2 * BINS, dtype=torch.int64, device=logits.device)
    counts.index_add_(0, (bins + BINS * positive).flatten(), counted.flatten().to(torch.int64))
    return counts.view(2, BINS)


def binary_metrics(counts: Tensor) -> dict[str, float]:
    """Return the metrics of a sum of histograms; those with a denominator of 0 are left out.

    A logit of 0 or more is the decision "positive". AUC is the probability that a positive has a
    higher logit than a negative, where two logits in one bin count as one half.
    """
    negative, positive = counts.double()  # [BINS] each
    below_zero, above_zero = slice(0, BINS // 2), slice(BINS // 2, BINS)
    true_positives = positive[above_zero].sum()
    claimed = true_positives + negative[above_zero].sum()
    right = true_positives + negative[below_zero].sum()
    total = counts.sum()

    negatives_below = negative.cumsum(0) - negative / 2  # per bin
    ordered_pairs = (positive * negatives_below).sum()
    ratios = {
        "accuracy": (right, total),
        "precision": (true_positives, claimed),
        "recall": (true_positives, positive.sum()),
        "auc": (ordered_pairs, positive.sum() * negative.sum()),
        "positive": (positive.sum(), total),
    }
    return {name: float(part / whole) for name, (part, whole) in ratios.items() if whole > 0}
