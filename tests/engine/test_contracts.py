"""The contracts of the engine, each with an objective that would break a weaker one: geometry and resume on one process
here, four ranks in test_distributed.py."""

from __future__ import annotations

import pytest
import torch
from support.cases import CASES, CONTRACTS, REGISTERED, SHAPES, config_of

from fwk import testing
from fwk.engine.update import Update
from fwk.testing import batches_of, differentiate_once, gradients, train_briefly, trainer_of

# registered criteria alone are examined by tests/testing/test_conformance.py
COMBINED = [name for name in CASES if name not in REGISTERED]


@pytest.mark.parametrize("name", COMBINED)
@pytest.mark.mostly_slow(
    "generator first",
    "contrast over the whole update",
    "several objectives at once",
    "views of two lengths",
    "rows that are missing",
    "tagger and parser that are imitated",
    "COCO-LM",
)
def test_geometry_the_gradient_does_not_depend_on_micro_batches(name):
    assert testing.rule_geometry(config_of(name)) == ""


@pytest.mark.parametrize("name", COMBINED)
@pytest.mark.mostly_slow(
    "generator first",
    "contrast over the whole update",
    "change of phase",
    "virtual adversarial noise",
    "gradients per term",
    "teacher view with averaged weights",
)
def test_resume_is_bit_identical(name):
    assert testing.rule_resume(config_of(name)) == ""


@pytest.mark.parametrize("name", COMBINED)
def test_every_view_is_encoded_once(name):
    assert testing.rule_one_encode(config_of(name)) == ""


@pytest.mark.parametrize("name", COMBINED)
@pytest.mark.mostly_slow(*SHAPES)
def test_nothing_draws_from_a_global_generator(name):
    assert testing.rule_no_global_randomness(config_of(name)) == ""


@pytest.mark.parametrize("name", COMBINED)
@pytest.mark.mostly_slow(*SHAPES)
def test_losses_are_finite_in_training_and_evaluation(name):
    assert testing.rule_finite(config_of(name)) == ""


def test_a_static_noiser_of_a_learned_view_is_counted_only_once_it_is_made():
    from fwk.errors import RunError

    changes = {"views": {"short": {"prepare": False}}}
    with pytest.raises(RunError, match="view 'short' has no"):
        gradients(config_of("crop of a learned view", changes))


def test_a_head_whose_count_is_zero_everywhere_is_not_stepped():
    config = config_of(
        "head without examples here and there",
        {"task": {"second_source": 0.0}, "train": {"updates": 3}},
    )
    with trainer_of(config) as trainer:
        head = trainer.run.module.criteria["test_multi_task"].heads[1]
        used = trainer.run.module.criteria["test_multi_task"].heads[0]
        before, used_before = head.weight.clone(), used.weight.clone()
        for batches in (next(batches_of(trainer.run, update)) for update in range(3)):
            trainer.step(batches)
        assert torch.equal(head.weight, before)  # no decay, no momentum
        assert head.weight.grad is None
        assert not torch.equal(used.weight, used_before)
        assert head.weight not in trainer.run.optimizer.state


def test_per_term_gradients_summed_equal_the_gradient_of_the_sum():
    from fwk import hookimpl

    class Sum:
        @hookimpl
        def fwk_combine_gradients(self, run, gradients):
            assert sorted(gradients) == sorted(
                [
                    "semantic_augment/masked_lm_a",
                    "semantic_augment/masked_lm_b",
                    "semantic_augment/tie",
                    "test_multi_task/head0",
                    "test_multi_task/head1",
                ]
            )
            total = [None] * len(run.trainable)
            for own in gradients.values():
                total = [b if a is None else a if b is None else a + b for a, b in zip(total, own)]
            return total

    config = config_of(
        "gradients per term", {"hooks": {"test_pcgrad": None}, "train": {"micro_batch": 4}}
    )
    whole = gradients(config)
    with trainer_of(config) as trainer:
        trainer.run.hooks.register(Sum())
        trainer.combine = True
        differentiate_once(trainer)
        summed = {n: p.grad for n, p in trainer.run.module.named_parameters() if n != "anchor"}
        assert testing.difference(whole, summed) < 1e-12


def test_combining_gradients_changes_the_update_when_terms_conflict():
    plain = gradients(config_of("gradients per term", {"hooks": {"test_pcgrad": None}}))
    projected = gradients(config_of("gradients per term"))
    assert testing.difference(plain, projected) > 1e-6


def test_a_phase_freezes_and_then_trains(tmp_path):
    config = config_of("change of phase", {"train": {"updates": 3, "precision": "fp32"}})
    with trainer_of(config) as trainer:
        start = {name: value.clone() for name, value in trainer.run.module.named_parameters()}
    after = train_briefly(config, tmp_path, 3)
    frozen = [name for name in after if name.startswith("networks.")]
    assert frozen and all(torch.equal(after[name], start[name].float()) for name in frozen)
    assert not torch.equal(
        after["criteria.masked_lm.head.transform.weight"],
        start["criteria.masked_lm.head.transform.weight"].float(),
    )
    later = train_briefly(config, tmp_path, 6)
    assert any(not torch.equal(later[name], after[name]) for name in frozen)


def test_a_phase_copies_parameters_once_when_it_begins():
    from fwk import Phase
    from fwk.engine.phases import copy_parameters

    config = config_of("generator with tied embeddings")
    with trainer_of(config) as trainer:
        module = trainer.run.module
        copy_parameters(
            module,
            Phase(
                name="x", copy={"networks.main.layers.0.": "networks.corrupted_network.layers.0."}
            ),
        )
        for name, value in module.networks["corrupted_network"].layers[0].named_parameters():
            assert torch.equal(value, module.networks["main"].layers[0].get_parameter(name))


def test_teacher_views_run_without_dropout_and_gradient_and_leave_training_mode_on():
    config = config_of("teacher view", {"model": {"dropout": 0.5}})
    with trainer_of(config) as trainer:
        module = trainer.run.module
        view = module.begin(next(batches_of(trainer.run))[0], 0, Update()).views["teacher"]
        a, b = (module.encoding.encode([view], mode="teacher")[0].features for _ in range(2))
        assert torch.equal(a, b) and not a.requires_grad
        assert all(m.training for m in module.networks["main"].modules())
        c, d = (module.encoding.encode([view])[0].features for _ in range(2))
        assert not torch.equal(c, d) and c.requires_grad


def test_averaged_weights_are_what_the_teacher_sees():
    config = config_of("teacher view with averaged weights")
    with trainer_of(config) as trainer:
        run = trainer.run
        for update in range(3):
            trainer.step(next(batches_of(run, update)))
        name = "networks.main.layers.0.inner.weight"
        assert not torch.equal(
            run.module.encoding.averages[name], dict(run.module.named_parameters())[name]
        )
        view = run.module.begin(next(batches_of(run))[0], 0, Update()).views["teacher"]
        seen = run.module.encoding.encode([view], mode="teacher", ema=True)[0].features
        with torch.no_grad():
            for name, value in run.module.named_parameters():
                if name in run.module.encoding.averages:
                    value.copy_(run.module.encoding.averages[name])
        assert torch.allclose(
            seen, run.module.encoding.encode([view], mode="teacher")[0].features, atol=1e-12
        )


def test_the_average_follows_its_equation():
    config = config_of("teacher view with averaged weights")
    with trainer_of(config) as trainer:
        name = "networks.main.layers.0.inner.weight"
        expected = dict(trainer.run.module.named_parameters())[name].detach().clone()
        for update in range(4):
            trainer.step(next(batches_of(trainer.run, update)))
            expected = (
                0.9 * expected + 0.1 * dict(trainer.run.module.named_parameters())[name].detach()
            )
        assert torch.allclose(trainer.run.module.encoding.averages[name], expected, atol=1e-14)


def test_a_view_that_is_only_a_source_is_not_encoded():
    from fwk.engine.plan import Encode, Make

    with trainer_of(config_of("generator with tied embeddings")) as trainer:
        assert trainer.run.module.plan.actions == (Make("corrupted"), Encode(("corrupted",)))


def test_a_phase_switches_terms_off_with_the_views_that_only_they_need():
    from fwk import Phase

    config = config_of("generator with tied embeddings", {"criterion": {"masked_lm": {}}})
    with trainer_of(config) as trainer:
        run, module = trainer.run, trainer.run.module
        assert trainer.step(next(batches_of(run, 0)))
        trainer.enter_phase(Phase(name="generator off", off=("corrupted", "test_detection")))
        assert [step.views for step in module.plan.actions] == [("masked",)]
        run.meters.read(run.world)
        trainer.step(next(batches_of(run, 1)))
        assert [name for name in run.meters.window if name.startswith("sum:")] == [
            "sum:masked_lm/masked_lm"
        ]
        assert module.networks["corrupted_network"].layers[0].inner.weight.grad is None
        trainer.enter_phase(Phase(name="all again"))
        trainer.step(next(batches_of(run, 2)))
        assert module.networks["corrupted_network"].layers[0].inner.weight.grad is not None


def test_moments_of_frozen_parameters_come_back_when_they_thaw():
    from fwk import Phase

    with trainer_of(config_of("masked_lm")) as trainer:
        run = trainer.run
        trainer.step(next(batches_of(run, 0)))
        weight = run.module.networks["main"].layers[0].inner.weight
        before = run.optimizer.state[weight]["exp_avg"].clone()
        trainer.enter_phase(Phase(name="frozen", frozen=("networks.*",)))
        trainer.step(next(batches_of(run, 1)))
        assert weight not in run.optimizer.state
        trainer.enter_phase(Phase(name="thawed"))
        assert torch.equal(run.optimizer.state[weight]["exp_avg"], before)


def test_a_limit_in_tokens_has_the_learning_rates_of_the_same_limit_in_updates():
    def rates(**limit):
        config = config_of(
            "masked_lm",
            {
                "task": {"shortest": None},
                "train": {"updates": None, **limit},
                "schedule": {"name": "linear", "warmup": 0.25},
            },
        )
        with trainer_of(config) as trainer:
            found = []
            for update in range(8):
                trainer.step(next(batches_of(trainer.run, update)))
                found.append(trainer.run.rate)
            return found

    by_tokens, by_updates = rates(tokens=8 * 12 * 16), rates(updates=8)
    assert (
        by_tokens[0] == 0.0
    )  # a share of a length that no update has told yet: the warm-up begins at 0
    assert by_tokens[1:] == pytest.approx(by_updates[1:], rel=1e-12)


def test_evaluation_counts_the_examples_of_a_batch_without_the_term():
    from fwk.engine.evaluate import evaluate

    found = []
    for size in (12, 1):
        with trainer_of(
            config_of("head without examples here and there", {"train": {"micro_batch": size}})
        ) as trainer:
            found.append(evaluate(trainer.run, "valid"))
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_tied_parameters_of_another_network_are_averaged_too():
    config = config_of("generator with tied embeddings", {"train": {"ema": 0.5}})
    with trainer_of(config) as trainer:
        trainer.step(next(batches_of(trainer.run, 0)))
        module = trainer.run.module
        averaged = module.encoding.averaged(module.networks["corrupted_network"])
        assert torch.equal(
            averaged["embeddings.token.weight"],
            module.encoding.averages["networks.main.embeddings.token.weight"],
        )


def test_dropout_by_hand_resumes_bit_identically(tmp_path):
    (tmp_path / "by_hand.py").write_text('''
import torch, torch.nn.functional as F
from torch import nn
from fwk import Criterion, LossTerm, Output, Read, register

@register("criterion", "test_dropout_by_hand")
class ByHand(Criterion):
    """Dropout that no module announces."""
    def __init__(self, config, build):
        super().__init__(config, build)
        self.head = nn.Linear(build.encoder.width, 1)
    @classmethod
    def reads(cls, config):
        return {"plain": Read({"noiser": "identity"})}
    def normalizers(self, views, context):
        return {"loss": views["plain"].mask.sum()}
    def forward(self, views, context):
        features = F.dropout(views["plain"].encoded.features, 0.3, self.training)
        return Output(terms={"loss": LossTerm((self.head(features).squeeze(-1).square() * views["plain"].mask).sum())})
''')
    config = testing.tiny_config({"criterion": {"test_dropout_by_hand": {}}}, [str(tmp_path)])
    assert testing.rule_resume(config) == ""


def test_an_outline_explains_itself_whatever_is_asked_of_it():
    from fwk.contracts.views import Outline, View
    from fwk.errors import RunError

    tokens = torch.zeros(2, 3, dtype=torch.int64)
    source = View(
        name="masked", draws=torch.arange(2), inputs={"tokens": tokens}, changed=tokens == 0
    )
    outline = Outline.of(source, "corrupted", ["changed"])
    assert torch.equal(outline.replace(changed=source.changed).changed, source.changed)
    for ask in (
        lambda: ~outline.changed,
        lambda: outline.changed[0],
        lambda: outline.changed == 1,
        lambda: float(outline.changed),
        lambda: outline.changed.sum(),
        lambda: torch.stack([outline.changed]),
        lambda: outline.changed & outline.changed,
        lambda: len(outline.changed),
        lambda: bool(outline.changed),
        lambda: outline.tokens,
    ):
        with pytest.raises(RunError, match="prepare: true"):
            ask()


def test_tied_embeddings_are_one_parameter_and_move_by_both_losses():
    with trainer_of(config_of("generator with tied embeddings")) as trainer:
        networks = trainer.run.module.networks
        assert networks["corrupted_network"].embedding() is networks["main"].embedding()
        names = [
            name
            for name, p in trainer.run.named_trainable()
            if p is networks["main"].embedding().weight
        ]
        assert names == ["networks.main.embeddings.token.weight"]


def test_a_tie_of_unequal_shapes_is_refused_by_key():
    from fwk.errors import ConfigError

    changes = {"views": {"corrupted": {"network": {"width": 8, "embedding": 8}}}}
    with pytest.raises(ConfigError, match="only equal shapes can be tied"):
        with trainer_of(config_of("generator with tied embeddings", changes)):
            pass


def test_counting_what_only_a_network_knows_without_prepare_says_so():
    from fwk.errors import RunError

    changes = {"views": {"corrupted": {"prepare": False}}}
    with pytest.raises(RunError, match="view 'corrupted' has no changed yet.*prepare: true"):
        gradients(config_of("count that only a network knows", changes))


def test_the_contracts_are_third_party_code():
    from fwk.components.registry import registry

    config_of("masked_lm")
    assert registry.get("criterion", "test_detection").plugin == CONTRACTS
