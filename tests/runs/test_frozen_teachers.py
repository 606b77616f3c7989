"""Frozen networks as teachers: they teach what their stored outputs teach, are never trained, and resume alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from support.cases import config_of

import fwk
from fwk.engine.evaluate import evaluate
from fwk.errors import ConfigError
from fwk.runs.evaluating import evaluate_run
from fwk.testing import merge_settings, stopped_at, train_briefly, trainer_of
from fwk.testing.config import TINY_ENCODER

NAME = "classification"
OTHERS = ("multilabel", "multiple_choice", "regression", "answer_span")
VIEWS = {"multiple_choice": "choices"}
DEEPER = {"model": {"layers": 3}}  # another shape than the student's


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function of the name of a case: the folder of a briefly trained run."""
    folder = tmp_path_factory.mktemp("teachers")

    @cache
    def run_of(name: str) -> Path:
        train_briefly(config_of(name, DEEPER), folder / name, 2)
        return folder / name

    return run_of


def student(name: str, teacher: Path, **changes: object):
    """Return the config of a case that learns from a frozen run."""
    head = config_of(name).criterion[name].component.values
    fields = {"fields": ["context", "choices"]} if name == "multiple_choice" else {}
    kept = {key: head[key] for key in ("pooling", "hidden", "high") if key in head}
    return config_of(
        name,
        {
            "networks": {
                "large": {**TINY_ENCODER, "layers": 3, "from": str(teacher), "frozen": True}
            },
            "views": {"read": {"noiser": "identity", "encoder": "large", **fields}},
            "criterion": {
                name: {"teacher": "expert", **changes},
                "expert": {"name": name, "view": "read", **kept},
            },
        },
    )


@pytest.mark.parametrize(
    "name", [NAME, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_a_frozen_run_teaches_what_its_stored_outputs_teach(
    name: str, runs: Callable[[str], Path], tmp_path: Path
) -> None:
    evaluate_run(runs(name), "train", targets=tmp_path / "file")
    task = {"task": {"teacher": str(tmp_path / "file")}}
    stored = train_briefly(config_of(name, task), tmp_path / "stored", 3)
    asked = train_briefly(student(name, runs(name)), tmp_path / "asked", 3)
    plain = train_briefly(config_of(name), tmp_path / "plain", 3)
    for key, value in stored.items():
        torch.testing.assert_close(asked[key], value, rtol=1e-5, atol=1e-6)
    assert any(not torch.allclose(plain[key], value, atol=1e-5) for key, value in stored.items())


def test_a_teacher_keeps_its_weights_and_has_neither_losses_nor_moments(
    runs: Callable[[str], Path], tmp_path: Path
) -> None:
    model = fwk.load(runs(NAME)).module.state_dict()
    weights = train_briefly(student(NAME, runs(NAME)), tmp_path / "run", 2)
    for name, value in weights.items():
        if name.startswith("networks.large."):
            assert torch.equal(value, model[name.replace("large", "main")])
        elif name.startswith("criteria.expert."):
            assert torch.equal(value, model[name.replace("expert", NAME)])
    with trainer_of(student(NAME, runs(NAME), dropout=0.5)) as trainer:
        module = trainer.run.module
        assert not module.networks["large"].training and not module.criteria["expert"].training
        trained = [name for name, _ in trainer.run.named_trainable()]
        assert trained and not any("large" in name or "expert" in name for name in trained)
    metrics = evaluate_run(tmp_path / "run")["metrics"]
    assert not any(name.startswith("expert") for name in metrics)


def test_a_student_resumes_without_its_teacher(runs: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(runs(NAME), tmp_path / "teacher")
    config = student(NAME, tmp_path / "teacher")
    whole = train_briefly(config, tmp_path / "whole", 4)
    with stopped_at(2):
        train_briefly(config, tmp_path / "resumed", 4)
    shutil.rmtree(tmp_path / "teacher")
    resumed = train_briefly(config, tmp_path / "resumed", 4)
    assert all(torch.equal(whole[name], value) for name, value in resumed.items())
    assert fwk.load(tmp_path / "resumed").module.teachers.networks == {"large"}


def test_the_encoder_of_a_teacher_is_called_in_training_alone(runs: Callable[[str], Path]) -> None:
    with trainer_of(student(NAME, runs(NAME))) as trainer:
        module, calls = trainer.run.module, []
        module.networks["large"].register_forward_hook(lambda *_: calls.append(module.training))
        evaluate(trainer.run, "valid")
        assert calls == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"criterion": {NAME: {"teacher": "expart"}}}, "Did you mean 'expert'"),
        ({"criterion": {NAME: {"teacher": None}}}, "has nothing to train"),
        ({"networks": {"large": {"frozen": False}}}, "is no criterion that reads a view of a frozen"),
        ({"networks": {"large": {"tie": ["embedding"]}}}, "is shared with the main encoder"),
        ({"criterion": {"expert": {"pooling": "mean"}}}, "it has pooling: mean"),
    ],
)  # fmt: skip
def test_a_teacher_that_cannot_teach_is_refused(
    changes: dict, message: str, runs: Callable[[str], Path], tmp_path: Path
) -> None:
    config = merge_settings(student(NAME, runs(NAME)).to_mapping(), changes)
    with pytest.raises(ConfigError, match=message):
        fwk.train(config, run=str(tmp_path / "run"))


def test_a_frozen_network_without_weights_is_refused(tmp_path: Path) -> None:
    changes = {
        "networks": {"large": {"name": "bert", "layers": 1, "frozen": True}},
        "views": {"read": {"noiser": "identity", "encoder": "large"}},
        "criterion": {
            NAME: {"teacher": "expert"},
            "expert": {"name": NAME, "view": "read"},
        },
    }
    with pytest.raises(ConfigError, match="a frozen network needs trained weights"):
        train_briefly(config_of(NAME, changes), tmp_path / "run", 1)
