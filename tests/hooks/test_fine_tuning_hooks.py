"""Hooks for fine-tuning: new weights for the top layers, and layers that are frozen for a while."""

from __future__ import annotations

import pytest
import torch
from support.runs import config_in, lines

from fwk.config.identity import differences
from fwk.engine.parameter_groups import parameter_groups
from fwk.engine.saving import checkpoint
from fwk.errors import ConfigError
from fwk.optimizers.adamw import AdamW
from fwk.runs import start
from fwk.testing import stopped_at, tiny_config, trainer_of

LAYERS = {"criterion": {"masked_lm": {}}, "model": {"layers": 3, "norm": "pre"}}


def config_with(hooks, **changes):
    return tiny_config({**LAYERS, "hooks": hooks, **changes})


def weights(run):
    return {name: value.detach().clone() for name, value in run.module.named_parameters()}


# -- new weights -----------------------------------------------------------------------------------------------------


def begun(options, resumed=False, **changes):
    """Return the weights before and after the hook, of a network that is no longer as it was built."""
    with trainer_of(config_with({"reinitialise": options}, **changes)) as trainer:
        run = trainer.run
        with torch.no_grad():
            for parameter in run.module.parameters():
                parameter.add_(1.0)
        if run.average is not None:
            run.average.load(weights(run))
        before = weights(run)
        run.hooks.hook.fwk_run_begin(run=run, resumed=resumed)
        if run.average is not None:
            for name, value in run.average.values.items():
                assert torch.equal(value, run.average.parameters[name])
        return before, weights(run)


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_the_last_layers_and_what_is_above_them_get_new_weights():
    before, after = begun({"layers": 2}, train={"ema": 0.9})
    tops = ("networks.main.layers.1.", "networks.main.layers.2.", "networks.main.final_norm.")
    assert changed(before, after) == {name for name in before if name.startswith(tops)}
    drawn = after["networks.main.layers.2.inner.weight"]
    assert drawn.std() == pytest.approx(0.02, rel=0.1) and drawn.mean().abs() < 0.005
    assert after["networks.main.layers.2.inner.bias"].eq(0).all()
    assert after["networks.main.layers.1.output_norm.weight"].eq(1).all()
    assert torch.equal(drawn, begun({"layers": 2})[1]["networks.main.layers.2.inner.weight"])


def test_what_is_above_the_layers_may_be_kept():
    before, after = begun({"layers": 1, "pooler": False})
    assert changed(before, after) and all(
        name.startswith("networks.main.layers.2.") for name in changed(before, after)
    )


def test_weights_are_not_drawn_again_on_resume():
    assert not changed(*begun({"layers": 2}, resumed=True))


def test_new_weights_are_part_of_a_runs_identity():
    one, two = (config_with({"reinitialise": {"layers": layers}}) for layers in (1, 2))
    assert differences(one, two) == {"hooks.reinitialise.layers": (1, 2)}


def test_more_layers_than_there_are_cannot_get_new_weights(tmp_path):
    config = config_in(tmp_path / "run", {**LAYERS, "hooks": {"reinitialise": {"layers": 4}}})
    with pytest.raises(ConfigError, match="reinitialise.layers: the network 'main' has 3 layers"):
        start.train(config)
    assert not (tmp_path / "run").exists()


# -- frozen layers ---------------------------------------------------------------------------------------------------


def frozen_at(run, update):
    """Return the layers that are frozen after so many updates, the embeddings as 0."""
    run.update = update
    phase = run.hooks.hook.fwk_phase(run=run)
    found = {name.split(".")[3] if ".layers." in name else "below" for name in phase.frozen}
    return sorted(0 if part == "below" else int(part) + 1 for part in found)


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"layers": 2}, {0: [0, 1, 2], 99: [0, 1, 2]}),
        ({"layers": 2, "embeddings": False}, {0: [1, 2], 99: [1, 2]}),
        ({"embeddings": True, "until": 0.2}, {0: [0], 19: [0], 20: []}),
        ({"layers": 1, "until": 7}, {0: [0, 1], 6: [0, 1], 7: []}),
        (
            {"layers": 3, "until": 0.4, "gradual": True},
            {0: [0, 1, 2, 3], 9: [0, 1, 2, 3], 10: [0, 1, 2], 20: [0, 1], 30: [0], 39: [0], 40: []},
        ),
    ],
)
def test_layers_are_frozen_until_a_point_of_the_run(options, expected):
    with trainer_of(config_with({"freeze": options}, train={"updates": 100})) as trainer:
        trainer.run.hooks.hook.fwk_run_begin(run=trainer.run, resumed=False)
        assert {update: frozen_at(trainer.run, update) for update in expected} == expected


def test_frozen_weights_stay_and_a_resumed_run_ends_alike(tmp_path):
    freeze = {"freeze": {"layers": 2, "until": 0.5, "gradual": True}, "jsonl": {}}
    settings = {**LAYERS, "hooks": freeze, "optimizer": {"name": "adamw", "layer_decay": 0.8}}
    start.train(config_in(tmp_path / "whole", settings))
    for update in (1, 2, 4):
        with stopped_at(update):
            start.train(config_in(tmp_path / "parts", settings))
    start.train(config_in(tmp_path / "parts", settings))
    whole, parts = (
        checkpoint.read_checkpoint(checkpoint.newest_intact(tmp_path / run)[0])
        for run in ("whole", "parts")
    )
    assert whole[1]["phase"] == parts[1]["phase"] and lines(tmp_path / "whole") == lines(
        tmp_path / "parts"
    )
    assert all(torch.equal(value, parts[0]["model"][n]) for n, value in whole[0]["model"].items())


def test_named_weights_are_frozen():
    with trainer_of(config_with({"freeze": {"patterns": ["networks.main.*"]}})) as trainer:
        run = trainer.run
        run.hooks.hook.fwk_run_begin(run=run, resumed=False)
        trainer.enter_phase(run.hooks.hook.fwk_phase(run=run))
        trained = [name for name, _ in run.named_trainable()]
        assert trained and all(name.startswith("criteria.") for name in trained)


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "hooks.freeze: freezes nothing"),
        ({"layers": 9}, "hooks.freeze.layers: the network 'main' has 3 layers, got 9"),
        ({"layers": 1, "network": "manin"}, "hooks.freeze.network: .*'manin'. .*main"),
        ({"layers": 1, "until": 1.5}, "hooks.freeze.until: expected a whole number"),
        ({"embeddings": True, "gradual": True}, "hooks.freeze.gradual: releases layers"),
    ],
)
def test_what_cannot_be_frozen_is_refused(tmp_path, options, message):
    config = config_in(tmp_path / "run", {**LAYERS, "hooks": {"freeze": options}})
    with pytest.raises(ConfigError, match=message):
        start.train(config)
    assert not (tmp_path / "run").exists()


def test_two_hooks_cannot_decide_what_is_trained():
    hooks = {"freeze": {"layers": 1}, "later": {"name": "freeze", "layers": 2}}
    with (
        trainer_of(config_with(hooks)) as trainer,
        pytest.raises(ConfigError, match="hooks.freeze: decides .* and so does later"),
    ):
        trainer.run.hooks.hook.fwk_run_begin(run=trainer.run, resumed=False)


def test_layer_decay_counts_the_layers_that_are_frozen():
    with trainer_of(config_with({})) as trainer:
        named = dict(trainer.run.module.named_parameters())
        lowest = [(name, p) for name, p in named.items() if ".layers.0." in name]
        config = AdamW.Config(layer_decay=0.5)
        scales = {g["lr_scale"] for g in parameter_groups(lowest, config, every_name=named)}
    assert scales == {0.5**3}


def test_layer_decay_leaves_heads_alone_and_lowers_the_last_layer_once():
    settings = {"optimizer": {"name": "adamw", "layer_decay": 0.8}}
    with trainer_of(config_with({}, **settings)) as trainer:
        scale = {n: g["lr_scale"] for g in trainer.run.optimizer.param_groups for n in g["names"]}
    heads = {value for name, value in scale.items() if name.startswith("criteria.")}
    assert heads == {1.0} and scale["networks.main.layers.2.inner.weight"] == 0.8
    assert scale["networks.main.embeddings.token.weight"] == pytest.approx(0.8**4)


def test_a_warm_up_is_a_share_of_a_run_that_epochs_limit():
    settings = {
        "schedule": {"name": "linear", "warmup": 0.25},
        "train": {"updates": None, "epochs": 1.5},
    }
    with trainer_of(config_with({}, **settings)) as trainer:
        run = trainer.run
        assert run.total_updates == 16  # of 12 among 128 sequences
        factors = []
        for update in range(6):
            run.update = update
            factors.append(run.learning_rate_factor())
    assert factors == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 1, 11 / 12])
