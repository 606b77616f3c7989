"""The objectives of the electra plugin in whole runs."""

from __future__ import annotations

import pytest
import torch

import fwk
from fwk import testing
from fwk.errors import ConfigError
from fwk.testing import batches_of, gradients, tiny_config, train_briefly, trainer_of

TWO_STAGES = {
    "criterion": "replaced_token_detection",
    "views": {"corrupted": {"network": {"width": 1.0, "share": "none"}}},
    "hooks": {"two_stage": {"updates": 3}},
    "train": {"precision": "fp32", "updates": 6},
}


def parts(trainer, prefix: str) -> dict[str, torch.Tensor]:
    return {
        name[len(prefix) :]: p.detach().clone()
        for name, p in trainer.run.module.named_parameters()
        if name.startswith(prefix)
    }


def test_two_stages_train_one_network_after_the_other():
    with trainer_of(tiny_config(TWO_STAGES)) as trainer:
        batches = batches_of(trainer.run)
        main, generator = "networks.main.", "networks.corrupted_network.inner."
        before = parts(trainer, main), parts(trainer, generator)
        for _ in range(3):
            trainer.step(next(batches))
        assert all(torch.equal(x, before[0][name]) for name, x in parts(trainer, main).items())
        trained = parts(trainer, generator)
        assert any(not torch.equal(x, before[1][name]) for name, x in trained.items())
        trainer.enter_phase(trainer.run.hooks.hook.fwk_phase(run=trainer.run))
        assert all(torch.equal(x, trained[name]) for name, x in parts(trainer, main).items())
        for _ in range(3):
            trainer.step(next(batches))
        assert all(torch.equal(x, trained[name]) for name, x in parts(trainer, generator).items())
        assert any(not torch.equal(x, trained[name]) for name, x in parts(trainer, main).items())


def test_a_head_that_its_stage_has_not_trained_is_known_as_such(tmp_path):
    train = {**TWO_STAGES["train"], "updates": 4, "save_every": 2, "keep_last": 9}
    train_briefly(tiny_config({**TWO_STAGES, "train": train}), tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    first, second = (fwk.load(checkpoints / f"update-{n:09}") for n in (2, 4))
    assert first.untrained == ("replaced_token_detection",) and second.untrained == ()


@pytest.mark.slow
def test_two_stages_resume_in_either_stage():
    for updates in (2, 3):
        assert (
            testing.rule_resume(
                tiny_config({**TWO_STAGES, "hooks": {"two_stage": {"updates": updates}}})
            )
            == ""
        )


def test_two_stages_refuse_a_generator_that_shares_weights(tmp_path):
    config = tiny_config({**TWO_STAGES, "views": {"corrupted": {"network": {"width": 1.0}}}})
    with pytest.raises(
        ConfigError, match="shares 2 weights with the main encoder; set it to none|shares . weight"
    ):
        train_briefly(config, tmp_path)


@pytest.mark.parametrize(
    "network, message",
    [
        ({"width": 0.5, "share": "none"}, "is not of its shape"),
        ({"width": 1.0, "layers": 0.5, "share": "none"}, "is not of its shape"),
        ({"width": 1.0, "share": "none", "towers": True}, "is not of its shape"),
    ],
)
def test_two_stages_refuse_a_generator_of_another_shape_at_once(network, message, tmp_path):
    config = tiny_config({**TWO_STAGES, "views": {"corrupted": {"network": network}}})
    with pytest.raises(ConfigError, match=message):
        train_briefly(config, tmp_path)


def test_two_stages_without_a_copy_take_any_generator(tmp_path):
    config = tiny_config(
        {
            **TWO_STAGES,
            "views": {"corrupted": {"network": {"width": 0.5, "share": "none"}}},
            "hooks": {"two_stage": {"updates": 3, "copy": False}},
        }
    )
    assert train_briefly(config, tmp_path)


def test_a_first_stage_that_leaves_no_second_is_refused(tmp_path):
    config = tiny_config({**TWO_STAGES, "hooks": {"two_stage": {"updates": 6}}})
    with pytest.raises(ConfigError, match="the first stage takes 6 updates and the whole run 6"):
        train_briefly(config, tmp_path)


def test_adversarial_training_refuses_prepared_samples(tmp_path):
    config = tiny_config(
        {
            "criterion": "replaced_token_detection",
            "views": {"corrupted": {"learns": "adversarial", "prepare": True}},
        }
    )
    with pytest.raises(ConfigError, match="views.corrupted.prepare"):
        train_briefly(config, tmp_path)


def test_the_generator_learns_from_its_own_loss_alone():
    """No gradient of the discriminator reaches a generator that shares nothing: samples carry none."""
    changes = {
        "criterion": {"replaced_token_detection": {"loss_weight": 0.0}},
        "views": {"corrupted": {"network": {"share": "none"}}},
    }
    without = gradients(tiny_config(changes))
    changes["criterion"]["replaced_token_detection"]["loss_weight"] = 50.0
    with_it = gradients(tiny_config(changes))
    for name in with_it:
        if name.startswith(("networks.corrupted_network", "learned")):
            torch.testing.assert_close(with_it[name], without[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "name, views",
    [
        ("replaced_token_detection", {}),
        ("replaced_token_detection", {"corrupted": {"learns": "adversarial"}}),
        (
            "replaced_token_detection",
            {
                "corrupted": {
                    "noiser": "two_tower",
                    "of": "masked",
                    "network": {"name": "scaled", "towers": True},
                }
            },
        ),
        ("replaced_token_detection", {"corrupted": {"noiser": "unigram", "of": "masked"}}),
        ("replaced_token_detection", {"masked": {"noiser": "frequency_mask"}}),
        ("noise_contrastive", {"corrupted": {"noiser": "unigram"}}),
        ("noise_contrastive", {"corrupted": {"temperature": 2.0}}),
        ("corruption_detection", {}),
    ],
)
@pytest.mark.mostly_slow("views7")
def test_every_combination_keeps_geometry_and_resume(name, views):
    config = tiny_config({"criterion": name, "views": views})
    assert testing.rule_geometry(config) == ""
    assert testing.rule_resume(config) == ""
    assert testing.rule_finite(config) == ""


def test_objectives_are_combined_in_one_config_and_share_the_corrupted_view():
    config = tiny_config(
        {
            "criterion": {
                "masked_lm": {},
                "replaced_token_detection": {},
                "all_tokens_mlm": {"weight": 0.5},
            }
        }
    )
    with trainer_of(config) as trainer:
        assert trainer.run.module.plan.actions[-1].views == ("masked", "corrupted")
        trainer.step(next(batches_of(trainer.run)))
    assert testing.rule_geometry(config) == ""
