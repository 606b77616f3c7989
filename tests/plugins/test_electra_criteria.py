"""Replaced-token detection and its relatives, against float64 references written from their equations."""

from __future__ import annotations

import math

import pytest
import torch
from support.corruption import (
    COUNTS,
    VOCABULARY,
    B,
    Running,
    T,
    encoder,
    key,
    learned,
    masked,
    static,
    text,
)
from support.small_text import Stub

from fwk import BuildContext, View
from fwk.config.resolve import build
from fwk.contracts.views import Encoded
from fwk.errors import ConfigError
from fwk.testing import gradients, tiny_config, train_briefly
from fwk_plugins.electra.criteria.all_tokens_mlm import AllTokensMLM
from fwk_plugins.electra.criteria.corruption_detection import CorruptionDetection
from fwk_plugins.electra.criteria.noise_contrastive import NoiseContrastive
from fwk_plugins.electra.criteria.replace_mlm import ReplaceMLM
from fwk_plugins.electra.criteria.replaced_token_detection import ReplacedTokenDetection
from fwk_plugins.electra.histogram import binary_metrics, histogram
from fwk_plugins.electra.noisers.masked_lm import MaskedLMNoiser
from fwk_plugins.electra.noisers.uniform import Uniform
from fwk_plugins.electra.noisers.unigram import Unigram

D = 6


def corrupted(ratio=0.4, noiser="unigram") -> View:
    """A corrupted view with random features, in float64."""
    source = masked(text(rows=B), ratio)
    view = static({"unigram": Unigram, "uniform": Uniform}[noiser]).apply(source, key(source))
    torch.manual_seed(5)
    features = torch.randn(B, T, D, dtype=torch.float64, requires_grad=True)
    return view.replace(
        name="corrupted", encoded=Encoded(features=features), log_q=view.log_q.double()
    )


def criterion(cls, **options):
    torch.manual_seed(3)
    objective = cls(
        build(cls, options), BuildContext(encoder=Stub(width=D), vocabulary=VOCABULARY)
    ).double()
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return objective


def mean(objective, view: View, term: str) -> float:
    views = {"corrupted": view}
    return float(
        objective(views, None).terms[term].sum.detach() / objective.normalizers(views, None)[term]
    )


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def gelu(x: float) -> float:
    return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))


def dense_head(head, features) -> float:
    inner = [
        gelu(sum(w * f for w, f in zip(row, features)) + b)
        for row, b in zip(head[0].weight.tolist(), head[0].bias.tolist())
    ]
    return sum(w * x for w, x in zip(head[2].weight[0].tolist(), inner)) + head[2].bias.item()


@pytest.mark.parametrize("positions", ["all", "chosen"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_detection_is_the_equation(positions, reduction):
    objective, view = (
        criterion(ReplacedTokenDetection, positions=positions, reduction=reduction),
        corrupted(),
    )
    total, count = 0.0, 0
    for row in range(B):
        judged = (
            view.positions[row][view.valid[row]].tolist()
            if positions == "chosen"
            else range(int(view.mask[row].sum()))
        )
        for t in judged:
            z = dense_head(objective.head, view.encoded.features[row, t].tolist())
            replaced = int(view.tokens[row, t]) != int(view.target[row, t])
            total -= math.log(sigmoid(z if replaced else -z))
            count += 1
    expected = total / (B if reduction == "sum" else count)
    assert mean(objective, view, "detection") == pytest.approx(expected, rel=1e-12)
    assert objective({"corrupted": view}, None).terms["detection"].weight == 50
    assert view.changed.any() and (view.mask & ~view.changed).any()


@pytest.mark.parametrize("head", ["linear", "dense"])
def test_noise_contrast_is_the_equation(head):
    objective, view = criterion(NoiseContrastive, head=head), corrupted()
    total, count = 0.0, 0
    for row in range(B):
        tokens = [t for t in range(T) if view.mask[row, t] and not view.special[row, t]]
        noise = set(view.positions[row][view.valid[row]].tolist())
        n, k = len(tokens), len(noise)
        if n < 2:
            continue
        for t in tokens:
            features = view.encoded.features[row, t].tolist()
            if head == "dense":
                energy = dense_head(objective.head, features)
            else:
                energy = (
                    sum(w * f for w, f in zip(objective.head.weight[0].tolist(), features))
                    + objective.head.bias.item()
                )
            weights = [float(c) + 1 if i > 4 else 0.0 for i, c in enumerate(COUNTS)]
            log_q = math.log(weights[int(view.tokens[row, t])] / sum(weights))
            z = energy + log_q + math.log(k / (n - k))
            total -= math.log(sigmoid(z if t in noise else -z))
        count += n
    assert mean(objective, view, "contrast") == pytest.approx(
        total / count, rel=1e-6
    )  # log q is stored in float32
    lucky = view.at_positions(~view.changed)[view.valid]
    assert lucky.any()  # a chosen position is noise whatever was drawn there


@pytest.mark.parametrize(
    "corrupted",
    [
        {"noiser": "masked_lm", "network": {"name": "scaled"}},
        {"noiser": "masked_lm", "network": {"name": "scaled"}, "never_true": True},
        {"noiser": "bert_mask"},
        {"noiser": "identity"},
    ],
)
def test_noise_whose_probability_is_unknown_is_refused_with_the_config(corrupted):
    """Before anything is loaded: no data, no run folder."""
    config = tiny_config({"criterion": "noise_contrastive", "views": {"corrupted": corrupted}})
    with pytest.raises(
        ConfigError,
        match="views.corrupted.noiser: criterion 'noise_contrastive' needs log q of every token, which "
        f"'{corrupted['noiser']}' does not know; expected one of two_tower, uniform, unigram",
    ):
        _ = config.views_by_name


@pytest.mark.parametrize("noiser", ["two_tower", "unigram"])
def test_no_noiser_that_knows_log_q_has_the_option_never_true(noiser):
    with pytest.raises(ConfigError, match="never_true"):
        tiny_config(
            {
                "criterion": "noise_contrastive",
                "views": {"corrupted": {"noiser": noiser, "never_true": True}},
            }
        )


@pytest.mark.parametrize(
    "name", ["replaced_token_detection", "noise_contrastive", "all_tokens_mlm"]
)
def test_an_encoder_that_cannot_see_the_token_it_judges_is_refused(name, tmp_path):
    towers = {"name": "two_tower", "layers": 1, "width": 16, "heads": 2}
    with pytest.raises(
        ConfigError,
        match=f"criterion.{name}: judges every token, and in TwoTower no position sees its own token",
    ):
        train_briefly(
            tiny_config(
                {"criterion": name, "model": towers, "views": {"corrupted": {"noiser": "uniform"}}}
            ),
            tmp_path,
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"criterion": "replaced_token_detection", "views": {"masked": {"noiser": "identity"}}},
        {
            "criterion": {"replaced_token_detection": {"positions": "chosen"}},
            "views": {"masked": {"noiser": "identity"}, "corrupted": {"noiser": "identity"}},
        },
        {
            "criterion": {"noise_contrastive": {}},
            "views": {"masked": {"noiser": "identity"}, "corrupted": {"noiser": "two_tower"}},
        },
    ],
)
def test_a_view_without_chosen_positions_is_refused_where_they_are_needed(changes, tmp_path):
    if "noise_contrastive" in changes["criterion"]:
        assert train_briefly(
            tiny_config(changes), tmp_path
        )  # the noiser chooses where its source does not
        return
    with pytest.raises(ConfigError, match="chosen positions of its parent|reads chosen positions"):
        _ = tiny_config(changes).views_by_name


@pytest.mark.parametrize("name", ["replaced_token_detection", "noise_contrastive"])
@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_no_chosen_position_and_nothing_but_chosen_ones_leave_everything_finite(name, ratio):
    config = tiny_config(
        {"criterion": name, "views": {"masked": {"noiser": "bert_mask", "ratio": ratio}}}
    )
    gradient = gradients(config)
    assert all(value is None or torch.isfinite(value).all() for value in gradient.values())
    main = [value for label, value in gradient.items() if label.startswith("networks.main.layers")]
    learns = (
        name == "replaced_token_detection"
    )  # Electric compares noise with data, and a sequence has only one of them here
    assert any(value is not None and value.any() for value in main) == learns


@pytest.mark.parametrize("noiser", ["unigram", "uniform"])
def test_a_token_that_noise_never_draws_is_data_without_loss(noiser):
    """[UNK] occurs in text, and these noisers never draw it, as it is a special token."""
    objective, view = criterion(NoiseContrastive), corrupted(noiser=noiser)
    clean = [
        (row, t)
        for row in range(B)
        for t in range(T)
        if view.mask[row, t]
        and not view.special[row, t]
        and t not in view.positions[row][view.valid[row]].tolist()
    ]
    row, t = clean[0]
    before = float(objective({"corrupted": view}, None).terms["contrast"].sum.detach())
    features = view.encoded.features.detach().requires_grad_()
    log_q = view.log_q.clone()
    log_q[row, t] = -torch.inf
    loss = (
        objective(
            {"corrupted": view.replace(log_q=log_q, encoded=Encoded(features=features))}, None
        )
        .terms["contrast"]
        .sum
    )
    loss.backward()
    assert (
        torch.isfinite(loss)
        and torch.isfinite(features.grad).all()
        and not features.grad[row, t].any()
    )
    assert float(loss.detach()) < before


def test_nan_reaches_the_loss_and_stops_nothing_before_it():
    """The engine reports it, or skips the update under fp16."""
    logits = torch.tensor([[float("nan"), 1.0, float("-inf"), float("inf")]])
    counts = histogram(
        logits, torch.tensor([[True, True, False, False]]), torch.ones(1, 4, dtype=torch.bool)
    )
    assert int(counts.sum()) == 4
    network = encoder()
    with torch.no_grad():
        network.embedding().weight.fill_(float("nan"))
    source = masked(text())
    view = learned(MaskedLMNoiser, network).apply(source, key(source), Running(network))
    assert ((view.tokens >= 0) & (view.tokens < VOCABULARY.size)).all()


def test_an_impossible_token_and_a_lone_one_leave_loss_and_gradient_finite():
    objective, view = criterion(NoiseContrastive), corrupted()
    special = view.special.clone()
    special[0, 2:] = True  # one ordinary token is left in the first sequence
    log_q = torch.where(special, -torch.inf, view.log_q)
    view = view.replace(special=special, log_q=log_q)
    loss = objective({"corrupted": view}, None).terms["contrast"].sum
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(view.encoded.features.grad).all()
    assert not view.encoded.features.grad[0].any()


def test_detection_of_corrupted_sequences_is_the_equation():
    objective, view = criterion(CorruptionDetection), corrupted()
    clean = view.inputs["tokens"].clone()
    clean[::2] = view.target[::2]
    view = view.replace(inputs={"tokens": clean}, changed=clean != view.target)
    total = 0.0
    for row in range(B):
        z = dense_head(objective.head, view.encoded.features[row, 0].tolist())
        total -= math.log(sigmoid(z if bool(view.changed[row].any()) else -z))
    assert mean(objective, view, "corruption") == pytest.approx(total / B, rel=1e-12)


def test_replace_mlm_predicts_the_original_at_the_chosen_positions_of_the_corrupted_view():
    objective, view = criterion(ReplaceMLM), corrupted()
    logits = objective.head(view.encoded.features)
    nll = -logits.log_softmax(-1).gather(-1, view.target[..., None])[..., 0]
    expected = view.at_positions(nll)[view.valid].mean()
    assert mean(objective, view, "masked_lm") == pytest.approx(float(expected.detach()), rel=1e-12)


@pytest.mark.parametrize("copy", [True, False])
def test_all_tokens_mlm_is_the_equation(copy):
    objective, view = criterion(AllTokensMLM, copy=copy), corrupted()
    logits = objective.head(view.encoded.features).tolist()
    total, count = 0.0, 0
    for row in range(B):
        for t in range(int(view.mask[row].sum())):
            z = logits[row][t]
            target, token = int(view.target[row, t]), int(view.tokens[row, t])
            p = math.exp(z[target]) / math.fsum(math.exp(x) for x in z)
            if copy:
                features = view.encoded.features[row, t].tolist()
                c = sigmoid(
                    sum(w * f for w, f in zip(objective.copy_head.weight[0].tolist(), features))
                    + objective.copy_head.bias.item()
                )
                p = c * (token == target) + (1 - c) * p
            total -= math.log(p)
            count += 1
    assert mean(objective, view, "all_tokens") == pytest.approx(total / count, rel=1e-12)


def test_the_adversarial_loss_is_the_equation():
    network = encoder()
    noiser = learned(MaskedLMNoiser, network, learns="adversarial")
    with torch.no_grad():
        noiser.baseline.weight.normal_()
        noiser.baseline.bias.fill_(0.3)
    source = masked(text())
    view = noiser.apply(source, key(source), Running(network))
    torch.manual_seed(7)
    original = torch.rand(B, T, dtype=torch.float64)
    output = noiser.losses({"corrupted": view}, {"detector": {"original": original}}, None)
    features = network(source.inputs, source.mask).features
    logits = noiser.head(features)
    policy, fit, slopes = 0.0, 0.0, torch.zeros((), dtype=torch.float64)
    for row in range(B):
        for t in view.positions[row][view.valid[row]].tolist():
            drawn, target, d = (
                int(view.tokens[row, t]),
                int(view.target[row, t]),
                float(original[row, t]),
            )
            reward = -math.log(d) if drawn == target else -math.log(1 - d)
            v = float(
                (features[row, t] @ noiser.baseline.weight[0] + noiser.baseline.bias).detach()
            )
            log_q = logits[row, t].log_softmax(-1)[drawn]
            policy -= (reward + math.log(sigmoid(v))) * float(log_q.detach())
            slopes = slopes - (reward + math.log(sigmoid(v))) * log_q
            fit -= math.exp(-reward) * math.log(sigmoid(v)) + (1 - math.exp(-reward)) * math.log(
                1 - sigmoid(v)
            )
    assert float(output.terms["policy"].sum.detach()) == pytest.approx(policy, rel=1e-10)
    assert float(output.terms["baseline"].sum.detach()) == pytest.approx(fit, rel=1e-10)
    assert "masked_lm" not in output.terms
    weight = network.layers[0].inner.weight
    gradient = torch.autograd.grad(output.terms["policy"].sum, weight, retain_graph=True)[0]
    torch.testing.assert_close(
        gradient, torch.autograd.grad(slopes, weight)[0], rtol=1e-9, atol=1e-12
    )
    assert torch.autograd.grad(output.terms["baseline"].sum, weight, allow_unused=True)[0] is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_p_original_has_the_precision_of_the_run(dtype):
    """In fp32, whatever the run: an ulp of it flips with the cut of a batch, and moved fp64 gradients by 2e-9."""
    network = encoder()
    criterion = ReplacedTokenDetection(
        ReplacedTokenDetection.Config(), BuildContext(encoder=network, vocabulary=VOCABULARY)
    ).to(dtype)
    source = masked(text())
    changed = torch.zeros(B, T, dtype=torch.bool)
    features = torch.randn(B, T, network.width, generator=torch.Generator().manual_seed(3))
    view = source.replace(changed=changed, encoded=Encoded(features=features.to(dtype)))
    original = criterion({"corrupted": view}, None).outcomes["original"]
    assert original.dtype == torch.promote_types(dtype, torch.float32)
    logit = criterion.head(view.encoded.features).squeeze(-1).double()
    expected = [1 / (1 + math.exp(z)) for z in logit.flatten().tolist()]
    tolerance = 1e-15 if dtype == torch.float64 else 1e-6
    assert original.double().flatten().tolist() == pytest.approx(expected, rel=tolerance)


def test_a_reward_is_capped_where_the_discriminator_is_certain_and_wrong():
    network = encoder()
    noiser = learned(MaskedLMNoiser, network, learns="adversarial")
    source = masked(text())
    view = noiser.apply(source, key(source), Running(network))
    certain = (
        view.tokens != view.target
    ).double()  # P(original) of 1 where replaced, of 0 where not
    output = noiser.losses({"corrupted": view}, {"detector": {"original": certain}}, None)
    count = int(view.valid.sum())
    assert float(output.statistics["reward"]) == pytest.approx(-math.log(1e-6) * count, rel=1e-12)
    assert math.isfinite(float(output.terms["policy"].sum.detach()))


def test_the_reward_needs_one_critic():
    network = encoder()
    noiser = learned(MaskedLMNoiser, network, learns="adversarial")
    source = masked(text())
    view = noiser.apply(source, key(source), Running(network))
    two = {"a": {"original": torch.rand(B, T)}, "b": {"original": torch.rand(B, T)}}
    with pytest.raises(ConfigError, match="expected one criterion that reports"):
        noiser.losses({"corrupted": view}, two, None)
    with pytest.raises(ConfigError, match="expected one criterion that reports"):
        noiser.losses({"corrupted": view}, {"a": {}}, None)


def test_metrics_are_those_of_the_decisions():
    torch.manual_seed(0)
    logits, positive = torch.randn(4000) * 3, torch.rand(4000) < 0.3
    logits[positive] += 1.5
    counted = torch.rand(4000) < 0.9
    metrics = binary_metrics(histogram(logits, positive, counted))
    x, y = logits[counted], positive[counted]
    yes = x >= 0
    assert metrics["accuracy"] == pytest.approx(float((yes == y).double().mean()))
    assert metrics["precision"] == pytest.approx(float((yes & y).sum() / yes.sum()))
    assert metrics["recall"] == pytest.approx(float((yes & y).sum() / y.sum()))
    pairs = x[y][:, None] - x[~y][None]
    assert metrics["auc"] == pytest.approx(
        float((pairs > 0).double().mean() + (pairs == 0).double().mean() / 2), abs=1e-3
    )
    assert binary_metrics(histogram(logits, positive & False, counted)).keys() == {
        "accuracy",
        "precision",
        "positive",
    }


# -- noise contrast in theory: a vocabulary of 3, every sequence and every draw enumerated -----------


N, K = 5, 1  # n ordinary tokens, ⌈0.15 n⌉ of them noise
P = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)  # of the data, the same at every position
Q = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)  # of the noise


def expected_gradient(energy: torch.Tensor) -> torch.Tensor:
    """Return d E[sum over a sequence] / d energy, [V], of the criterion itself.

    The energy depends on the token alone, so it makes no difference which position is noise: it is the first.
    """
    tokens = torch.cartesian_prod(*[torch.arange(3)] * N)  # every possible sequence, [3^N, N]
    chance = Q[tokens[:, 0]] * P[tokens[:, 1:]].prod(1)
    features = energy[tokens][..., None].requires_grad_()  # the head below is the identity
    first = torch.zeros(len(tokens), K, dtype=torch.int64)
    view = View(
        name="corrupted",
        draws=torch.arange(len(tokens)),
        inputs={"tokens": tokens},
        target=tokens,
        mask=torch.ones_like(tokens, dtype=torch.bool),
        positions=first,
        valid=first == 0,
        log_q=Q.log()[tokens],
        encoded=Encoded(features=features),
    )
    objective = NoiseContrastive(
        NoiseContrastive.Config(), BuildContext(encoder=Stub(width=1), vocabulary=VOCABULARY)
    ).double()
    with torch.no_grad():
        objective.head.weight.fill_(1.0)
        objective.head.bias.zero_()
    slope = torch.autograd.grad(
        objective({"corrupted": view}, None).terms["contrast"].sum, features
    )[0][..., 0]
    return torch.zeros(3, dtype=torch.float64).index_add_(
        0, tokens.flatten(), (slope * chance[:, None]).flatten()
    )


@pytest.mark.slow
def test_the_minimum_is_the_data_distribution_and_it_is_normalised():
    energy = torch.zeros(3, dtype=torch.float64)
    for _ in range(3000):
        energy -= 2 * expected_gradient(energy)
    torch.testing.assert_close((-energy).exp(), P, rtol=1e-6, atol=1e-6)
    assert float((-energy).exp().sum()) == pytest.approx(1.0, abs=1e-6)


def test_the_expected_gradient_is_that_of_algorithm_1_with_n_minus_k():
    """J = (n - k) E_data[-log ((n-k) p^ / ((n-k) p^ + k q))] + k E_noise[-log (k q / ((n-k) p^ + k q))]."""
    energy = torch.tensor([0.4, -0.2, 1.1], dtype=torch.float64, requires_grad=True)
    p_hat = (-energy).exp()
    data = -(((N - K) * p_hat) / ((N - K) * p_hat + K * Q)).log()
    noise = -((K * Q) / ((N - K) * p_hat + K * Q)).log()
    gradient = torch.autograd.grad((N - K) * (P * data).sum() + K * (Q * noise).sum(), energy)[0]
    torch.testing.assert_close(expected_gradient(energy.detach()), gradient, rtol=1e-10, atol=1e-12)
