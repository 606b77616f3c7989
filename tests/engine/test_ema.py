"""The moving average of the weights: a service of the engine that teacher views, evaluation and `fwk.load` read.
Its equation, teacher views and skipped updates are in test_contracts.py and test_trainer.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fwk
from fwk import Phase
from fwk.engine import evaluate as evaluation
from fwk.engine.ema import Average
from fwk.engine.evaluate import evaluate
from fwk.engine.saving.checkpoint import find_checkpoint, read_checkpoint
from fwk.errors import CheckpointError, ConfigError
from fwk.testing import batches_of, merge_settings, tiny_config, train_briefly, trainer_of

AVERAGED = {"criterion": "masked_lm", "train": {"ema": 0.9, "evaluate_average": True}}


def config_of(changes=None):
    return tiny_config(merge_settings(AVERAGED, changes or {}))


def some_updates(trainer, updates=3):
    for update in range(updates):
        trainer.step(next(batches_of(trainer.run, update)))


def test_evaluation_with_the_average_is_that_of_a_module_that_holds_it():
    with trainer_of(config_of()) as trainer:
        run = trainer.run
        some_updates(trainer)
        own = {name: value.detach().clone() for name, value in run.module.named_parameters()}
        averaged = evaluate(run, "valid")
        assert all(
            torch.equal(value, own[name]) for name, value in run.module.named_parameters()
        )  # put back
        average, run.average = run.average, None
        assert evaluate(run, "valid")["loss"] != averaged["loss"]
        with torch.no_grad():
            for name, value in average.values.items():
                run.module.get_parameter(name).copy_(value)
        assert evaluate(run, "valid") == averaged


def test_the_weights_come_back_when_an_evaluation_fails(monkeypatch):
    def fails(*arguments):
        raise RuntimeError("in the middle")

    with trainer_of(config_of()) as trainer:
        some_updates(trainer)
        own = {
            name: value.detach().clone() for name, value in trainer.run.module.named_parameters()
        }
        monkeypatch.setattr(evaluation, "_measure", fails)
        with pytest.raises(RuntimeError, match="in the middle"):
            evaluate(trainer.run, "valid")
        assert all(
            torch.equal(value, own[name]) for name, value in trainer.run.module.named_parameters()
        )


def test_without_a_decay_there_is_nothing_to_evaluate_with():
    with pytest.raises(
        ConfigError, match=r"train\.evaluate_average: there is no moving average.*train\.ema"
    ):
        config_of({"train": {"ema": 0.0}}).check()


def test_a_resumed_run_has_the_same_average_and_metrics(tmp_path):
    config = config_of(
        {
            "train": {"updates": 6, "precision": "fp32", "keep_last": 9},
            "schedule": {"name": "constant", "warmup": 2},
        }
    )  # which knows no end
    train_briefly(config, tmp_path / "straight")
    train_briefly(config, tmp_path / "stopped", updates=3)
    train_briefly(config, tmp_path / "stopped", updates=6)
    one, two = (
        read_checkpoint(find_checkpoint(tmp_path / name)) for name in ("straight", "stopped")
    )
    assert one[0]["average"].keys() == two[0]["average"].keys()
    assert all(
        torch.equal(one[0]["average"][name], value) for name, value in two[0]["average"].items()
    )
    assert one[1]["last_metrics"] == two[1]["last_metrics"]


def test_loading_takes_the_weights_or_their_average(tmp_path):
    train_briefly(config_of({"train": {"precision": "fp32"}}), tmp_path / "with")
    tensors, _ = read_checkpoint(find_checkpoint(tmp_path / "with"))
    name = "networks.main.layers.0.inner.weight"
    for average, which in ((False, "model"), (True, "average"), (None, "average")):
        module = fwk.load(tmp_path / "with", average=average).module
        assert torch.equal(module.get_parameter(name), tensors[which][name])
    assert not torch.equal(tensors["model"][name], tensors["average"][name])
    train_briefly(
        config_of({"train": {"evaluate_average": False, "precision": "fp32"}}), tmp_path / "unused"
    )
    assert torch.equal(
        fwk.load(tmp_path / "unused").module.get_parameter(name),
        read_checkpoint(find_checkpoint(tmp_path / "unused"))[0]["model"][name],
    )
    fwk.load(tmp_path / "with").save(tmp_path / "copy")
    assert torch.equal(
        fwk.load(tmp_path / "copy").module.get_parameter(name), tensors["average"][name]
    )
    train_briefly(
        config_of({"train": {"ema": 0.0, "evaluate_average": False}}), tmp_path / "without"
    )
    with pytest.raises(CheckpointError, match="holds no moving average"):
        fwk.load(tmp_path / "without", average=True)


def test_the_average_of_copied_weights_restarts_with_the_phase_and_no_other():
    with trainer_of(config_of()) as trainer:
        run = trainer.run
        some_updates(trainer)
        kept = {name: value.clone() for name, value in run.average.values.items()}
        trainer.enter_phase(
            Phase(name="copied", copy={"networks.main.layers.1.": "networks.main.layers.0."})
        )
        for name, value in run.average.values.items():
            if name.startswith("networks.main.layers.1."):
                assert torch.equal(value, run.module.get_parameter(name))
            else:
                assert torch.equal(value, kept[name])


def test_averages_restart_under_whichever_name_a_tied_weight_is_copied():
    module = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    module["b"].weight = module["a"].weight
    average = Average(module, 0.5)
    with torch.no_grad():
        module["a"].weight.zero_()
        module["a"].bias.zero_()
    average.restart(["b."])
    assert set(average.values) == {"a.weight", "a.bias", "b.bias"}
    assert not average.values["a.weight"].any() and average.values["a.bias"].any()


def test_what_a_phase_freezes_keeps_its_average():
    with trainer_of(config_of()) as trainer:
        trainer.enter_phase(Phase(name="heads", frozen=("networks.*",)))
        start = {name: value.clone() for name, value in trainer.run.average.values.items()}
        some_updates(trainer)
        moved = {
            name
            for name, value in trainer.run.average.values.items()
            if not torch.equal(value, start[name])
        }
        assert moved and not [name for name in moved if name.startswith("networks.")]


def test_buffers_are_the_modules_own_under_averaged_weights():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = Average(module, 0.5)
    module(torch.randn(8, 2) + 3)  # moves the running mean
    with torch.no_grad():
        module[0].weight.add_(1)
    running = module[1].running_mean.clone()
    assert running.any() and not [name for name in average.values if "running" in name]
    with average.in_place():
        assert torch.equal(module[1].running_mean, running) and torch.equal(
            module[0].weight, average.values["0.weight"]
        )
    assert torch.equal(module[1].running_mean, running) and not torch.equal(
        module[0].weight, average.values["0.weight"]
    )
