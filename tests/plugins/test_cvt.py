"""Tests of cross-view training: what modules cannot see, what is imitated, and losses against their equations."""

from __future__ import annotations

import json
import math
import pickle
import re
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from support.cases import CASES, SENTENCES, TREEBANK
from support.paths import SHARED

import fwk
from fwk import BuildContext, View, Vocabulary
from fwk.cli.evaluate import main as evaluate_command
from fwk.config.resolve import build
from fwk.contracts.views import Encoded
from fwk.engine.evaluate import evaluate
from fwk.engine.predict import batches_by_length
from fwk.engine.update import Update
from fwk.errors import ConfigError, DataError, UserError
from fwk.nn.adversarial import perturbation
from fwk.nn.imitation import TeacherTargets
from fwk.testing import (
    batches_of,
    differentiate_once,
    gradients,
    merge_settings,
    tiny_config,
    train_briefly,
    trainer_of,
)
from fwk_plugins.cvt.corpora.examples import UnlabelledSentences
from fwk_plugins.cvt.corpora.packed import Packed
from fwk_plugins.cvt.corpora.readers import read_conllu
from fwk_plugins.cvt.corpora.trees import tree_fault
from fwk_plugins.cvt.criteria import cvt_parsing, cvt_tagging
from fwk_plugins.cvt.models import cnn_bilstm
from fwk_plugins.cvt.models.bilstm import reverse_words
from fwk_plugins.cvt.models.cnn_bilstm import CnnBiLSTM
from fwk_plugins.cvt.tasks.sentences import SentencesTask

REAL = SHARED
CASE = CASES["tagger and parser that are imitated"]
T = 9


def config_of(**changes):
    return tiny_config(merge_settings(CASE, changes))


def encoder(**options) -> CnnBiLSTM:
    torch.manual_seed(0)
    settings = {
        "width": 5,
        "words": 7,
        "characters": 4,
        "filters": 3,
        "dropout": 0.0,
        "unlabelled_dropout": 0.0,
        **options,
    }
    return CnnBiLSTM(
        build(CnnBiLSTM, settings),
        BuildContext(vocabulary=Vocabulary(size=30), inputs={"tokens": (T,), "characters": (T, 8)}),
    ).double()


def sentences(seed=1):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(T) < torch.tensor([[T], [6], [1]])
    tokens = torch.where(mask, torch.randint(2, 30, (3, T), generator=generator), 0)
    letters = torch.randint(1, 200, (3, T, 8), generator=generator)
    lengths = torch.randint(1, 9, (3, T, 1), generator=generator)
    characters = torch.where((torch.arange(8) < lengths) & mask[..., None], letters, 0)
    return {"tokens": tokens, "characters": characters}, mask


# -- the encoder -------------------------------------------------------------------------------------------------------


def test_turning_around_is_its_own_inverse_and_leaves_padding_where_it_is():
    x, lengths = torch.arange(24.0).view(2, 12, 1), torch.tensor([12, 5])
    back = reverse_words(x, lengths)
    assert back[1, :6, 0].tolist() == [16, 15, 14, 13, 12, 17] and torch.equal(
        reverse_words(back, lengths), x
    )


@pytest.mark.parametrize("options", [{}, {"combine": "concatenate"}, {"projection": 3}])
def test_states_are_those_of_torchs_bidirectional_lstm_over_packed_sequences(options):
    model = encoder(**options)
    inputs, mask = sentences()
    encoded = model(inputs, mask, None, model.state_names())
    x = model.token(inputs["tokens"])
    spelled = model.spelling(inputs["characters"])
    x = torch.cat([x, spelled], -1) if options.get("combine") else x + model.spelled(spelled)
    for number, layer in enumerate(model.layers, start=1):
        both = torch.nn.LSTM(
            x.shape[-1],
            5,
            batch_first=True,
            bidirectional=True,
            proj_size=options.get("projection", 0),
        ).double()
        names = dict(layer.forward_lstm.named_parameters())
        back = dict(layer.backward_lstm.named_parameters())
        both.load_state_dict(
            {**names, **{f"{name}_reverse": value for name, value in back.items()}}
        )
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            x, mask.sum(1), batch_first=True, enforce_sorted=False
        )
        x, _ = torch.nn.utils.rnn.pad_packed_sequence(both(packed)[0], batch_first=True)
        for name, wanted in zip((f"forward_{number}", f"backward_{number}"), x.chunk(2, -1)):
            torch.testing.assert_close(
                encoded.states[name][mask], wanted[mask], rtol=1e-10, atol=1e-12
            )
    assert encoded.features.shape[-1] == model.width == 4 * model.state_width("forward_1")


def test_a_word_is_spelled_alike_whatever_stands_beside_it():
    """Longer words in the batch, or other words beside it, change nothing: convolutions begin inside the word only."""
    model = encoder()
    characters = torch.tensor(
        [[5, 6, 7, 0, 0, 0, 0, 0], [9, 0, 0, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7, 8]]
    )
    whole = model.spelling(characters)
    for row, size in enumerate((3, 1, 8)):
        torch.testing.assert_close(
            model.spelling(characters[row : row + 1, :size])[0], whole[row], rtol=0, atol=1e-15
        )


def test_unlabelled_sentences_lose_less_to_dropout():
    model = encoder(dropout=0.5, unlabelled_dropout=0.2).train()
    x = torch.ones(4000, 3, 5, dtype=torch.float64)
    rate = model.dropout_rates({"unlabelled": torch.tensor([False, True] * 2000)})
    dropped = cnn_bilstm.dropped(x, rate)
    zeros = (dropped == 0).double().mean((1, 2))
    assert zeros[::2].mean() == pytest.approx(0.5, abs=0.01) and zeros[
        1::2
    ].mean() == pytest.approx(0.2, abs=0.01)
    assert dropped.mean((1, 2))[::2].mean() == pytest.approx(1.0, abs=0.02) and dropped[
        1::2
    ].max() == pytest.approx(1.25)
    assert model.eval().dropout_rates({"unlabelled": torch.tensor([True])}) == 0.0


# -- what a module cannot see ------------------------------------------------------------------------------------------

# module of the tagger: the words that it reads to tag word t
SEEN = {
    "forward": lambda t: range(0, t + 1),
    "backward": lambda t: range(t, T),
    "future": lambda t: range(0, t),
    "past": lambda t: range(t + 1, T),
    "full": lambda t: range(T),
}


@pytest.mark.parametrize("name", SEEN)
def test_an_auxiliary_tagger_sees_its_words_and_no_others_to_the_last_bit(name):
    model, generator = encoder(), torch.Generator().manual_seed(5)
    reads, shift = cvt_tagging.MODULES[name]
    module = cvt_tagging.TagModule(
        model.state_width("forward_1") if reads else model.width, 6, 4, reads, shift
    ).double()
    tokens = torch.randint(2, 30, (1, T), generator=generator)
    characters = torch.randint(1, 200, (1, T, 4), generator=generator)

    def tagged(tokens, characters):
        inputs = {"tokens": tokens, "characters": characters}
        view = View(
            name="x",
            draws=torch.zeros(1),
            inputs=inputs,
            mask=torch.ones(1, T, dtype=torch.bool),
            target=tokens,
            encoded=model(inputs, None, None, model.state_names()),
        )
        return module(view)[0]

    with torch.no_grad():
        before = tagged(tokens, characters)
        for hidden in range(T):
            other = tokens.clone()
            other[0, hidden] = 2 + (tokens[0, hidden] - 1) % 28
            spelled = characters.clone()
            spelled[0, hidden] = 1 + characters[0, hidden] % 199
            after = tagged(other, spelled)
            for word in range(T):
                same = torch.equal(before[word], after[word])
                assert same == (hidden not in SEEN[name](word)), (hidden, word)


@pytest.mark.parametrize("name", [name for name in cvt_parsing.MODULES if name != "full"])
def test_an_auxiliary_parser_sees_the_directions_it_is_named_after(name):
    """Changing a word changes the score of head u for word t only where the directions allow it, to the last bit."""
    model, generator = encoder(), torch.Generator().manual_seed(6)
    heads, dependents = cvt_parsing.MODULES[name]
    side = model.state_width("forward_1")
    module = cvt_parsing.Biaffine((side, side), 4, 3, heads, dependents).double()
    tokens = torch.randint(2, 30, (1, T), generator=generator)
    characters = torch.randint(1, 200, (1, T, 4), generator=generator)

    def scores(tokens):
        inputs = {"tokens": tokens, "characters": characters}
        view = View(
            name="x",
            draws=torch.zeros(1),
            inputs=inputs,
            mask=torch.ones(1, T, dtype=torch.bool),
            target=tokens,
            encoded=model(inputs, None, None, model.state_names()),
        )
        return module(view).view(T, 3, T + 1).transpose(1, 2)

    def seen(direction, word):
        return range(0, word + 1) if direction == "forward_1" else range(word, T)

    with torch.no_grad():
        before = scores(tokens)
        for hidden in range(T):
            other = tokens.clone()
            other[0, hidden] = 2 + (tokens[0, hidden] - 1) % 28
            after = scores(other)
            for word in range(T):
                for head in range(T + 1):
                    if head == word + 1:
                        continue
                    reads = set(seen(dependents[0], word)) | (
                        set(seen(heads[0], head - 1)) if head else set()
                    )
                    if hidden not in reads:
                        assert torch.equal(before[word, head], after[word, head]), (
                            hidden,
                            word,
                            head,
                        )
                    else:
                        assert not torch.equal(before[word, head], after[word, head]), (
                            hidden,
                            word,
                            head,
                        )


# -- losses ------------------------------------------------------------------------------------------------------------


def test_the_divergence_in_plain_python():
    generator = torch.Generator().manual_seed(2)
    teacher, student = (
        torch.randn(2, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    counted = torch.tensor([[True, True, False], [True, False, False]])

    def shares(row):
        whole = math.fsum(math.exp(z) for z in row)
        return [math.exp(z) / whole for z in row]

    soft = hard = sure = 0.0
    for b in range(2):
        for t in range(3):
            if counted[b, t]:
                p, q = shares(teacher[b, t].tolist()), shares(student[b, t].tolist())
                entropy = sum(x * math.log(x / y) for x, y in zip(p, q))
                soft, hard = soft + entropy, hard - math.log(q[p.index(max(p))])
                sure += entropy if max(p) >= 0.5 else 0.0
    imitated = TeacherTargets(teacher, counted)
    assert imitated.divergence(student).item() == pytest.approx(soft, rel=1e-12)
    assert imitated.divergence(student, "hard").item() == pytest.approx(hard, rel=1e-12)
    assert (
        TeacherTargets(teacher, counted, 0.5).divergence(student).item()
        == pytest.approx(sure, rel=1e-12)
        and 0 < sure < soft
    )
    assert imitated.divergence(teacher).item() == pytest.approx(0, abs=1e-14)
    student.requires_grad_()
    assert torch.autograd.gradcheck(imitated.divergence, (student,))
    half = TeacherTargets(teacher.half(), counted).divergence(student.half())  # what autocast gives
    assert half.dtype == torch.float32 and half.item() == pytest.approx(soft, rel=1e-2)


def test_the_scores_of_a_parser_in_plain_python():
    torch.manual_seed(4)
    B, n, D, P, R = 2, 4, 5, 3, 2
    module = cvt_parsing.Biaffine((D, D), P, R).double()
    features = torch.randn(B, n, D, dtype=torch.float64)
    mask = torch.arange(n) < torch.tensor([[4], [2]])
    view = View(
        name="x",
        draws=torch.arange(B),
        inputs={},
        mask=mask,
        target=mask.long(),
        encoded=Encoded(features=features),
    )
    scores = module(view).view(B, n, R, n + 1).transpose(2, 3)
    for b in range(B):
        for t in range(n):
            dependent = torch.relu(module.dependent.weight @ features[b, t] + module.dependent.bias)
            for u in range(n + 1):
                head = (
                    torch.relu(module.head.weight @ features[b, u - 1] + module.head.bias)
                    if u
                    else module.root
                )
                for r in range(R):
                    if u == t + 1 or (u and not mask[b, u - 1]):
                        assert scores[b, t, u, r] < -1e30  # itself, or padding
                    else:
                        wanted = head @ (module.own[r] + module.shared) @ dependent
                        assert scores[b, t, u, r].item() == pytest.approx(wanted.item(), rel=1e-10)


def test_no_gradient_reaches_the_primary_module_from_unlabelled_sentences_and_none_the_auxiliary_from_labelled():
    with trainer_of(config_of(criterion={"tree": {"auxiliary_labels": False}})) as trainer:
        run, reached = trainer.run, {}
        for number, batch in enumerate(batches_of(run)):
            for parameter in run.module.parameters():
                parameter.grad = None
            run.update = number
            differentiate_once(trainer)
            kind = bool(batch[0]["batch"].inputs["unlabelled"].all())
            reached.setdefault(
                kind,
                {
                    name
                    for name, p in run.module.named_parameters()
                    if p.grad is not None and p.grad.any()
                },
            )
            if len(reached) == 2:
                break
        of = {
            kind: {name.split(".")[2] for name in names if name.startswith("criteria.")}
            for kind, names in reached.items()
        }
        assert of == {True: {"students"}, False: {"primary"}}
        assert all(
            any(name.startswith("networks.main") for name in names) for names in reached.values()
        )


def test_every_update_is_of_one_kind_and_all_tasks_imitate_on_unlabelled_ones():
    with trainer_of(config_of()) as trainer:
        kinds = []
        for batch in (next(batches_of(trainer.run, update)) for update in range(16)):
            unlabelled = batch[0]["batch"].inputs["unlabelled"]
            assert unlabelled.all() or not unlabelled.any()
            kinds.append(bool(unlabelled.all()))
        where, *_ = trainer.run.order.locate(np.arange(12 * trainer.run.order.block))
        assert (
            abs(np.mean(where == 1) - 0.5) < 1 / trainer.run.order.block and 4 <= sum(kinds) <= 12
        )  # a fixed composition
        steps = [step for step in trainer.run.module.plan.actions]
        assert sorted(view for step in steps for view in step.views) == [
            "labelled",
            "teacher",
            "unlabelled",
        ]  # each encoded once


def modules_of(weights) -> dict[str, set[str]]:
    """Return the auxiliary modules of each criterion, by the names of weights."""
    names: dict[str, set[str]] = {"pos": set(), "tree": set()}
    for name in weights:
        parts = name.split(".")
        if "students" in parts:
            names[parts[parts.index("students") - 1]].add(
                parts[parts.index("students") + 1].removesuffix("_module")
            )
    return names


def moved_parts(config, trained) -> set[str]:
    """Return the first three parts of the names of weights that training changed."""
    with trainer_of(config) as trainer:
        first = {name: p.detach().clone() for name, p in trainer.run.module.named_parameters()}
    names = first.keys() & trained.keys()
    assert names
    return {
        ".".join(name.split(".")[:3])
        for name in names
        if not torch.equal(first[name], trained[name].to(first[name]))
    }


TAGGERS, PARSERS = set(cvt_tagging.MODULES), set(cvt_parsing.MODULES)


@pytest.mark.parametrize(
    "criteria, modules",
    [
        (
            {"pos": {"students": "none"}, "tree": {"students": "none"}},
            {"pos": set(), "tree": PARSERS},
        ),  # which learn from labels
        (
            {"pos": {"students": "primary", "targets": "hard"}, "tree": {"threshold": 0.3}},
            {"pos": set(), "tree": PARSERS},
        ),
        (
            {"pos": {"modules": ["future", "past"]}, "tree": {"modules": ["forward_backward"]}},
            {"pos": {"future", "past"}, "tree": {"forward_backward"}},
        ),
        ({}, {"pos": TAGGERS, "tree": PARSERS}),
    ],
)
@pytest.mark.slow
def test_baselines_are_options(criteria, modules, tmp_path):
    config = config_of(criterion=criteria)
    trained = train_briefly(config, tmp_path, 8)
    moved = moved_parts(config, trained)
    assert modules_of(trained) == modules
    assert {
        "criteria.pos.primary",
        "criteria.tree.primary",
        "networks.main.token",
        "networks.main.layers",
    } <= moved
    assert {f"criteria.{label}.students" for label, of in modules.items() if of} == {
        name for name in moved if name.endswith("students")
    }


COUNTS = dict.fromkeys(
    ("pos/supervised", "pos/cvt", "tree/supervised", "tree/auxiliary", "tree/cvt"), 1.0
)


def test_the_weight_of_imitation_may_rise():
    with trainer_of(config_of(criterion={"pos": {"ramp_up": 0.5, "cvt_weight": 2.0}})) as trainer:
        batch = next(batches_of(trainer.run))
        weights = []
        for progress in (0.0, 0.25, 0.5, 0.9):
            step = Update(number=1, progress=progress, counts=COUNTS)
            output = trainer.run.module(trainer.run.module.begin(batch[0], 0, step), step)
            weights.append(output.weights["pos/cvt"])
        assert weights == [0.0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_divergence_is_not_rounded_by_autocast(dtype):
    generator = torch.Generator().manual_seed(3)
    teacher, student = (torch.randn(2, 3, 40, generator=generator) for _ in range(2))
    for logits in (teacher, student):
        logits[..., 7:9] = torch.finfo(torch.float32).min / 4  # pairs that cannot be
    counted = torch.ones(2, 3, dtype=torch.bool)
    with torch.autocast("cpu", dtype=dtype):
        divergence = TeacherTargets(teacher, counted).divergence(student)
    assert float(divergence) == pytest.approx(
        float(TeacherTargets(teacher.double(), counted).divergence(student.double())), rel=1e-5
    )


@pytest.mark.slow
def test_half_precision_skips_no_update_of_a_parser(tmp_path):
    for precision in ("bf16", "fp16"):
        for students in ("auxiliary", "adversarial"):
            changes = {"students": students, "auxiliary_labels": False}
            config = config_of(
                criterion={"pos": changes, "tree": changes},
                train={"precision": precision, "updates": 12},
            )
            with trainer_of(config) as trainer:
                for batch in (next(batches_of(trainer.run, update)) for update in range(12)):
                    assert trainer.step(batch)
                assert trainer.run.skipped == 0 and trainer.run.update == 12


def test_a_mean_teacher_has_averaged_weights_in_encoder_and_module():
    views = {"teacher": {"noiser": "identity", "of": "unlabelled", "mode": "teacher", "ema": True}}
    with trainer_of(
        config_of(criterion={"pos": {"students": "primary"}}, views=views, train={"ema": 0.9})
    ) as trainer:
        run = trainer.run
        batch = next(b for b in batches_of(run) if bool(b[0]["batch"].inputs["unlabelled"].all()))

        step = Update(number=1, counts=COUNTS)

        def divided():
            return float(run.module(run.module.begin(batch[0], 0, step), step).sums["pos/cvt"])

        before = divided()
        for name in ("criteria.pos.primary.output.bias", "networks.main.token.weight"):
            average = run.average.values[name]
            kept = average.clone()
            average.copy_(torch.randn(average.shape, generator=torch.Generator().manual_seed(1)))
            assert divided() != before, name
            average.copy_(kept)
            assert divided() == before


def test_spans_are_counted_in_sentences_that_have_the_label_and_unknown_types_are_missed():
    build = BuildContext(
        name="ner",
        labels={"ner": ("B-PER", "E-PER", "I-PER", "O", "S-PER")},
        encoder=encoder(),
        key="criterion.ner",
    )
    criterion = cvt_tagging.CvtTagging(
        cvt_tagging.CvtTagging.Config(label="ner", students="none"), build
    )
    values = torch.tensor(
        [[0, 1, 3, -1], [-1, -1, -1, -1], [-2, -3, 4, 3]]
    )  # a span; another set's sentence; an unknown type and a span
    mask = torch.tensor(
        [[True, True, True, False], [True, True, False, False], [True, True, True, True]]
    )
    view = View(
        name="x", draws=torch.arange(3), inputs={}, mask=mask, target=values, labels={"ner": values}
    )
    predicted = torch.tensor([[0, 1, 3, 3], [0, 1, 4, 4], [3, 3, 4, 3]])
    context = types.SimpleNamespace(training=False)
    statistics = criterion.statistics(
        torch.nn.functional.one_hot(predicted, 5).float(), view, context
    )
    assert statistics["spans"].tolist() == [[2, 0], [2, 0], [2, 1]]
    assert (
        criterion.metrics(statistics)["recall"] == pytest.approx(2 / 3)
        and criterion.metrics(statistics)["precision"] == 1.0
    )


def test_updates_with_nothing_to_learn_are_told_once(tmp_path, caplog):
    none = {"students": "none", "auxiliary_labels": False}
    train_briefly(config_of(criterion={"pos": none, "tree": none}), tmp_path, 12)
    messages = [line for line in caplog.messages if "has nothing to learn" in line]
    assert len(messages) == 1 and "its examples are of unlabelled" in messages[0]


@pytest.mark.slow
def test_tasks_take_turns_on_unlabelled_updates(tmp_path):
    turns = {"pos": {"turns": 2}, "tree": {"turns": 2, "turn": 1}}
    with trainer_of(config_of(criterion=turns)) as trainer:
        seen = []
        for number, batch in zip(range(24), batches_of(trainer.run)):
            for parameter in trainer.run.module.parameters():
                parameter.grad = None
            trainer.run.update = number
            differentiate_once(trainer)
            if bool(batch[0]["batch"].inputs["unlabelled"].all()):
                seen.append(
                    {
                        name.split(".")[1]
                        for name, p in trainer.run.module.named_parameters()
                        if "students" in name and p.grad is not None and p.grad.any()
                    }
                )
        assert {"pos"} in seen and {"tree"} in seen and all(len(one) == 1 for one in seen)
    taking, all_at_once = (
        train_briefly(config_of(criterion=criteria), tmp_path / name, 6)
        for name, criteria in (("a", turns), ("b", {}))
    )
    assert any(not torch.equal(taking[name], all_at_once[name]) for name in taking)


def disturbed_once(label, **changes):
    """Return a module, its criterion, an unlabelled batch as a view, and the noise that the criterion added."""
    with trainer_of(
        config_of(criterion={label: {"students": "adversarial", **changes}})
    ) as trainer:
        run = trainer.run
        number, batch = next(
            (n, b[0]["batch"])
            for n, b in enumerate(batches_of(run))
            if bool(b[0]["batch"].inputs["unlabelled"].all())
        )
        noises, encode = [], run.module.encoding.encode

        def watched(views, *arguments, **keywords):
            noises.extend(
                view.embedding_change for view in views if view.embedding_change is not None
            )
            return encode(views, *arguments, **keywords)

        run.module.encoding.encode, run.update = watched, number
        differentiate_once(trainer)
        return (
            run.module.eval(),
            run.module.criteria[label],
            batch,
            [noise.detach() for noise in noises],
        )


def test_the_adversary_finds_the_noise_that_moves_the_primary_module_most():
    norm = 0.02  # small: to first order
    module, criterion, batch, (start, noise) = disturbed_once("pos", adversarial_norm=norm)
    unit = float(module.networks["main"].embedding().weight.detach().square().mean().sqrt())
    assert not noise[~batch.mask].any() and not start[~batch.mask].any()
    assert torch.allclose(
        noise.flatten(1).norm(dim=1), torch.tensor(norm * unit, dtype=noise.dtype), rtol=1e-4
    )

    def moved(change):
        with torch.no_grad():
            plain, other = (
                criterion.primary(view.replace(encoded=module.encoding.encode([view])[0])).double()
                for view in (batch, batch.replace(embedding_change=change))
            )
        p, log_q = plain.softmax(-1), other.log_softmax(-1)
        return float((p * (p.log() - log_q)).sum(-1)[batch.mask].sum())

    generator = torch.Generator().manual_seed(1)
    for _ in range(30):
        random = torch.randn(noise.shape, generator=generator).masked_fill(
            ~batch.mask[..., None], 0.0
        )
        assert moved(perturbation(random, norm * unit)) < 0.5 * moved(noise)


def test_the_adversary_trains_every_part_but_no_auxiliary_module(tmp_path):
    changes = {"students": "adversarial", "adversarial_norm": 1.0, "auxiliary_labels": False}
    config = config_of(criterion={"pos": changes, "tree": {**changes, "adversarial_norm": 2.0}})
    trained = train_briefly(config, tmp_path, 8)
    assert {
        "criteria.pos.primary",
        "criteria.tree.primary",
        "networks.main.token",
        "networks.main.layers",
    } <= moved_parts(config, trained)
    assert modules_of(trained) == {"pos": set(), "tree": set()}
    with trainer_of(config_of(criterion={"pos": changes, "tree": changes})) as trainer:
        assert not any(
            "module" in name
            for name, _ in trainer.run.module.named_parameters()
            if name.startswith("criteria")
        )
        assert sorted(view for step in trainer.run.module.plan.actions for view in step.views) == [
            "labelled",
            "teacher",
        ]


CONSISTENCY = {
    "criterion": {
        "pos": {"students": "primary"},
        "tree": {"students": "primary", "auxiliary_labels": False},
    },
    "views": {
        "plain": {"noiser": "rows", "sources": ["unlabelled"]},
        "teacher": {"of": "plain"},
        "unlabelled": {"noiser": "word_dropout", "of": "plain", "rate": 0.4},
    },
}


def test_consistency_under_word_dropout_compares_dropped_words_with_whole_sentences():
    with trainer_of(config_of(**CONSISTENCY)) as trainer:
        run = trainer.run
        batch = next(b for b in batches_of(run) if b[0]["batch"].inputs["unlabelled"].all())
        views = run.module.begin(batch[0], 0, Update()).views
        lost = views["unlabelled"].tokens != views["teacher"].tokens
        assert (
            0.25 < lost[views["teacher"].mask].double().mean() < 0.55
            and (views["unlabelled"].tokens[lost] == 1).all()
        )
        assert (views["unlabelled"].inputs["characters"][lost] == 0).all()
        assert torch.equal(
            views["teacher"].inputs["characters"], batch[0]["batch"].inputs["characters"]
        )
        assert not views["unlabelled"].tokens[~views["teacher"].mask].any()  # padding stays padding


@pytest.mark.slow
def test_a_mean_teacher_is_a_view_with_averaged_weights(tmp_path):
    mean, current_weights = (
        merge_settings(CONSISTENCY, {"views": {"teacher": {"ema": ema}}, "train": {"ema": 0.9}})
        for ema in (True, False)
    )
    averaged, current = (
        train_briefly(config_of(**changes), tmp_path / str(n), 8)
        for n, changes in enumerate((mean, current_weights))
    )
    assert any(
        not torch.equal(averaged[name], current[name]) for name in averaged
    )  # another teacher teaches something else


def test_a_supervised_tagger_runs_on_any_encoder(tmp_path):
    config = config_of(
        model={
            "name": "bert",
            "layers": 1,
            "width": 8,
            "heads": 2,
            "dropout": 0.0,
            "attention_dropout": 0.0,
        },
        criterion={
            "pos": {"students": "none"},
            "tree": {"students": "none", "auxiliary_labels": False},
        },
    )
    trained = train_briefly(config, tmp_path, 8)
    assert {"criteria.pos.primary", "criteria.tree.primary"} <= moved_parts(
        config, trained
    ) and modules_of(trained) == {"pos": set(), "tree": set()}
    with pytest.raises(
        ConfigError,
        match="criterion.pos.modules: the module 'forward' reads the state 'forward_1', which Bert does not have",
    ):
        gradients(config_of(model={"name": "bert", "layers": 1, "width": 8, "heads": 2}))


@pytest.mark.parametrize(
    "criterion, message",
    [
        (
            {"pos": {"modules": ["forwards"]}},
            "modules: there is no module 'forwards'. Did you mean 'forward'",
        ),
        (
            {"pos": {"label": "poss"}},
            "criterion.pos: reads the label 'poss', and task 'sentences' has no such label. Did you mean 'pos'",
        ),
    ],
)
def test_wrong_names_are_told_the_nearest(criterion, message):
    with pytest.raises(ConfigError) as refused:
        gradients(config_of(criterion=criterion))
    assert message in str(refused.value)


# -- the task ----------------------------------------------------------------------------------------------------------


def task(**options) -> SentencesTask:
    settings = {
        key: value for key, value in {**SENTENCES["task"], **options}.items() if key != "name"
    }
    return SentencesTask(build(SentencesTask, settings), 1)


def test_a_smaller_fraction_of_labels_is_part_of_a_larger_one_and_the_rest_is_unlabelled():
    def labelled(fraction):
        built = task(data={"tiny": {**TREEBANK, "fraction": fraction}})
        sources = built.sources("train")
        rest = len(sources["unlabelled"]) if "unlabelled" in sources else 0
        assert (
            len(sources["tiny"]) == math.ceil(60 * fraction) and len(sources["tiny"]) + rest == 60
        )
        return {tuple(words.tolist()) for words, *_ in sources["tiny"].examples}

    assert labelled(0.1) < labelled(0.5) < labelled(1.0)


def test_what_stands_in_an_evaluation_file_is_left_out_of_training():
    assert len(task(clean=False).sources("train")["tiny"]) == 30
    with pytest.raises(DataError, match="no sentence"):
        task(clean=True)


def test_unlabelled_text_is_cleaned_of_evaluation_sentences_too(tmp_path):
    plain, sentence = tmp_path / "plain.txt", " ".join(next(read_conllu(TREEBANK["path"])).words)
    plain.write_text(f"{sentence}\nanother one\n{sentence}\n")
    train = tmp_path / "train.txt"
    train.write_text("a N\n\n")
    data = {
        "tiny": TREEBANK,
        "x": {"path": str(train), "columns": ["word", "tag"], "labels": {"tag": "tag"}},
    }
    data["tiny"] = {**TREEBANK, "path": str(tmp_path / "some.conllu")}
    (tmp_path / "some.conllu").write_text("1\ta\ta\tX\t_\t_\t0\troot\t_\t_\n\n")
    for clean, left in ((True, 1), (False, 3)):
        assert (
            len(
                task(data=data, unlabelled=(str(plain),), clean=clean).sources("train")[
                    "unlabelled"
                ]
            )
            == left
        )
    plain.write_text(sentence)
    with pytest.raises(
        DataError,
        match=r"plain.txt contains no sentence .* outside of the valid and test files \(task.clean\)",
    ):
        task(data=data, unlabelled=(str(plain),), clean=True)


def test_sentences_of_empty_words_alone_are_encoded(tmp_path):
    """WNUT-17 has empty words, and a batch may consist of them."""
    path = tmp_path / "x.txt"
    path.write_text("\tO\n\tO\n\nAnn\tO\n\n")
    built = task(
        data={
            "x": {
                "path": str(path),
                "columns": ["word", "tag"],
                "separator": "\t",
                "labels": {"tag": "tag"},
            }
        }
    )
    batch = built.collate(
        [built.sources("train")["x"][0]], np.arange(1), np.zeros(1, dtype=np.int64)
    )
    assert batch.inputs["characters"].tolist() == [[[0], [0]]]
    config = BuildContext(vocabulary=built.vocabulary(), inputs=built.inputs())
    assert (
        CnnBiLSTM(build(CnnBiLSTM, {"width": 4, "words": 4}), config)(batch.inputs, batch.mask)
        .features.isfinite()
        .all()
    )


@pytest.mark.parametrize("longest", [4, 5, 32])
def test_packed_sentences_make_the_examples_that_sentences_make(longest):
    """Words are long, empty, of many bytes, known and unknown; packing changes no word."""
    sentences = [
        ("the", "dog", "été"),
        ("", ""),
        ("unbelievably", "", "Ann", "12", "☃☃☃"),
        ("", "x", ""),
        ("the",),
    ]
    built, packed = task(longest_word=longest), Packed()
    for words in sentences:
        packed.add(words)
    assert (
        dict(packed.counts())["the"] == 2
        and [packed.words(n) for n in range(len(packed))] == sentences
    )
    packed.pack(built._builder.lexicon.id_of)
    assert [packed.words(n) for n in range(len(packed))] == sentences
    source = UnlabelledSentences("unlabelled", pickle.loads(pickle.dumps(packed)), longest, None)
    for number, words in enumerate(sentences):
        for ours, wanted in zip(source[number][:2], built.encode(words)[:2], strict=True):
            assert ours.dtype == wanted.dtype and np.array_equal(ours, wanted), words
    nothing = Packed()
    nothing.add(("",))
    nothing.pack(built._builder.lexicon.id_of)
    assert nothing.encoded(0, longest)[1].tolist() == [[0]]


def test_words_are_looked_up_in_lower_case_with_zeros_for_digits_and_spelled_in_bytes(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("The N\nthe N\nB12 N\nb99 N\nété N\n\n", encoding="utf-8")
    built = task(
        data={"x": {"path": str(path), "columns": ["word", "tag"], "labels": {"tag": "tag"}}},
        fewest=2,
    )
    words, characters, labels, _ = built.sources("train")["x"][0]
    assert (
        words[0] == words[1] > 1 and words[2] == words[3] > 1 and words[4] == 1
    )  # once is too few
    assert (characters[4][:5] - 1).astype(np.uint8).tobytes().decode() == "été" and (
        characters[0] != characters[1]
    ).any()
    assert labels["tag"].tolist() == [0] * 5


def test_spans_are_read_as_bioes_whatever_the_file_has(tmp_path):
    path = tmp_path / "ner.txt"
    path.write_text("a B-PER\nb I-PER\nc O\nd B-LOC\n\n" * 3)
    built = task(
        data={
            "ner": {
                "path": str(path),
                "columns": ["word", "tag"],
                "labels": {"ner": {"spans": "tag"}},
            }
        }
    )
    ours = {f"{prefix}-{kind}" for prefix in "BIES" for kind in ("LOC", "PER")} | {
        "O"
    }  # those that training never saw too
    assert built.labels()["ner"] == tuple(sorted(ours))


def test_spans_are_scored_in_evaluation_as_conlleval_scores_them(tmp_path):
    path = tmp_path / "ner.txt"
    path.write_text("Ann B-PER\nBo I-PER\nsees O\nRome B-LOC\n\nthe O\ndog O\n\n" * 12)
    data = {
        "ner": {
            "path": str(path),
            "columns": ["word", "tag"],
            "labels": {"ner": {"spans": "tag"}},
            "valid": str(path),
        }
    }
    config = tiny_config(
        {
            **SENTENCES,
            "task": {**SENTENCES["task"], "data": data},
            "criterion": {"cvt_tagging": {"label": "ner", "students": "none"}},
        }
    )
    with trainer_of(config) as trainer:
        run = trainer.run
        criterion = run.module.criteria["cvt_tagging"]
        assert criterion.types == ("LOC", "PER") and cvt_tagging.span_types(("NOUN", "O")) == ()
        values = criterion.values
        predicted = torch.tensor(
            [[values.index(v) for v in ("B-PER", "E-PER", "O", "O")]]
        )  # finds one of two, and nothing wrong

        def answered(view):
            T = view.mask.shape[1]
            return (
                torch.nn.functional.one_hot(predicted[:, :T], len(values))
                .double()
                .expand(len(view), -1, -1)
            )

        criterion.primary.forward = answered
        metrics = evaluate(run, "valid")
        # the other sentence has no span, and there the same answer is two words of one that is not there
        assert metrics["cvt_tagging/recall"] == pytest.approx(0.5) and metrics[
            "cvt_tagging/precision"
        ] == pytest.approx(0.5)


@pytest.mark.parametrize(
    "data, message",
    [
        ({}, "names no labelled set"),
        ({"x": "file"}, "task.data.x: expected {path: FILE"),
        (
            {"x": {"path": "a.conllu", "labels": {"pos": "upos"}, "fractoin": 1}},
            "a labelled set has no option 'fractoin'. Did you mean 'fraction'",
        ),
        ({"x": {"path": "a.conllu"}}, "task.data.x.labels: a labelled set needs this option"),
        (
            {"x": {"path": "a.txt", "labels": {"t": "tag"}}},
            "task.data.x.columns: a file of columns needs their names",
        ),
        (
            {"x": {"path": "a.conllu", "labels": {"t": "tag"}, "fraction": 0}},
            "task.data.x.fraction: must be above 0, got 0",
        ),
        ({"x": {**TREEBANK, "labels": {"pos": "uppos"}}}, "has no column 'uppos'"),
        ({"unlabelled": TREEBANK}, "this name is reserved for the unlabelled sentences"),
    ],
)
def test_what_is_wrong_with_the_data_is_one_sentence(data, message):
    with pytest.raises((ConfigError, DataError)) as refused:
        task(data=data)
    assert message in str(refused.value)


# -- fwk-evaluate ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    train_briefly(
        tiny_config(
            merge_settings(
                CASE, {"train": {"updates": 40, "precision": "fp32"}, "optimizer": {"lr": 0.02}}
            )
        ),
        folder,
        40,
    )
    return folder


def evaluated(capsys, *arguments) -> tuple[int, str, str]:
    status = evaluate_command([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.slow
def test_a_run_is_evaluated_as_it_was_in_training(trained, capsys, tmp_path):
    status, out, _ = evaluated(capsys, trained, "--output", tmp_path / "metrics.json")
    result = json.loads(out)
    state = json.loads((trained / "checkpoints" / "latest" / "state.json").read_text())
    assert status == 0 and result["split"] == "valid" and result["update"] == 40
    assert result["metrics"] == pytest.approx(state["last_metrics"]["valid"], rel=1e-6)
    assert json.loads((tmp_path / "metrics.json").read_text()) == result


@pytest.mark.slow
def test_predictions_are_trees_that_score_as_the_metrics_say(trained, capsys, tmp_path):
    path = tmp_path / "predicted.conllu"
    status, out, _ = evaluated(capsys, trained, "--predictions", path)
    metrics = json.loads(out)["metrics"]
    predicted, gold = (list(read_conllu(file)) for file in (path, TREEBANK["path"]))
    right = attached = labelled = words = scored = 0
    for ours, theirs in zip(predicted, gold, strict=True):
        assert ours.words == theirs.words and tree_fault(ours.heads) is None
        for n in range(len(ours.words)):
            words, right = words + 1, right + (ours.columns["upos"][n] == theirs.columns["upos"][n])
            if theirs.columns["upos"][n] != "PUNCT":
                scored, same = scored + 1, ours.heads[n] == theirs.heads[n]
                attached += same
                labelled += same and ours.columns["deprel"][n] == theirs.columns["deprel"][n]
    assert status == 0 and right / words > 0.5
    assert metrics["pos/accuracy"] == pytest.approx(right / words) and metrics[
        "tree/uas"
    ] == pytest.approx(attached / scored)
    assert metrics["tree/las"] == pytest.approx(labelled / scored)


@pytest.mark.slow
def test_a_file_that_is_named_after_training_is_evaluated_with_the_runs_own_words_and_without_its_training_data(
    tmp_path, capsys
):
    """The test file shares sentences with training; one word is in the file of vectors, and one relation is new."""
    folder, train = tmp_path / "run", tmp_path / "train.conllu"
    text = Path(TREEBANK["path"]).read_text()
    train.write_text(text)
    (tmp_path / "vectors.txt").write_text("the 1 2 3\nzebra 1 1 1\n")
    (tmp_path / "ner.txt").write_text("Ann B-PER\nBo I-PER\nsees O\n\nCy B-PER\n\n" * 9)
    data = {
        "tiny": {**TREEBANK, "path": str(train), "valid": None, "fraction": 1.0},
        "ner": {
            "path": str(tmp_path / "ner.txt"),
            "columns": ["word", "tag"],
            "labels": {"ner": {"spans": "tag"}},
        },
    }
    train_briefly(
        config_of(
            task={
                "data": data,
                "clean": True,
                "vectors": str(tmp_path / "vectors.txt"),
                "unlabelled": [str(tmp_path / "ner.txt")],
            },
            model={"words": 3},
            criterion={"ner": {"name": "cvt_tagging", "label": "ner", "students": "none"}},
            train={"updates": 2, "precision": "fp32"},
        ),
        folder,
        2,
    )
    wanted = json.loads(evaluated(capsys, folder, "--split", "train")[1])["metrics"]
    test, spans = tmp_path / "test.conllu", tmp_path / "spans.txt"
    test.write_text(text)
    spans.write_text("Ann I-PER\n\n")
    arguments = [
        folder,
        f"task.data.tiny.test={test}",
        f"task.data.ner.test={spans}",
        "--split",
        "test",
    ]
    for path in (train, tmp_path / "vectors.txt", tmp_path / "ner.txt"):
        path.unlink()
    status, out, err = evaluated(capsys, *arguments, "--predictions", tmp_path / "predicted")
    assert status == 0, err
    metrics = json.loads(out)["metrics"]
    assert metrics["pos/accuracy"] == pytest.approx(wanted["pos/accuracy"]) and (
        tmp_path / "predicted.ner"
    ).read_text().startswith("Ann I-PER ")
    test.write_text(text.replace("\tdet\t", "\tdetx\t", 1).replace("the", "zebra", 1))
    assert evaluated(capsys, *arguments)[0] == 0
    status, _, err = evaluated(capsys, folder, "task.data.tiny.fraction=0.5")
    assert (
        status == 2 and "train.conllu" in err
    )  # only the training data show whether this changes the words


@pytest.mark.slow
def test_predictions_of_columns_have_what_is_right_and_what_was_said_side_by_side_last(
    tmp_path, capsys
):
    """Every label has gold and predicted values, heads and relations included; the word comes first, once."""
    columns, path = ["_", "pos", "word", "head", "deprel", "upos"], tmp_path / "x.txt"
    gold = list(read_conllu(TREEBANK["path"]))
    path.write_text(
        "".join(
            "".join(
                f"- {p} {w} {h} {r} {p}\n"
                for p, w, h, r in zip(s.columns["upos"], s.words, s.heads, s.columns["deprel"])
            )
            + "\n"
            for s in gold
        )
    )
    data = {
        "x": {
            "path": str(path),
            "valid": str(path),
            "columns": columns,
            "labels": {"tree": "tree", "pos": "pos"},
        }
    }
    criteria = {
        "pos": {"name": "cvt_tagging", "label": "pos", "students": "none"},
        "tree": {"name": "cvt_parsing", "students": "none"},
    }
    config = tiny_config(
        {
            **SENTENCES,
            "task": {**SENTENCES["task"], "data": data},
            "criterion": criteria,
            "optimizer": {"lr": 0.02},
            "train": {"updates": 30, "precision": "fp32"},
        }
    )
    train_briefly(config, tmp_path / "run", 30)
    status, out, err = evaluated(capsys, tmp_path / "run", "--predictions", tmp_path / "predicted")
    assert status == 0, err
    blocks = [
        [line.split(" ") for line in block.splitlines()]
        for block in (tmp_path / "predicted").read_text().strip().split("\n\n")
    ]
    attached = labelled = scored = right = words = 0
    for block, sentence in zip(blocks, gold, strict=True):
        word, upos, head, head_said, deprel, deprel_said, pos, pos_said = zip(*block)
        assert (
            word == sentence.words
            and upos == pos == sentence.columns["upos"]
            and deprel == sentence.columns["deprel"]
        )
        assert (
            tuple(map(int, head)) == sentence.heads
            and tree_fault(tuple(map(int, head_said))) is None
        )
        for n in range(len(word)):
            words, right = words + 1, right + (pos[n] == pos_said[n])
            if upos[n] != "PUNCT":
                scored, attached = scored + 1, attached + (head[n] == head_said[n])
                labelled += (head[n], deprel[n]) == (head_said[n], deprel_said[n])
    metrics = json.loads(out)["metrics"]
    assert metrics["tree/uas"] == pytest.approx(attached / scored) and metrics[
        "tree/las"
    ] == pytest.approx(labelled / scored)
    assert metrics["pos/accuracy"] == pytest.approx(right / words) and attached < scored


def test_predictions_of_conllu_hold_no_gold_value(tmp_path, capsys):
    """A scorer would count it as predicted: a tagger would have all attachments right."""
    criteria = {"pos": {"name": "cvt_tagging", "label": "pos", "students": "none"}}
    config = {**SENTENCES, "criterion": criteria, "train": {"updates": 1, "precision": "fp32"}}
    train_briefly(tiny_config(config), tmp_path / "run", 1)
    assert (
        evaluated(capsys, tmp_path / "run", "--predictions", tmp_path / "predicted.conllu")[0] == 0
    )
    for predicted, gold in zip(
        read_conllu(tmp_path / "predicted.conllu"), read_conllu(TREEBANK["path"]), strict=True
    ):
        assert (
            predicted.words == gold.words
            and predicted.heads is None
            and "_" not in predicted.columns["upos"]
        )
        assert all(
            set(predicted.columns[name]) == {"_"} for name in ("lemma", "xpos", "feats", "deprel")
        )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--split", "dev"], "--split: the task has no split 'dev'; it has train, valid"),
        (["optimizer.lr=1"], "optimizer.lr: does not change how a model is evaluated"),
        (["task.fewest=60"], "was trained on other data than the task has now"),
        (["--average"], "holds no moving average of the weights"),
        (
            ["--predictions", "nodir/predicted"],
            "--predictions: there is no folder nodir for predicted",
        ),
        (["--output", "nodir/x"], "--output: there is no folder nodir"),
        (["--predictions", "."], "--predictions: . is a folder; expected a file"),
        (
            ["--predictions", "predicted", "--split", "train"],
            "--predictions: can be written for the splits valid and test, got train",
        ),
        (["--text", ""], "there is no file"),
        (["--text", "README.md", "--predictions", "nodir/predicted"], "there is no folder nodir"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence_before_anything_is_evaluated(
    trained, capsys, arguments, message, monkeypatch
):
    for name in ("runs.evaluating.evaluate_and_count", "engine.predict.predict_texts"):
        monkeypatch.setattr(f"fwk.{name}", None)
    status, out, err = evaluated(capsys, trained, *arguments)
    assert (
        status == 2 and not out and re.search(message, err) and len(err.strip().splitlines()) == 1
    )


def test_a_model_that_predicts_nothing_says_so_and_writes_nothing(tmp_path, capsys):
    train_briefly(
        tiny_config({"criterion": "masked_lm", "train": {"updates": 1, "precision": "fp32"}}),
        tmp_path / "run",
        1,
    )
    status, _, err = evaluated(capsys, tmp_path / "run", "--predictions", tmp_path / "x")
    assert status == 2 and "no criterion" in err and not (tmp_path / "x").exists()
    status, out, _ = evaluated(capsys, tmp_path / "run", "train.batch=5")
    assert status == 0 and json.loads(out)["metrics"]["masked_lm/masked_lm"] > 0


# -- raw text ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moved(tmp_path_factory) -> Path:
    """A run whose data are deleted: a treebank, and spans in columns."""
    folder = tmp_path_factory.mktemp("moved")
    treebank, names = folder / "gold.conllu", folder / "names.txt"
    treebank.write_text(Path(TREEBANK["path"]).read_text())
    names.write_text("Ann B-PER\nBo I-PER\nsees O\nRome B-LOC\n\nthe O\ndog O\nsleeps O\n\n" * 12)
    data = {
        "tiny": {**TREEBANK, "path": str(treebank), "valid": None, "fraction": 1.0},
        "names": {
            "path": str(names),
            "columns": ["word", "tag"],
            "labels": {"ner": {"spans": "tag"}},
        },
    }
    train_briefly(
        config_of(
            task={"data": data},
            criterion={
                **{
                    label: {"students": "none", "auxiliary_labels": False}
                    for label in ("pos", "tree")
                },
                "ner": {"name": "cvt_tagging", "label": "ner", "students": "none"},
            },
            train={"updates": 120, "precision": "fp32"},
            optimizer={"lr": 0.02},
        ),
        folder / "run",
        120,
    )
    treebank.unlink()
    names.unlink()
    return folder / "run"


def test_three_lines_tag_raw_text_without_the_data(moved):
    predictions = fwk.load(moved).predict(["The dog sees Ann .", ["Ann", "Bo", "sees", "Rome"]])
    assert [list(one) for one in predictions] == [["words", "pos", "tree", "ner"]] * 2
    assert (
        predictions[0]["words"] == ["The", "dog", "sees", "Ann", "."]
        and predictions[0]["pos"][0] == "DET"
    )
    assert all(
        tree_fault(one["tree"]["heads"]) is None
        and len(one["tree"]["relations"]) == len(one["words"])
        for one in predictions
    )
    assert predictions[1]["ner"] == [
        {"type": "PER", "start": 0, "stop": 2, "words": ["Ann", "Bo"]},
        {"type": "LOC", "start": 3, "stop": 4, "words": ["Rome"]},
    ]
    assert json.loads(json.dumps(predictions)) == predictions


def test_what_is_said_of_a_text_does_not_depend_on_its_batch_or_length(moved):
    loaded = fwk.load(moved)
    texts = [
        "the dog",
        ["dog"],
        "word " * 300,
        "Ann sees the dog .",
    ]  # longer than any sentence in training may be
    alone = [loaded.predict([text])[0] for text in texts]
    loaded.module.train()
    assert (
        loaded.predict(texts, batch=3) == loaded.predict(texts) == alone
        and len(alone[2]["pos"]) == 300
    )
    assert loaded.module.training and loaded.predict([]) == []  # and it is left as it was


def test_a_long_text_does_not_pad_short_ones_and_order_is_kept(moved, monkeypatch):
    """One line of a thousand words among a hundred short ones would make a batch of 64 thousand words."""
    loaded, sizes = fwk.load(moved), []
    texts = [" ".join(["the dog sees Ann"] * (1 + n % 3)) for n in range(99)]
    texts.insert(40, "word " * 1000)
    texts.insert(60, "word " * 5000)
    collate = loaded.task.collate
    monkeypatch.setattr(
        loaded.task,
        "collate",
        lambda examples, *rest: (
            sizes.append((len(examples), max(len(e.words) for e in examples)))
            or collate(examples, *rest)
        ),
    )
    monkeypatch.setattr(
        "fwk.engine.predict._predictions",
        lambda module, views, update: {
            "pos": (views["batch"].draws, torch.zeros_like(views["batch"].tokens))
        },
    )
    predictions = loaded.predict(texts)
    assert [len(one["words"]) for one in predictions] == [len(text.split()) for text in texts]
    assert all(B * T <= 4096 or B == 1 for B, T in sizes) and max(B for B, _ in sizes) == 64
    assert (
        batches_by_length([3, 9, 3, 1], 2, 10) == [[1], [0, 2], [3]]
        and batches_by_length([], 2) == []
    )


def test_predictions_of_raw_text_are_those_of_the_evaluation_of_a_split(trained, capsys, tmp_path):
    evaluated(capsys, trained, "--predictions", tmp_path / "predicted.conllu")
    predictions = list(read_conllu(tmp_path / "predicted.conllu"))
    for one, sentence in zip(
        fwk.load(trained).predict([s.words for s in predictions]), predictions, strict=True
    ):
        assert (tuple(one["pos"]), tuple(one["tree"]["heads"])) == (
            sentence.columns["upos"],
            sentence.heads,
        )
        assert tuple(one["tree"]["relations"]) == sentence.columns["deprel"]


@pytest.mark.slow
def test_raw_text_is_read_with_the_weights_that_a_split_is_evaluated_with(tmp_path, capsys):
    train_briefly(
        config_of(
            train={"updates": 12, "precision": "fp32", "ema": 0.9, "evaluate_average": True},
            optimizer={"lr": 0.02},
        ),
        tmp_path / "run",
        12,
    )
    assert (
        evaluated(capsys, tmp_path / "run", "--predictions", tmp_path / "predicted.conllu")[0] == 0
    )
    predictions = [list(s.columns["upos"]) for s in read_conllu(tmp_path / "predicted.conllu")]
    words = [s.words for s in read_conllu(TREEBANK["path"])]
    assert [one["pos"] for one in fwk.load(tmp_path / "run").predict(words)] == predictions
    assert [
        one["pos"] for one in fwk.load(tmp_path / "run", average=False).predict(words)
    ] != predictions


def test_criteria_that_look_at_one_source_alone_are_shown_raw_text_too(tmp_path):
    data = {
        "a": {**TREEBANK, "labels": {"pos": "upos"}, "fraction": 1.0},
        "b": {**TREEBANK, "labels": {"tree": "tree"}, "fraction": 1.0},
    }
    criteria = {
        "pos": {"name": "cvt_tagging", "label": "pos", "students": "none", "labelled": "of_a"},
        "tree": {"name": "cvt_parsing", "students": "none", "labelled": "of_b"},
    }
    views = {f"of_{name}": {"noiser": "rows", "sources": [name]} for name in "ab"}
    train_briefly(
        tiny_config(
            {
                **SENTENCES,
                "task": {**SENTENCES["task"], "data": data},
                "criterion": criteria,
                "views": views,
                "train": {"updates": 2, "precision": "fp32"},
            }
        ),
        tmp_path / "run",
        2,
    )
    assert set(fwk.load(tmp_path / "run").predict(["the dog sees Ann"])[0]) == {
        "words",
        "pos",
        "tree",
    }


def test_views_with_averaged_weights_do_not_keep_a_run_from_tagging(tmp_path):
    mean = merge_settings(
        CONSISTENCY,
        {
            "views": {"teacher": {"ema": True}},
            "train": {"ema": 0.9, "updates": 2, "precision": "fp32"},
        },
    )
    train_briefly(config_of(**mean), tmp_path / "run", 2)
    assert len(fwk.load(tmp_path / "run").predict(["the dog"])[0]["pos"]) == 2


def test_two_criteria_on_one_label_are_two_answers(tmp_path, capsys):
    both = {
        label: {"name": "cvt_tagging", "label": "pos", "students": "none", "hidden": hidden}
        for label, hidden in (("small", 4), ("large", 8))
    }
    train_briefly(
        tiny_config({**SENTENCES, "criterion": both, "train": {"updates": 2, "precision": "fp32"}}),
        tmp_path / "run",
        2,
    )
    assert evaluated(capsys, tmp_path / "run")[0] == 0  # each has metrics of its own
    (tmp_path / "raw.txt").write_text("the dog\n")
    for arguments in (
        ["--predictions", tmp_path / "predicted.conllu"],
        ["--text", tmp_path / "raw.txt"],
    ):
        status, out, err = evaluated(capsys, tmp_path / "run", *arguments)
        assert (
            status == 2
            and not out
            and "'small' and 'large' both predict the label 'pos'" in err
            and len(err.strip().splitlines()) == 1
        )
    assert not (tmp_path / "predicted.conllu").exists()


@pytest.mark.parametrize(
    "texts, message",
    [
        ("the dog", "predict: expected a list of texts, got one text ('the dog')"),
        (
            ["the dog", " "],
            "texts[1]: expected a text of at least one word, or a list of words, got ' '",
        ),
        (["the dog", ["a", ""]], "texts[1]: expected a text"),
        (["the dog", 3], "texts[1]: expected a text"),
    ],
)
def test_what_cannot_be_tagged_is_one_sentence(moved, texts, message):
    with pytest.raises((ConfigError, DataError, UserError)) as refused:
        fwk.load(moved).predict(texts)
    assert message in str(refused.value)


def test_text_that_is_longer_than_the_networks_read_is_named(tmp_path):
    config = config_of(
        model={"name": "bert", "positions": "learned", "layers": 1, "width": 8, "heads": 2},
        task={"length": 20},
        criterion={
            "pos": {"students": "none"},
            "tree": {"students": "none", "auxiliary_labels": False},
        },
        train={"updates": 1, "precision": "fp32"},
    )
    train_briefly(config, tmp_path / "run", 1)
    loaded = fwk.load(tmp_path / "run")
    assert len(loaded.predict(["word " * 20])[0]["pos"]) == 20
    with pytest.raises(
        DataError,
        match=r"texts\[1\]: the text has 21 positions, more than the 20 that the model reads",
    ):
        loaded.predict(["the dog", "word " * 21])


def test_models_and_tasks_that_do_not_tag_say_so(tmp_path):
    train_briefly(
        tiny_config({"criterion": "masked_lm", "train": {"updates": 1, "precision": "fp32"}}),
        tmp_path / "run",
        1,
    )
    with pytest.raises(UserError, match="'Synthetic.*' reads no raw text"):
        fwk.load(tmp_path / "run").predict(["the dog"])
    loaded = fwk.load(tmp_path / "run")
    loaded.task.__class__ = SentencesTask  # one that reads raw text, and no criterion that predicts
    with pytest.raises(
        UserError, match="no criterion of this model predicts anything .*; it has masked_lm"
    ):
        loaded.predict(["the dog"])


def test_the_command_tags_a_file_of_raw_text(moved, capsys, tmp_path):
    path = tmp_path / "raw.txt"
    path.write_text("The dog sees Ann .\n\nAnn Bo sees Rome\n")
    status, out, _ = evaluated(capsys, moved, "--text", path)
    assert status == 0 and [json.loads(line) for line in out.splitlines()] == fwk.load(
        moved
    ).predict(["The dog sees Ann .", "Ann Bo sees Rome"])
    status, nothing, _ = evaluated(
        capsys, moved, "--text", path, "--predictions", tmp_path / "predicted.jsonl"
    )
    assert status == 0 and not nothing and (tmp_path / "predicted.jsonl").read_text() == out
    for wrong, message in (
        (["--split", "test"], "--split: belongs to the evaluation of a split"),
        (["task.fewest=1"], "task.fewest: belongs to the evaluation of a split"),
    ):
        status, _, err = evaluated(capsys, moved, "--text", path, *wrong)
        assert status == 2 and message in err
    status, _, err = evaluated(capsys, moved, "--text", tmp_path / "raww.txt")
    assert status == 2 and "raw.txt" in err and len(err.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the folder of real data is not there")
def test_on_a_real_treebank_a_small_parser_learns(tmp_path):
    data = {
        "ewt": {
            "path": str(REAL / "ud-ewt-train.conllu.xz"),
            "valid": str(REAL / "ud-ewt-dev-even.conllu.xz"),
            "labels": {"pos": "upos", "tree": "tree"},
            "fraction": 0.1,
        }
    }
    # nearly every update is supervised: so early, imitation alone would leave little to see
    run = fwk.train(
        {
            "task": {"name": "sentences", "data": data, "unlabelled_share": 0.1},
            "model": {"name": "cnn_bilstm"},
            "optimizer": {"lr": 0.01},
            "criterion": {
                "pos": {"name": "cvt_tagging", "label": "pos"},
                "tree": {"name": "cvt_parsing"},
            },
            "train": {"updates": 150, "validate_every": 0, "precision": "fp32"},
            "hooks": {"terminal": None},
        },
        run=str(tmp_path / "run"),
    )
    assert run.metrics["valid"]["pos/accuracy"] > 0.6 and run.metrics["valid"]["tree/uas"] > 0.4
