"""Tests of frozen encoders: they read as they were trained to, are mixed per labelled set, and never change."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from support.cases import CASES, SENTENCES, TREEBANK

import fwk
from fwk import View
from fwk.cli.evaluate import main as evaluate_command
from fwk.config.identity import to_yaml
from fwk.errors import CheckpointError, ConfigError
from fwk.testing import (
    ENCODER_RULES,
    batches_of,
    change_config,
    differentiate_once,
    gradients,
    merge_settings,
    rule_finite,
    rule_geometry,
    rule_one_encode,
    rule_resume,
    tiny_config,
    train_briefly,
    trainer_of,
)
from fwk_plugins.cvt.corpora.examples import NO_SET
from fwk_plugins.cvt.corpora.readers import read_conllu
from fwk_plugins.cvt.models.pretrained import PieceInputs, ScalarMix, lay_out, layers

pytestmark = pytest.mark.slow  # every test trains a tagger or a parser first

CASE = CASES["tagger and parser that are imitated"]
TEXT = "the dog sees the cat .\nAnn likes Bo , and 12 birds sing .\n\n" * 30


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A tagger of words, and masked LMs of pieces: BERT with [CLS] and [SEP], and one that reads from left to right."""
    folder = tmp_path_factory.mktemp("runs")
    words = {
        **CASE,
        "model": {**CASE["model"], "width": 4, "words": 5},
        "train": {"precision": "fp32"},
        "task": {**CASE["task"], "longest_word": 9, "fewest": 3},
    }
    train_briefly(tiny_config(words), folder / "words", 2)
    (folder / "text.txt").write_text(TEXT)
    text = {
        "task": {"name": "mlm", "data": str(folder / "text.txt"), "length": 12, "vocabulary": 40},
        "criterion": "masked_lm",
        "train": {"precision": "fp32", "validate_every": 0},
        "optimizer": {"lr": 0.05},
    }
    train_briefly(tiny_config(text), folder / "pieces", 2)
    train_briefly(
        tiny_config(merge_settings(text, {"model": {"direction": "left_to_right"}})),
        folder / "left",
        1,
    )
    return folder


KINDS = ("words", "pieces")


def batch_of_words(task, sentences, labelled_set=None):
    """Return sentences as one batch. labelled_set: the set whose mix of layers they take; None: the mean of all."""
    source = NO_SET if labelled_set is None else task.source_names().index(labelled_set)
    examples = [task.example_of(words) for words in sentences]
    return task.collate(examples, np.arange(len(examples)), np.full(len(examples), source))


def config_of(run, **changes):
    full = {"criterion": {"pos": {"modules": ["full"]}, "tree": {"modules": ["full"]}}}
    return tiny_config(
        merge_settings(
            merge_settings(
                CASE,
                {"task": {"pretrained": str(run)}, "model": {"pretrained_dropout": 0.0}, **full},
            ),
            changes,
        )
    )


def frozen_config(run, **changes):
    modules = (
        {"criterion": {"pos": {"modules": ["forward", "past"]}}}
        if run.name == "words"
        else {
            "criterion": {
                "pos": {"students": "none"},
                "tree": {"students": "none", "auxiliary_labels": False},
            }
        }
    )
    return tiny_config(
        merge_settings(
            {
                **CASE,
                "model": {"name": "frozen"},
                "task": {**SENTENCES["task"], "pretrained": str(run)},
            },
            merge_settings(modules, changes),
        )
    )


# -- pieces as sequences -----------------------------------------------------------------------------------------------


def test_pieces_become_sequences_that_are_cut_where_the_encoder_ends():
    pieces = torch.tensor(
        [[[11, 12, 0], [13, 0, 0], [14, 15, 16]], [[21, 0, 0], [0, 0, 0], [0, 0, 0]]]
    )
    laid = lay_out(pieces, 4, before=[1, 2], after=[3])
    assert laid.tokens.tolist() == [
        [1, 2, 10, 11, 12, 13, 3],
        [1, 2, 14, 15, 3, 0, 0],
        [1, 2, 20, 3, 0, 0, 0],
    ]
    assert laid.mask.sum(1).tolist() == [7, 5, 4]
    flat = laid.tokens.flatten()
    assert flat[laid.where][0].tolist() == [10, 12, 13] and flat[laid.where][1, 0] == 20
    last = lay_out(pieces, 4, before=[1, 2], after=[3], last=True)
    assert flat[last.where][0].tolist() == [11, 12, 15] and torch.equal(last.tokens, laid.tokens)
    whole = lay_out(pieces, 50, before=[], after=[])
    assert whole.tokens.tolist() == [[10, 11, 12, 13, 14, 15], [20, 0, 0, 0, 0, 0]]
    assert lay_out(pieces[:0], 4, [1], [2]).tokens.shape == (0, 2)


def test_words_are_cut_by_the_runs_own_tokenizer_one_by_one(runs):
    tokenizer = fwk.load(runs / "pieces").tokenizer
    reader = PieceInputs(tokenizer, 3)
    pieces = reader.encode(["the", "likesBo", "☃", "[MASK]"])
    assert pieces.shape == (4, 3) and (pieces[:, 0] > 0).all()
    assert (pieces[0][pieces[0] > 0] - 1).tolist() == tokenizer.encode("the")[:3]
    assert (pieces[1] - 1).tolist() == tokenizer.encode("likesBo")[:3]
    assert tokenizer.mask + 1 not in pieces  # text is text


# -- the mix -----------------------------------------------------------------------------------------------------------


def test_the_mix_is_that_of_the_paper_for_each_set_and_the_mean_of_all_for_none():
    generator = torch.Generator().manual_seed(1)
    mix = ScalarMix(3, 4).double()
    with torch.no_grad():
        mix.scalars.copy_(torch.randn(3, 4, generator=generator))
        mix.gamma.copy_(torch.randn(3, generator=generator))
    h = [torch.randn(4, 5, 6, generator=generator, dtype=torch.float64) for _ in range(4)]
    mixture = mix(h, torch.tensor([2, 0, 3, 1]))
    s, gamma = mix.scalars.detach().numpy(), mix.gamma.detach().numpy()
    share = np.exp(s) / np.exp(s).sum(1, keepdims=True)
    wanted = {
        k: sum(gamma[k - 1] * share[k - 1, j] * h[j].numpy() for j in range(4)) for k in (1, 2, 3)
    }
    wanted[0] = sum(wanted.values()) / 3
    for row, k in enumerate((2, 0, 3, 1)):
        np.testing.assert_allclose(
            mixture[row].detach().numpy(), wanted[k][row], rtol=0, atol=1e-13
        )
    first = mix(h, torch.tensor([1, 1, 1, 1]))
    first.sum().backward()
    assert (
        mix.scalars.grad[0].any()
        and not mix.scalars.grad[1:].any()
        and mix.gamma.grad[0]
        and not mix.gamma.grad[1:].any()
    )


def test_layers_are_those_of_one_number_joined_as_wide_as_the_last(runs):
    assert layers(fwk.load(runs / "words").model) == [
        ("forward_1", "backward_1"),
        ("forward_2", "backward_2"),
    ]
    assert layers(fwk.load(runs / "pieces").model) == [("embedding",), ("layer_1",), ("layer_2",)]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_mixed_are_the_layers_of_the_run_itself(runs, kind):
    loaded = fwk.load(runs / kind)
    with trainer_of(config_of(runs / kind)) as trainer:
        run = trainer.run
        mixed, task = run.module.networks["main"].mixed, run.task
        words = [
            ["the", "dog", "sees", "Ann"],
            ["Bo", "likes", "12", "cats", "and", "the", "other", "words", "that", "are", "many"],
        ]
        batch = batch_of_words(task, words)
        outputs = mixed(batch.inputs, batch.mask)  # [2, 11, D]
        for row, sentence in enumerate(words):
            if kind == "words":
                single = batch_of_words(loaded.task, [sentence])
                states = loaded.model(single.inputs, None, None, loaded.model.state_names()).states
                h = [
                    torch.cat([states[f"forward_{n}"], states[f"backward_{n}"]], -1)[0]
                    for n in (1, 2)
                ]
            else:
                pieces = [
                    (word, piece)
                    for word, text in enumerate(sentence)
                    for piece in loaded.tokenizer.encode(text)[:8]
                ]
                firsts, h = {}, {}
                for start in range(0, len(pieces), 10):  # 12 with [CLS] and [SEP]
                    part = pieces[start : start + 10]
                    tokens = torch.tensor(
                        [
                            [
                                loaded.tokenizer.cls,
                                *(piece for _, piece in part),
                                loaded.tokenizer.sep,
                            ]
                        ]
                    )
                    names = ("embedding", "layer_1", "layer_2")
                    states = loaded.model({"tokens": tokens}, None, None, names).states
                    for number, (word, _) in enumerate(part, start=1):
                        firsts.setdefault(word, [states[name][0, number] for name in names])
                h = [
                    torch.stack([firsts[word][j] for word in range(len(sentence))])
                    for j in range(3)
                ]
            wanted = sum(h) / len(h)
            assert (outputs[row, : len(sentence)] - wanted).abs().max() < 1e-5


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_mix_and_nothing_of_the_frozen_encoder(runs, kind):
    gradient_of = gradients(config_of(runs / kind))
    assert (
        gradient_of["networks.main.mixed.mix.gamma"].any()
        and gradient_of["networks.main.mixed.mix.scalars"].any()
    )
    assert not any("frozen" in name for name in gradient_of)
    with trainer_of(config_of(runs / kind)) as trainer:
        differentiate_once(trainer)
        assert all(
            p.grad is None and not p.requires_grad
            for p in trainer.run.module.networks["main"].mixed.frozen.encoder.parameters()
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [config_of, frozen_config])
def test_a_frozen_encoder_is_the_same_to_the_bit_after_updates_and_goes_along_with_the_run(
    runs, kind, make, tmp_path
):
    source = tmp_path / "source" / kind
    shutil.copytree(runs / kind, source)
    config = make(source, train={"precision": "fp32"})
    with trainer_of(config) as trainer:
        first = {name: value.clone() for name, value in trainer.run.module.state_dict().items()}
    weights = train_briefly(config, tmp_path / "run", 4)
    assert not any("frozen" in name for name in weights)
    assert any(
        not torch.equal(value, first[name])
        for name, value in weights.items()
        if name.startswith("criteria.")
    )
    shutil.rmtree(source)
    loaded = fwk.load(tmp_path / "run")
    weights = (
        loaded.model.frozen if make is frozen_config else loaded.model.mixed.frozen
    ).encoder.state_dict()
    before = fwk.load(runs / kind).model.state_dict()
    assert weights.keys() == before.keys() and all(
        torch.equal(weights[name], before[name]) for name in weights
    )
    batch = batch_of_words(loaded.task, [["the", "dog"], ["Bo"]], "tiny")
    assert batch.inputs["labelled_set"].tolist() == [1, 1] and loaded.model(
        batch.inputs, batch.mask
    ).features.shape[:2] == (2, 2)


def test_a_run_on_top_of_a_run_takes_both_along(runs, tmp_path):
    train_briefly(config_of(runs / "pieces", train={"precision": "fp32"}), tmp_path / "one", 1)
    train_briefly(config_of(tmp_path / "one", train={"precision": "fp32"}), tmp_path / "two", 1)
    shutil.rmtree(tmp_path / "one")
    loaded = fwk.load(tmp_path / "two")
    batch = batch_of_words(loaded.task, [["the", "dog"], ["Bo"]])
    assert (
        "pretrained_pretrained_pieces" in batch.inputs
        and loaded.model(batch.inputs, batch.mask).features.isfinite().all()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_only_criteria_learn_on_a_frozen_encoder_which_has_no_dropout(runs, kind):
    config = frozen_config(runs / kind)
    gradient_of = gradients(config)
    assert gradient_of and all(name.startswith("criteria.") for name in gradient_of)
    with trainer_of(config) as trainer:
        run = trainer.run
        model, batch = run.module.networks["main"], next(batches_of(run))[0]["batch"]
        run.module.train()
        assert (
            not model.frozen.encoder.training
            and next(model.frozen.encoder.parameters()).dtype == torch.float64
        )
        one, two = (model(batch.inputs, batch.mask, None, model.state_names()) for _ in range(2))
        assert torch.equal(one.features, two.features) and set(one.states) == set(
            fwk.load(runs / kind).model.state_names()
        )


def test_the_mix_is_dropped_out_in_training_alone(runs):
    with trainer_of(config_of(runs / "words", model={"pretrained_dropout": 0.5})) as trainer:
        run = trainer.run
        model, batch = run.module.networks["main"], next(batches_of(run))[0]["batch"]
        run.module.train()
        assert not torch.equal(
            model(batch.inputs, batch.mask).features, model(batch.inputs, batch.mask).features
        )
        run.module.eval()
        assert torch.equal(
            model(batch.inputs, batch.mask).features, model(batch.inputs, batch.mask).features
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "rule",
    [
        rule_geometry,
        rule_resume,
        rule_one_encode,
        rule_finite,
        *(ENCODER_RULES[name] for name in ("padding-proof", "named states")),
    ],
    ids=lambda rule: rule.__name__,
)
def test_the_rules_of_criteria_and_encoders_hold(runs, kind, rule):
    for config in (config_of(runs / kind), frozen_config(runs / kind)):
        assert not rule(config)


def test_an_encoder_that_reads_from_left_to_right_gives_a_words_last_piece(runs):
    loaded = fwk.load(runs / "left")
    with trainer_of(frozen_config(runs / "left")) as trainer:
        batch = batch_of_words(trainer.run.task, [["likesBo"]])
        pieces = loaded.tokenizer.encode("likesBo")[:8]
        assert len(pieces) > 1
        tokens = torch.tensor([[loaded.tokenizer.cls, *pieces, loaded.tokenizer.sep]])
        wanted = loaded.model({"tokens": tokens}, None).features[0, len(pieces)]
        assert (
            trainer.run.module.networks["main"](batch.inputs, batch.mask).features[0, 0] - wanted
        ).abs().max() < 1e-5


def test_modules_that_are_to_see_less_are_refused_on_layers_that_have_read_everything(
    runs, tmp_path
):
    with pytest.raises(
        ConfigError,
        match=r"criterion.pos.modules: the module 'past' is to see a part of the sentence, but its state 'backward_1' "
        r"has read all of it in the mixed layers of task.pretrained; choose modules that see everything",
    ):
        with trainer_of(
            config_of(runs / "words", criterion={"pos": {"modules": ["full", "past"]}})
        ):
            pass
    train_briefly(config_of(runs / "words", train={"precision": "fp32"}), tmp_path / "run", 1)
    with pytest.raises(
        ConfigError, match="the module 'forward' is to see a part of the sentence"
    ):  # nor on that run as it is
        with trainer_of(
            frozen_config(
                tmp_path / "run",
                criterion={"pos": {"students": "auxiliary", "modules": ["forward"]}},
            )
        ):
            pass


def test_two_labelled_sets_have_mixes_of_their_own_and_sentences_say_whose_they_are(runs):
    data = {"a": TREEBANK, "b": {**TREEBANK, "labels": {"other": "upos"}}}
    config = tiny_config(
        {
            **SENTENCES,
            "task": {**SENTENCES["task"], "data": data, "pretrained": str(runs / "words")},
            "criterion": {"cvt_tagging": {"label": "other", "modules": ["full"]}},
        }
    )
    with trainer_of(config) as trainer:
        run = trainer.run
        assert run.module.networks["main"].mixed.mix.scalars.shape == (2, 2)
        kinds = set()
        for update in range(24):
            batch = next(batches_of(run, update))[0]["batch"]
            unlabelled, sets = batch.inputs["unlabelled"], batch.inputs["labelled_set"]
            assert torch.equal(sets == 0, unlabelled) and torch.equal(
                sets[~unlabelled], batch.source[~unlabelled] + 1
            )
            kinds |= set(sets.tolist())
        assert kinds == {0, 1, 2}


def test_of_raw_text_each_label_is_predicted_with_the_mix_of_the_set_that_has_it(runs, tmp_path):
    """It is read like the sentences of the set, whatever the order of the sets."""
    data = {
        "a": {**TREEBANK, "labels": {"pos": "upos"}},
        "b": {**TREEBANK, "labels": {"other": "lemma", "tree": "tree"}},
    }
    criteria = {
        label: {"name": "cvt_tagging", "label": label, "students": "none"}
        for label in ("pos", "other")
    }
    config = tiny_config(
        {
            **SENTENCES,
            "task": {**SENTENCES["task"], "data": data, "pretrained": str(runs / "words")},
            "optimizer": {"lr": 0.05},
            "criterion": {**criteria, "tree": {"name": "cvt_parsing", "students": "none"}},
            "train": {"updates": 2, "precision": "fp32"},
        }
    )
    train_briefly(config, tmp_path / "run", 2)
    loaded = fwk.load(tmp_path / "run")
    with torch.no_grad():  # mixes that could hardly differ more
        loaded.model.mixed.mix.gamma.copy_(torch.tensor([30.0, -30.0]))
    words = [sentence.words for sentence in read_conllu(TREEBANK["path"])]
    predictions = loaded.predict(words)
    for label, of in (("pos", "a"), ("other", "b")):
        for sentence, one in zip(words, predictions, strict=True):
            batch = batch_of_words(loaded.task, [sentence], of)
            features = loaded.model(batch.inputs, batch.mask)
            values = (
                loaded.module.criteria[label]
                .primary(
                    View(
                        name="x",
                        encoded=features,
                        inputs=batch.inputs,
                        mask=batch.mask,
                        draws=batch.draws,
                    )
                )
                .argmax(-1)[0]
            )
            assert one[label] == [loaded.task.labels()[label][value] for value in values.tolist()]
    assert predictions != fwk.load(tmp_path / "run").predict(words)
    assert all(
        loaded.task.source_of(label) == of
        for label, of in (("pos", "a"), ("tree_head", "b"), ("tree_relation", "b"))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_empty_words_are_read_by_frozen_encoders_too(runs, kind, tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("\tO\n\n\tO\nAnn\tO\n\n" * 4)
    data = {
        "x": {
            "path": str(path),
            "columns": ["word", "tag"],
            "separator": "\t",
            "labels": {"tag": "tag"},
        }
    }
    config = tiny_config(
        {
            **SENTENCES,
            "task": {**SENTENCES["task"], "data": data, "pretrained": str(runs / kind)},
            "criterion": {"cvt_tagging": {"label": "tag", "students": "none"}},
            "train": {"precision": "fp32"},
        }
    )
    assert all(
        value.isfinite().all() for value in train_briefly(config, tmp_path / "run", 2).values()
    )


def test_other_weights_are_other_data(runs, tmp_path):
    def fingerprint(run):
        with trainer_of(config_of(run)) as trainer:
            return trainer.run.task.fingerprint()

    shutil.copytree(runs / "words", tmp_path / "same")
    assert (
        fingerprint(runs / "words")
        == fingerprint(tmp_path / "same")
        != fingerprint(runs / "pieces")
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"task": {"pretrained": "nowhere"}},
            "task.pretrained: there is no checkpoint or run at nowhere",
        ),
        (
            {"model": {"name": "frozen"}},
            "model: 'frozen' is the encoder of a trained run, and the task names no run",
        ),
    ],
)
def test_what_is_missing_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        gradients(tiny_config(merge_settings(CASE, changes)))


def test_a_frozen_encoder_of_a_size_that_its_weights_do_not_have_is_refused(runs, tmp_path):
    shutil.copytree(runs / "pieces", tmp_path / "pieces")
    huge = change_config(
        fwk.load(runs / "pieces").config, {"model": {"width": 1_000_000, "heads": 1, "inner": 8}}
    )
    (tmp_path / "pieces" / "config.yaml").write_text(to_yaml(huge))
    with pytest.raises(ConfigError, match=r"task.pretrained: .* the model's is \[29, 1000000\]"):
        gradients(config_of(tmp_path / "pieces"))


def test_a_run_that_reads_no_text_is_refused(tmp_path):
    train_briefly(
        tiny_config({"criterion": "masked_lm", "train": {"precision": "fp32"}}), tmp_path / "run", 1
    )
    with pytest.raises(
        ConfigError,
        match="is of the task 'synthetic', which reads neither words nor pieces of words",
    ):
        gradients(config_of(tmp_path / "run"))


def test_a_saved_copy_of_a_run_is_loaded_and_not_trained_on(runs, tmp_path):
    loaded = fwk.load(runs / "pieces")
    loaded.save(tmp_path / "copy")
    copy = fwk.load(tmp_path / "copy")
    assert (
        copy.update == loaded.update == 2
        and copy.tokenizer.fingerprint == loaded.tokenizer.fingerprint
    )
    weights, other = loaded.module.state_dict(), copy.module.state_dict()
    assert weights.keys() == other.keys() and all(
        torch.equal(weights[name], other[name]) for name in weights
    )
    with pytest.raises(
        CheckpointError,
        match="holds weights only .a trained run., so training cannot resume from it",
    ):
        train_briefly(loaded.config, tmp_path / "copy", 3)


def test_a_run_on_a_frozen_encoder_is_evaluated_as_it_was_in_training(runs, tmp_path, capsys):
    config = config_of(runs / "words", train={"precision": "fp32"})
    train_briefly(config, tmp_path / "run", 3)
    assert (
        evaluate_command(
            [str(tmp_path / "run"), "--predictions", str(tmp_path / "predicted.conllu")]
        )
        == 0
    )
    state = json.loads((tmp_path / "run" / "checkpoints" / "latest" / "state.json").read_text())
    assert json.loads(capsys.readouterr().out)["metrics"] == pytest.approx(
        state["last_metrics"]["valid"], rel=1e-5
    )
    assert (tmp_path / "predicted.conllu").stat().st_size


def test_the_data_is_read_by_worker_processes_as_well(runs, tmp_path):
    alone, helped = (
        train_briefly(
            config_of(runs / "pieces", train={"precision": "fp32", "workers": workers}),
            tmp_path / str(workers),
            3,
        )
        for workers in (0, 2)
    )
    assert all(torch.equal(alone[name], helped[name]) for name in alone)
