"""Several objectives in one config: what they share, what is said of them, and what cannot work together."""

from __future__ import annotations

import json

import pytest
import torch
from support.cases import CASES, CONTRACTS, config_of

from fwk.contracts.optimizer import OptimizerConfig
from fwk.engine.parameter_groups import parameter_groups
from fwk.errors import ConfigError
from fwk.hooks.opening import work_lines
from fwk.testing import differentiate_once, gradients, tiny_config, train_briefly, trainer_of

FIVE = CASES["five objectives that share four views"]
GROUPS = [
    "masked_lm",
    "semantic_augment",
    "replaced_token_detection",
    "corrective_lm",
    "sequence_contrastive",
]


def test_five_objectives_encode_four_views_in_one_call():
    with trainer_of(tiny_config(FIVE)) as trainer:
        rows = []
        trainer.run.module.networks["main"].register_forward_hook(
            lambda part, given, made: rows.append(len(given[0]["tokens"]))
        )
        differentiate_once(trainer)
        assert rows == [4 * 12] and list(trainer.run.module.criteria) == GROUPS


def test_the_gradient_of_all_is_the_sum_of_the_gradients_of_each():
    """Apart from the auxiliary network's own loss, which each of three would bring along: it is counted once."""
    views = {
        **FIVE["views"],
        "masked": {"noiser": "bert_mask"},
        "remasked": {"noiser": "bert_mask"},
        "cropped": {"noiser": "crop"},
    }
    together = gradients(tiny_config({**FIVE, "views": views}))
    total = {name: torch.zeros_like(value) for name, value in together.items() if value is not None}
    for label in GROUPS:  # one at a time, the others at weight 0
        criteria = {
            **{name: {**FIVE["criterion"][name], "weight": 0.0} for name in GROUPS},
            label: FIVE["criterion"][label],
        }
        own = gradients(
            tiny_config(
                {
                    "criterion": criteria,
                    "views": {**views, "corrupted": {**views["corrupted"], "weight": 0.0}},
                }
            )
        )
        for name, value in own.items():
            if value is not None:
                total[name] += value
    nothing = {name: {**FIVE["criterion"][name], "weight": 0.0} for name in GROUPS}
    auxiliary = gradients(tiny_config({"criterion": nothing, "views": views}))
    for name in total:
        torch.testing.assert_close(
            total[name] + auxiliary[name], together[name], rtol=1e-9, atol=1e-14
        )


def test_adding_an_objective_leaves_the_initial_weights_of_the_others():
    with (
        trainer_of(tiny_config({"criterion": "masked_lm"})) as one,
        trainer_of(tiny_config(FIVE)) as five,
    ):
        alone, beside = (dict(trainer.run.module.named_parameters()) for trainer in (one, five))
        shared = alone.keys() & beside.keys()
        assert any(name.startswith("criteria.masked_lm") for name in shared) and any(
            name.startswith("networks.main") for name in shared
        )
        assert all(torch.equal(alone[name], beside[name]) for name in shared)


def test_every_term_and_metric_has_a_line_of_its_own(tmp_path):
    config = tiny_config(
        {
            **FIVE,
            "hooks": {"jsonl": {"name": "jsonl"}},
            "train": {"updates": 2, "log_every": 1, "precision": "fp32"},
        }
    )
    train_briefly(config, tmp_path / "run", 2)
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert sorted(line["terms"]) == sorted(
        [
            "corrective_lm/copy",
            "corrective_lm/lm",
            "corrupted/masked_lm",
            "masked_lm/masked_lm",
            "replaced_token_detection/detection",
            "semantic_augment/masked_lm_a",
            "semantic_augment/masked_lm_b",
            "semantic_augment/tie",
            "sequence_contrastive/contrast",
        ]
    )
    weighted = {
        "corrective_lm/copy": 50,
        "replaced_token_detection/detection": 50,
        "semantic_augment/masked_lm_a": 0.5,
        "semantic_augment/masked_lm_b": 0.5,
    }
    total = sum(weighted.get(name, 1) * value for name, value in line["terms"].items())
    assert line["loss"] == pytest.approx(total, rel=1e-5)
    assert {"sequence_contrastive/positive_cosine", "sequence_contrastive/negative_cosine"} <= line[
        "metrics"
    ].keys()


def test_who_reads_what_and_what_it_costs_is_said():
    with trainer_of(tiny_config(FIVE)) as trainer:
        lines = work_lines(trainer.run)
        parts, sequences = trainer.run.operations.parts, trainer.run.operations.sequences
    words = [line.split() for line in lines]
    assert [line[0] for line in words] == ["corrupted_network", "main", *GROUPS]
    assert (
        "makes corrupted of masked" in lines[0]
        and "encodes masked, remasked, corrupted, cropped" in lines[1]
    )
    assert (
        "reads masked, remasked" in lines[3]
        and "reads corrupted, cropped" in lines[6]
        and "FLOPs" not in lines[6]
    )
    told = float(words[1][-4])
    assert told == pytest.approx(
        2 * sequences * sum(v for name, v in parts.items() if name.startswith("encoder on")),
        rel=1e-2,
    )


def test_a_view_of_a_teacher_is_said_to_be_one():
    with trainer_of(config_of("teacher view with averaged weights")) as trainer:
        assert any("(teacher, averaged weights)" in line for line in work_lines(trainer.run))


def test_an_objective_that_is_switched_off_is_not_said_to_read_anything():
    with trainer_of(config_of("generator first, then its discriminator")) as trainer:
        assert [line.split()[0] for line in work_lines(trainer.run)] == ["corrupted_network"]


def test_the_terminal_says_what_each_phase_does_when_it_begins(tmp_path, capsys):
    config = config_of(
        "generator first, then its discriminator",
        {"hooks": {"terminal": {"name": "terminal"}}, "train": {"updates": 3}},
    )
    train_briefly(config, tmp_path, 3)
    said = capsys.readouterr().out
    first, second = said.split("phase 'discriminator'")
    assert (
        "phase 'generator'" in first
        and "makes corrupted" in first
        and "encodes" not in first
        and "encodes corrupted" in second
    )


def test_views_that_are_encoded_twice_are_counted_and_told_so():
    once, twice = (
        tiny_config({"criterion": {"sequence_contrastive": {}}, "train": {"micro_batch": size}})
        for size in (None, 4)
    )
    with trainer_of(once) as a, trainer_of(twice) as b:
        assert b.run.operations.update == pytest.approx(1.5 * a.run.operations.update, rel=1e-3)
        assert not any("once more" in line for line in work_lines(a.run))
        assert any(
            "sequence_contrastive  makes and encodes all views once more" in line
            for line in work_lines(b.run)
        )


def test_patterns_may_name_parameters_that_are_not_trained_in_every_phase(tmp_path):
    config = config_of(
        "generator first, then its discriminator",
        {
            "optimizer": {
                "lr_scales": {"networks.corrupted_network.*": 0.5},
                "decay_scales": {"networks.corrupted_network.*": 0.5},
            }
        },
    )
    assert train_briefly(config, tmp_path, 4)


def test_criteria_have_parameter_groups_of_their_own():
    with trainer_of(tiny_config(FIVE)) as trainer:
        named = trainer.run.named_trainable()
    config = OptimizerConfig(
        lr=1.0,
        weight_decay=0.1,
        lr_scales={"criteria.corrective_lm.*": 0.5, "networks.corrupted_network.*": 2.0},
        decay_scales={"criteria.corrective_lm.*": 0.1},
    )
    groups = parameter_groups(named, config)
    held = {name: group for group in groups for name in group["names"]}
    mine, other = (
        held["criteria.corrective_lm.head.transform.weight"],
        held["criteria.masked_lm.head.transform.weight"],
    )
    assert (mine["lr"], other["lr"]) == (0.5, 1.0) and held[
        "networks.corrupted_network.inner.layers.0.inner.weight"
    ]["lr"] == 2.0
    assert (mine["weight_decay"], other["weight_decay"]) == (pytest.approx(0.01), 0.1)
    assert (
        held["criteria.corrective_lm.head.transform.bias"]["weight_decay"] == 0.0
    )  # `no_decay` names it
    with pytest.raises(
        ConfigError,
        match="optimizer.decay_scales: 'criteria.corective_lm.\\*' matches no parameter.*criteria.corrective_lm",
    ):
        parameter_groups(named, OptimizerConfig(decay_scales={"criteria.corective_lm.*": 0.1}))


def test_a_criterion_used_twice_has_two_labels_and_two_heads():
    config = tiny_config(
        {
            "criterion": {
                "masked_lm": {},
                "second": {"name": "masked_lm", "view": "more", "weight": 0.25},
            },
            "views": {"more": {"noiser": "bert_mask", "ratio": 0.5}},
        }
    )
    with trainer_of(config) as trainer:
        first, second = (
            trainer.run.module.criteria[label].head.transform.weight
            for label in ("masked_lm", "second")
        )
        assert not torch.equal(first, second)
        assert trainer.run.module.weights == {"masked_lm": 1.0, "second": 0.25}


def test_a_criterion_named_twice_by_flags_is_told_to_take_a_label():
    from fwk.config.resolve import resolve

    with pytest.raises(
        ConfigError,
        match="--criterion masked_lm is given twice; a criterion that is used twice takes a label",
    ):
        resolve([], flags={"criterion": ["masked_lm", "masked_lm"]})
    two = resolve(
        [], flags={"criterion": ["masked_lm"]}, overrides=["criterion.second={name: masked_lm}"]
    ).config
    assert [spec.component.name for spec in two.criterion.values()] == ["masked_lm", "masked_lm"]


# -- what cannot work together -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "criteria, views, message",
    [
        (
            {"masked_lm": {}, "noise_contrastive": {}},
            {"corrupted": {"noiser": "masked_lm", "of": "masked", "network": {"name": "scaled"}}},
            "views.corrupted.noiser: criterion 'noise_contrastive' needs log q of every token, "
            "which 'masked_lm' does not know; expected one of",
        ),
        (
            {"masked_lm": {}, "sequence_contrastive": {"views": ["masked", "cropped"]}},
            {"masked": {"noiser": "identity"}},
            "views.masked.noiser: criterion 'masked_lm' reads chosen positions, and 'identity' chooses none",
        ),
        (
            {"corrective_lm": {}},
            {"masked": {"noiser": "crop"}},
            "views.corrupted.of: noiser 'masked_lm' changes the chosen positions of its parent, "
            "and view 'masked' has none",
        ),
        (
            {"corrective_lm": {}, "replaced_token_detection": {}},
            {},
            "define this view differently: network.width is 1.0 for 'corrective_lm' and 0.25 for",
        ),
        (
            {"noise_contrastive": {}},
            {"masked": {"noiser": "frequency_mask"}},
            "views.masked.noiser: criterion 'noise_contrastive' needs positions that are chosen whatever tokens stand "
            "there, and 'frequency_mask' chooses by token; expected another noiser, such as 'bert_mask'",
        ),
        (
            {"noise_contrastive": {}},
            {
                "corrupted": {"noiser": "uniform", "of": "masked"},
                "masked": {"noiser": "frequency_mask"},
            },
            "views.masked.noiser: criterion 'noise_contrastive' needs positions",
        ),
    ],
)
def test_what_a_view_cannot_give_is_refused_with_the_config(criteria, views, message):
    with pytest.raises(ConfigError) as refused:
        _ = tiny_config({"criterion": criteria, "views": views}).views_by_name
    assert message in str(refused.value)


def test_a_noiser_that_does_not_say_whether_it_chooses_is_believed(tmp_path):
    (tmp_path / "silent.py").write_text('''
import torch
from fwk import Noiser, register

@register("noiser", "test_silent")
class Silent(Noiser):
    """Chooses the second position of each sequence, and does not say so."""
    def apply(self, source, key, context=None):
        positions = torch.ones(len(source), 1, dtype=torch.int64)
        return source.replace(positions=positions, valid=torch.ones_like(positions, dtype=torch.bool))
''')
    config = tiny_config(
        {"criterion": "masked_lm", "views": {"masked": {"noiser": "test_silent"}}}, [str(tmp_path)]
    )
    assert train_briefly(config, tmp_path / "run", 1)


def test_a_task_without_the_labels_a_criterion_reads_is_refused(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("one two three four five six seven eight nine ten\n" * 200)
    task = {"name": "mlm", "data": str(text), "length": 16, "tokenizer": "bpe", "vocabulary": 60}
    config = tiny_config(
        {"criterion": {"masked_lm": {}, "test_multi_task": {}}, "task": task}, [CONTRACTS]
    )
    with pytest.raises(
        ConfigError,
        match="criterion.test_multi_task: reads the label 'label', and task 'mlm' has none",
    ):
        with trainer_of(config):
            pass


def test_an_encoder_without_the_state_a_criterion_reads_is_refused(tmp_path):
    (tmp_path / "stateful.py").write_text('''
from fwk import Criterion, LossTerm, Output, Read, register

@register("criterion", "test_reads_a_state")
class ReadsState(Criterion):
    """Reads a layer that a small encoder has not."""
    @classmethod
    def reads(cls, config):
        return {"masked": Read({"noiser": "bert_mask"})}
    def states(self):
        return ("layer_9",)
    def normalizers(self, views, context):
        return {"x": views["masked"].mask.sum()}
    def forward(self, views, context):
        return Output(terms={"x": LossTerm(views["masked"].encoded.states["layer_9"].sum())})
''')
    config = tiny_config(
        {"criterion": {"masked_lm": {}, "test_reads_a_state": {}}}, [str(tmp_path)]
    )
    with pytest.raises(
        ConfigError,
        match="criterion 'test_reads_a_state' reads state 'layer_9', which Bert does not have.*layer_2",
    ):
        with trainer_of(config):
            pass


@pytest.mark.parametrize(
    ("criterion", "reader"),
    [
        ({"semantic_augment": {"level": "cls"}}, "level=cls of criterion 'semantic_augment'"),
        ({"corruption_detection": {}}, "criterion 'corruption_detection'"),
        ({"sequence_contrastive": {}}, "criterion 'sequence_contrastive'"),
    ],
)
def test_reading_a_first_position_that_sees_only_itself_is_refused(criterion, reader):
    config = tiny_config({"criterion": criterion, "model": {"direction": "left_to_right"}})
    message = f"model.direction: {reader} reads the first position, which sees nothing but itself"
    with pytest.raises(ConfigError, match=message), trainer_of(config):
        pass
    backwards = tiny_config({"criterion": criterion, "model": {"direction": "right_to_left"}})
    with trainer_of(backwards):  # there it sees everything
        pass
