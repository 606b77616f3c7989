"""Noise distributions: their samples, their log q, and the tokens that no position may see."""

from __future__ import annotations

import math

import pytest
import torch
from support.corruption import (
    COUNTS,
    SIZES,
    B,
    Running,
    T,
    V,
    build_model,
    encoder,
    key,
    learned,
    masked,
    static,
    text,
)

from fwk import BuildContext, View, Vocabulary
from fwk.errors import ConfigError
from fwk.models.bert import Bert
from fwk.testing import batches_of, tiny_config, trainer_of
from fwk_plugins.electra.models.scaled import Scaled
from fwk_plugins.electra.models.two_tower import TwoTower
from fwk_plugins.electra.noisers.frequency_mask import FrequencyMask
from fwk_plugins.electra.noisers.masked_lm import MaskedLMNoiser
from fwk_plugins.electra.noisers.two_tower import TwoTowerNoiser
from fwk_plugins.electra.noisers.uniform import Uniform
from fwk_plugins.electra.noisers.unigram import Unigram


@pytest.mark.parametrize("cls", [MaskedLMNoiser, TwoTowerNoiser, Uniform, Unigram])
def test_only_chosen_positions_change_and_changed_says_where(cls):
    source = masked(text())
    if cls in (Uniform, Unigram):
        view = static(cls).apply(source, key(source))
    else:
        network = encoder() if cls is MaskedLMNoiser else build_model(TwoTower, SIZES)
        view = learned(cls, network).apply(source, key(source), Running(network))
    chosen = torch.zeros(B, T, dtype=torch.bool)
    for row in range(B):
        chosen[row, source.positions[row][source.valid[row]]] = True
    assert torch.equal(view.tokens[~chosen], source.target[~chosen])
    assert torch.equal(view.changed, view.tokens != source.target) and view.changed.any()
    assert torch.equal(view.target, source.target) and torch.equal(view.positions, source.positions)


def test_a_sample_that_is_the_original_counts_as_original():
    network = encoder()
    noiser = learned(MaskedLMNoiser, network, temperature=50.0)
    source = masked(text(rows=400))
    view = noiser.apply(source, key(source), Running(network))
    drawn, target = view.at_positions(view.tokens), view.at_positions(view.target)
    lucky = (drawn == target) & view.valid
    assert lucky.any() and not view.at_positions(view.changed)[lucky].any()


def test_never_true_never_draws_the_true_token():
    network = encoder()
    source = masked(text(rows=200))
    view = learned(MaskedLMNoiser, network, never_true=True, temperature=50.0).apply(
        source, key(source), Running(network)
    )
    assert view.at_positions(view.changed)[view.valid].all()


@pytest.mark.slow
def test_samples_follow_the_network_and_the_temperature():
    """Drawn many times for one masked sequence, tokens occur with the frequency softmax(logits / temperature)."""
    network, rows, temperature = encoder(), 20_000, 2.0
    noiser = learned(MaskedLMNoiser, network, temperature=temperature)
    with torch.no_grad():
        noiser.head.output.bias.copy_(torch.linspace(-2, 2, V))
    one = masked(text(rows=1))
    many = View(
        name="masked",
        draws=torch.arange(rows),
        **{
            part: getattr(one, part).expand(rows, -1)
            for part in ("mask", "special", "target", "positions", "valid")
        },
        inputs={"tokens": one.tokens.expand(rows, -1)},
    )
    with torch.no_grad():
        view = noiser.apply(many, key(many), Running(network))
        features = one.at_positions(network(one.inputs, one.mask).features)
        p = (noiser.head(features)[0, 0] / temperature).softmax(-1)
    frequency = torch.bincount(view.at_positions(view.tokens)[:, 0], minlength=V) / rows
    assert (frequency - p).abs().max() < 4 * math.sqrt(0.25 / rows)


def test_keys_decide_and_nothing_else():
    network = encoder()
    noiser, source = learned(MaskedLMNoiser, network), masked(text())
    run = Running(network)
    once, again = (noiser.apply(source, key(source), run).tokens for _ in range(2))
    other = noiser.apply(source, key(source, seed=2), run).tokens
    assert torch.equal(once, again) and not torch.equal(once, other)
    part = masked(text())
    part = part.replace(
        **{
            name: getattr(part, name)[3:5]
            for name in ("draws", "mask", "special", "target", "positions", "valid")
        },
        inputs={"tokens": part.tokens[3:5]},
    )
    assert torch.equal(noiser.apply(part, key(part), run).tokens, once[3:5])


def test_sampling_without_dropout_and_in_a_second_run():
    network = build_model(Bert, {**SIZES, "dropout": 0.5})
    source = masked(text())

    def tokens(sampling: str) -> list[torch.Tensor]:
        noiser = learned(MaskedLMNoiser, network, sampling=sampling)
        drawn = []
        for seed in (1, 2):
            torch.manual_seed(seed)  # of the dropout
            view = noiser.apply(source, key(source), Running(network))
            drawn.append(
                (view.tokens, noiser.losses({"corrupted": view}, {}, None).terms["masked_lm"].sum)
            )
        return drawn

    (a, loss_a), (b, loss_b) = tokens("with_dropout")
    assert not torch.equal(a, b) and loss_a != loss_b
    (a, loss_a), (b, loss_b) = tokens("without_dropout")
    assert torch.equal(a, b) and loss_a == loss_b
    (c, loss_c), (d, loss_d) = tokens("run_again")
    assert torch.equal(c, d) and torch.equal(c, a) and loss_c != loss_d


def test_no_gradient_flows_through_samples_or_log_q():
    network = build_model(TwoTower, SIZES)
    source = masked(text())
    view = learned(TwoTowerNoiser, network).apply(source, key(source), Running(network))
    assert not view.log_q.requires_grad and not view.tokens.is_floating_point()


def test_in_two_towers_no_position_sees_its_own_token_and_every_other_one_is_seen():
    network = build_model(TwoTower, SIZES)
    view = text(rows=1)
    view = view.replace(
        mask=torch.ones(1, T, dtype=torch.bool), inputs={"tokens": torch.randint(5, V, (1, T))}
    )
    change = torch.zeros(1, T, 16, dtype=torch.float64, requires_grad=True)
    features = network(view.inputs, view.mask, change).features
    features = features * torch.randn_like(
        features
    )  # the plain sum of a normalised vector does not depend on anything
    for t in range(T):
        seen = (
            torch.autograd.grad(features[0, t].sum(), change, retain_graph=True)[0][0].abs().sum(-1)
            > 0
        )
        expected = torch.ones(T, dtype=torch.bool)
        expected[t] = False
        assert torch.equal(seen, expected), t


def test_log_q_is_that_of_each_token_given_the_original_sequence():
    network, temperature = build_model(TwoTower, SIZES), 1.7
    noiser, source = learned(TwoTowerNoiser, network, temperature=temperature), masked(text())
    view = noiser.apply(source, key(source), Running(network))
    with torch.no_grad():
        logits = noiser.head(network({"tokens": source.target}, source.mask).features) / temperature
    expected = logits.log_softmax(-1).gather(-1, view.tokens[..., None])[..., 0]
    torch.testing.assert_close(
        view.log_q[source.mask], expected[source.mask], rtol=1e-10, atol=1e-10
    )


def test_the_two_towers_learn_from_every_ordinary_token():
    network = build_model(TwoTower, SIZES)
    noiser, source = learned(TwoTowerNoiser, network), masked(text())
    view = noiser.apply(source, key(source), Running(network))
    logits = noiser.head(network({"tokens": source.target}, source.mask).features)
    usable = source.mask & ~source.special
    expected = -logits.log_softmax(-1).gather(-1, source.target[..., None])[..., 0][usable].sum()
    loss = noiser.losses({"corrupted": view}, {}, None).terms["cloze"].sum
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    assert int(noiser.normalizers({"masked": source}, None)["cloze"]) == int(usable.sum())


def test_frequencies_are_those_of_the_corpus_and_their_logarithms_are_known():
    view = text(rows=4000)
    unigram, uniform = static(Unigram), static(Uniform)
    weights = torch.where(torch.arange(V) > 4, COUNTS + 1, 0.0)
    for noiser, share in (
        (unigram, weights / weights.sum()),
        (uniform, (torch.arange(V) > 4) / (V - 5)),
    ):
        noised = noiser.apply(view, key(view))
        drawn = noised.at_positions(noised.tokens)[noised.valid]
        frequency = torch.bincount(drawn, minlength=V) / len(drawn)
        assert (frequency - share).abs().max() < 4 * math.sqrt(0.25 / len(drawn))
        ordinary = view.mask & ~view.special
        torch.testing.assert_close(
            noised.log_q[ordinary].double(),
            share[noised.tokens[ordinary]].double().log(),
            rtol=1e-6,
            atol=1e-6,
        )


def test_rare_tokens_are_masked_first():
    """Of two tokens with three tickets and one, of which one is chosen, the rare one is chosen 3 times of 4."""
    counts = torch.zeros(V, dtype=torch.float64)
    counts[5], counts[6] = 400, 100
    vocabulary = Vocabulary(
        size=V, pad=0, cls=2, sep=3, mask=4, special=(0, 1, 2, 3, 4), counts=counts
    )
    noiser = FrequencyMask(FrequencyMask.Config(ratio=0.5), BuildContext(vocabulary=vocabulary))
    rows = 20_000
    tokens = torch.tensor([[2, 5, 6, 3]]).expand(rows, -1)
    view = View(
        name="batch",
        draws=torch.arange(rows),
        inputs={"tokens": tokens},
        target=tokens,
        mask=torch.ones_like(tokens, dtype=torch.bool),
        special=(tokens == 2) | (tokens == 3),
    )
    noised = noiser.apply(view, key(view))
    assert (noised.valid.sum(1) == 1).all()
    rare = (noised.tokens[:, 2] == 4).double().mean()
    assert abs(rare - 0.75) < 4 * math.sqrt(0.25 / rows)


def test_a_share_of_the_sequences_is_left_as_it_is():
    network = encoder()
    source = masked(text(rows=2000))
    view = learned(MaskedLMNoiser, network, unchanged=0.2, never_true=True).apply(
        source, key(source), Running(network)
    )
    left = ~view.changed.any(1)
    assert abs(left.double().mean() - 0.2) < 4 * math.sqrt(0.16 / 2000)


def test_a_smaller_copy_has_the_sizes_and_shares_that_its_options_name():
    main = encoder(layers=4, width=32, heads=8, positions="learned")
    half = build_model(Scaled, {"width": 0.5, "layers": 0.25}, main).inner
    assert (half.width, half.heads, len(half.layers), half.layers[0].inner.out_features) == (
        16,
        4,
        1,
        64,
    )
    assert (
        half.embeddings.token is main.embeddings.token
        and half.embeddings.position is main.embeddings.position
    )
    assert (
        half.embeddings.project.weight.shape == (16, 32)
        and half.embeddings.norm is not main.embeddings.norm
    )
    token = build_model(Scaled, {"share": "token"}, main).inner
    assert (
        token.embeddings.token is main.embeddings.token
        and token.embeddings.position is not main.embeddings.position
    )
    apart = build_model(Scaled, {"share": "none"}, main).inner
    assert (
        apart.embeddings.token is not main.embeddings.token
        and apart.embeddings.token.embedding_dim == apart.width == 8
    )
    whole = build_model(Scaled, {"width": 1.0, "share": "all"}, main)
    assert {id(p) for p in whole.parameters()} == {id(p) for p in main.parameters()}
    towers = build_model(Scaled, {"width": 0.5, "towers": True}, main)
    assert towers.width == 32 and towers.inner.leftwards.embeddings.token is main.embeddings.token
    assert (
        towers.inner.leftwards.layers[0].inner.weight
        is not towers.inner.rightwards.layers[0].inner.weight
    )


@pytest.mark.parametrize(
    "options, main, match",
    [
        ({}, None, "cannot be that itself"),
        ({"share": "all"}, {}, "must be of its size"),
        ({"share": "all", "width": 1.0, "towers": True}, {}, "share its embeddings at most"),
    ],
)
def test_copies_that_cannot_be_made_are_refused(options, main, match):
    with pytest.raises(ConfigError, match=match):
        build_model(Scaled, options, None if main is None else encoder(**main))


def test_the_generator_is_a_second_network_whose_output_matrix_is_its_embedding():
    with trainer_of(
        tiny_config({"criterion": "replaced_token_detection", "model": {"positions": "learned"}})
    ) as trainer:
        module = trainer.run.module
        generator, main = module.learned["corrupted"], module.networks["main"]
        assert (
            generator.head.output.weight
            is generator.network.embedding().weight
            is main.embedding().weight
        )
        assert generator.network.width == 4
        trainer.step(next(batches_of(trainer.run)))


def test_a_config_may_change_part_of_the_default_network():
    changes = {
        "criterion": "replaced_token_detection",
        "views": {"corrupted": {"network": {"width": 0.5}}},
    }
    with trainer_of(tiny_config(changes)) as trainer:
        assert trainer.run.module.learned["corrupted"].network.width == 8
    changes["views"]["corrupted"]["network"] = {"name": "bert", "layers": 1, "width": 8, "heads": 2}
    with trainer_of(tiny_config(changes)) as trainer:
        assert trainer.run.module.learned["corrupted"].network.width == 8
