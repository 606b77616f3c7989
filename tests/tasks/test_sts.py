"""Similarity of sentences: the data are the split valid too, and are measured by correlations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from fwk.tasks.sts import SOURCE, Sts

SCORES = [0.0, 1.5, 3.0, 5.0, 2.25, 4.0]


def table(path: Path, scores: list[float] = SCORES) -> Path:
    lines = ["sentence1\tsentence2\tscore"]
    lines += [f"a door number {n}\tthe house {n}\t{score}" for n, score in enumerate(scores)]
    path.write_text("\n".join(lines) + "\n")
    return path


def task(data: Path, **options: object) -> Sts:
    return Sts(Sts.Config(data=str(data), vocabulary=60, length=32, **options), 1)


def test_all_pairs_are_measured_by_correlations(tmp_path: Path) -> None:
    opened = task(table(tmp_path / "dev.tsv"))
    assert opened.splits() == ("train", "valid") and len(opened.sources("valid")[SOURCE]) == 6
    cosines = np.random.default_rng(0).normal(size=6)
    predictions = {SOURCE: {"label": {n: torch.tensor(v) for n, v in enumerate(cosines)}}}
    metrics = opened.metrics_of_predictions("valid", predictions)
    assert metrics["pearson"] == pytest.approx(stats.pearsonr(SCORES, cosines).statistic)
    assert metrics["spearman"] == pytest.approx(stats.spearmanr(SCORES, cosines).statistic)


def test_other_files_and_a_share_take_the_place_of_the_data(tmp_path: Path) -> None:
    data, other = table(tmp_path / "a.tsv"), table(tmp_path / "b.tsv", SCORES[:4])
    assert len(task(data, valid=str(other)).sources("valid")[SOURCE]) == 4
    shared = task(data, valid_share=0.5)
    assert len(shared.sources("valid")[SOURCE]) == len(shared.sources("train")[SOURCE]) == 3


def test_where_one_side_is_constant_the_correlation_is_zero(tmp_path: Path) -> None:
    opened = task(table(tmp_path / "dev.tsv"))
    predictions = {SOURCE: {"label": {n: torch.tensor(1.0) for n in range(6)}}}
    metrics = opened.metrics_of_predictions("valid", predictions)
    assert metrics["pearson"] == metrics["spearman"] == 0.0
