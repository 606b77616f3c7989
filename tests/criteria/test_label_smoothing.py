"""Label smoothing is a way of training: what evaluation reports is a negative log-likelihood."""

from __future__ import annotations

import pytest
from support.cases import config_of

from fwk.components.discovery import load_plugins
from fwk.components.registry import registry
from fwk.engine.evaluate import evaluate
from fwk.engine.update import Update
from fwk.testing import batches_of, begin_update, trainer_of

load_plugins()
OPTIONS = ("label_smoothing", "smoothing")
SMOOTHED = [
    (entry.name, option.name)
    for entry in registry.entries("criterion")
    for option in entry.schema
    if option.name in OPTIONS
]


def test_there_are_criteria_to_check():
    assert ("masked_lm", "label_smoothing") in SMOOTHED and len(SMOOTHED) >= 4


@pytest.mark.parametrize(("name", "option"), SMOOTHED)
def test_smoothing_changes_training_and_not_evaluation(name, option):
    def losses(share: float) -> tuple[float, float]:
        changes = {"criterion": {name: {option: share}}, "train": {"validate_batches": 1}}
        with trainer_of(config_of(name, changes)) as trainer:
            module, update = trainer.run.module, Update(number=1)
            micros = begin_update(trainer, next(batches_of(trainer.run)), update)
            training = sum(float(module(micro, update).loss.detach()) for micro in micros)
            return training, evaluate(trainer.run, "valid")["loss"]

    plain, smoothed = losses(0.0), losses(0.3)
    assert smoothed[1] == plain[1]
    # in fp64; a new head of few classes gives nearly equal logits, on which smoothing changes little
    assert abs(smoothed[0] - plain[0]) > 1e-6
