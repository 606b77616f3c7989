"""COCO-LM: its two criteria against references written from their equations, and its ablations."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from support.corruption import VOCABULARY, B, T, V, key, masked, static, text
from support.small_text import Stub
from torch.utils._python_dispatch import TorchDispatchMode

from fwk import BuildContext, View
from fwk.config.resolve import build
from fwk.contracts.views import Encoded
from fwk.errors import ConfigError
from fwk.testing import difference, differentiate_once, gradients, tiny_config, trainer_of
from fwk_plugins.coco_lm.criteria.corrective_lm import CorrectiveLM
from fwk_plugins.coco_lm.criteria.sequence_contrastive import (
    SequenceContrastive,
    contrast,
    log_sums,
    share_of_the_whole,
)
from fwk_plugins.electra.noisers.uniform import Uniform

D = 6


def corrupted(ratio=0.5) -> View:
    """Return a view in which some chosen tokens are replaced: 60% of the samples are undone."""
    source = masked(text(), ratio)
    view = static(Uniform).apply(source, key(source)).replace(name="corrupted")
    back = torch.rand(B, T, generator=torch.Generator().manual_seed(4)) < 0.6
    tokens = torch.where(back, view.target, view.tokens)
    view = view.replace(inputs={**view.inputs, "tokens": tokens}, changed=tokens != view.target)
    features = torch.randn(
        B, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    ).requires_grad_()
    return view.replace(encoded=Encoded(features=features))


def criterion(**options) -> CorrectiveLM:
    torch.manual_seed(3)
    objective = CorrectiveLM(
        build(CorrectiveLM, options),
        BuildContext(name="corrective_lm", vocabulary=VOCABULARY, encoder=Stub()),
    ).double()
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return objective


def means(objective, view) -> dict[str, torch.Tensor]:
    """Return the weighted mean of each term, as the engine computes it."""
    views = {"corrupted": view}
    counts, output = objective.normalizers(views, None), objective(views, None)
    assert counts.keys() == output.terms.keys()
    return {name: term.weight * term.sum / counts[name] for name, term in output.terms.items()}


def naive(
    objective,
    view,
    copy=True,
    stop_gradient=True,
    positions="chosen",
    reduction="mean",
    copy_weight=50.0,
    lm_weight=1.0,
):
    """Return the terms by their equations, with the whole distribution [B, T, V] of every token."""
    features, terms = view.encoded.features, {}
    tokens, target, content = view.tokens, view.target, view.mask
    if copy_weight or copy:
        c = torch.sigmoid(features @ objective.copy_head.weight[0])
    same = tokens == target
    if copy_weight:
        losses = -torch.where(same, c, 1 - c).log()
        total = losses[content].sum()
        terms["copy"] = copy_weight * total / (len(view) if reduction == "sum" else content.sum())
    if lm_weight:
        softmax = objective.head(features).softmax(-1)  # [B, T, V]
        if copy:
            chance = c.detach() if stop_gradient else c
            softmax = F.one_hot(tokens, V) * chance[..., None] + (1 - chance)[..., None] * softmax
        losses = -softmax.gather(-1, target[..., None])[..., 0].log()
        counted = content if positions == "all" else torch.zeros_like(content)
        for row in range(len(view)):
            if positions == "chosen":
                counted[row, view.positions[row][view.valid[row]]] = True
        total = losses[counted].sum()
        terms["lm"] = lm_weight * total / (len(view) if reduction == "sum" else counted.sum())
    return terms


ABLATIONS = {
    "COCO-LM": {},
    "replaced-token detection alone": {"lm_weight": 0.0},
    "without copy mechanism": {"copy": False},
    "without stop-gradient": {"stop_gradient": False},
    "sums": {"reduction": "sum"},
    "all tokens": {"positions": "all", "copy_weight": 0.0, "stop_gradient": False},
    "all tokens, all terms": {"positions": "all", "lm_weight": 0.3, "copy_weight": 7.0},
    "masked LM": {"copy_weight": 0.0, "copy": False},
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_losses_and_gradients_are_those_of_the_equations(name):
    options = ABLATIONS[name]
    objective, view = criterion(**options), corrupted()
    assert 0 < view.changed.sum() < view.valid.sum()
    terms, expected = means(objective, view), naive(objective, view, **options)
    assert terms.keys() == expected.keys()
    learned = [view.encoded.features, *objective.parameters()]
    for term in terms:
        torch.testing.assert_close(terms[term], expected[term], rtol=1e-12, atol=0)
        pairs = zip(
            *(
                torch.autograd.grad(loss, learned, retain_graph=True, allow_unused=True)
                for loss in (terms[term], expected[term])
            )
        )
        for gradient, reference in pairs:
            assert (gradient is None) == (reference is None)
            if gradient is not None:
                torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-13)


def test_the_copy_loss_in_plain_python():
    """Without tensor operations, so that nothing is shared with the tested code."""
    objective, view = criterion(lm_weight=0.0), corrupted()
    weight, total, count = objective.copy_head.weight[0].tolist(), 0.0, 0
    for row in range(B):
        for place in range(T):
            if view.mask[row, place]:
                z = sum(w * f for w, f in zip(weight, view.encoded.features[row, place].tolist()))
                same = view.tokens[row, place].item() == view.target[row, place].item()
                total += math.log1p(math.exp(-z if same else z))
                count += 1
    assert means(objective, view)["copy"].item() == pytest.approx(50 * total / count, rel=1e-12)


def test_the_language_model_does_not_train_the_copy_mechanism_by_default():
    for stop_gradient in (True, False):
        objective, view = criterion(stop_gradient=stop_gradient), corrupted()
        lm = means(objective, view)["lm"]
        slope = torch.autograd.grad(
            lm, objective.copy_head.weight, allow_unused=True, retain_graph=True
        )[0]
        assert (slope is None) == stop_gradient
        # the value does depend on it: moving the copy head moves the loss
        with torch.no_grad():
            objective.copy_head.weight.add_(0.5)
        assert abs(means(objective, view)["lm"] - lm) > 1e-3


@pytest.mark.parametrize("scale", [0.0, 1.0, 60.0])
def test_fp32_agrees_with_fp64_where_copying_is_certain(scale):
    exact, narrow, view = criterion(), criterion().float(), corrupted()
    with torch.no_grad():
        exact.copy_head.weight.mul_(scale)
        narrow.load_state_dict(exact.state_dict())
    floating = view.replace(
        encoded=Encoded(features=view.encoded.features.detach().float().requires_grad_())
    )
    for term, loss in means(exact, view).items():
        narrow_loss = means(narrow, floating)[term]
        torch.testing.assert_close(narrow_loss.double(), loss, rtol=1e-5, atol=1e-9)
        a, b = (
            torch.autograd.grad(value, features)[0]
            for value, features in (
                (narrow_loss, floating.encoded.features),
                (loss, view.encoded.features),
            )
        )
        assert torch.isfinite(a).all()
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=2e-6 * float(b.abs().max()))


class Largest(TorchDispatchMode):
    """Record the size of the largest tensor that any operation returned."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        for tensor in results if isinstance(results, (tuple, list)) else (results,):
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.untyped_storage().nbytes() // 4)
        return results


@pytest.mark.parametrize("positions", ["chosen", "all"])
def test_no_tensor_has_a_number_for_every_token_and_every_id(positions):
    large, rows, length, width = 20_000, 16, 64, 8
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(5, large, (rows, length), generator=generator)
    tokens = torch.where(torch.rand(rows, length, generator=generator) < 0.1, 7, target)
    chosen = torch.arange(10).expand(rows, 10)
    features = torch.randn(rows, length, width, generator=generator).requires_grad_()
    view = View(
        name="corrupted",
        draws=torch.arange(rows),
        inputs={"tokens": tokens},
        mask=torch.ones_like(tokens, dtype=torch.bool),
        target=target,
        changed=tokens != target,
        positions=chosen,
        valid=torch.ones_like(chosen, dtype=torch.bool),
        encoded=Encoded(features=features),
    )
    encoder = Stub(width, width)
    encoder.table = torch.nn.Embedding(large, width)
    vocabulary = VOCABULARY.__class__(size=large, pad=0)
    options = {"positions": positions, "stop_gradient": False}
    objective = CorrectiveLM(
        build(CorrectiveLM, options), BuildContext(name="c", vocabulary=vocabulary, encoder=encoder)
    )
    saved = []
    with (
        Largest() as largest,
        torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t),
    ):
        loss = means(objective, view)["lm"]
        loss.backward()
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() // 4 for t in saved}
    everything = rows * length * large
    assert largest.numbers < everything / 8
    assert sum(storages.values()) < everything / (
        5 if positions == "chosen" else 8
    )  # logits of chosen positions are kept


def test_metrics_tell_replaced_from_original_tokens():
    objective, view = criterion(), corrupted()
    with torch.no_grad():
        sums = objective({"corrupted": view}, None).statistics
        metrics = objective.metrics(sums)
        c = torch.sigmoid(view.encoded.features @ objective.copy_head.weight[0])
        softmax = objective.head(view.encoded.features).softmax(-1)
        best = (F.one_hot(view.tokens, V) * c[..., None] + (1 - c)[..., None] * softmax).argmax(-1)
    right, chosen = best == view.target, torch.zeros_like(view.mask)
    for row in range(B):
        chosen[row, view.positions[row][view.valid[row]]] = True
    for which, inputs in (("replaced", view.changed), ("original", ~view.changed)):
        judged = ((c > 0.5) == (view.tokens == view.target))[inputs & view.mask]
        assert metrics[f"copy_accuracy_{which}"] == pytest.approx(judged.double().mean().item())
        assert metrics[f"lm_accuracy_{which}"] == pytest.approx(
            right[inputs & chosen].double().mean().item()
        )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"copy_weight": 0.0, "lm_weight": 0.0}, "nothing to learn"),
        ({"copy_weight": 0.0}, "nothing to train the copy mechanism"),
    ],
)
def test_options_that_leave_nothing_to_learn_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        _ = tiny_config({"criterion": {"corrective_lm": options}}).views_by_name


def test_terms_of_weight_zero_have_no_parameters():
    assert not hasattr(criterion(lm_weight=0.0), "head")
    assert not hasattr(criterion(copy=False, copy_weight=0.0), "copy_head")
    assert hasattr(criterion(copy=False), "copy_head")


# -- contrast of sequences -------------------------------------------------------------------------------------------


def vectors(rows, seed=0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        F.normalize(torch.randn(rows, D, dtype=torch.float64, generator=generator), dim=-1)
        for _ in range(2)
    ]


def in_plain_python(a, b, tau) -> float:
    """The mean over the 2N anchors of -log of the positive's share among it and the 2N - 2 negatives."""
    everyone = [*a.tolist(), *b.tolist()]
    N, total = len(a), 0.0
    cosine = [
        [
            math.fsum(x * y for x, y in zip(u, v))
            / math.sqrt(math.fsum(x * x for x in u) * math.fsum(y * y for y in v))
            for v in everyone
        ]
        for u in everyone
    ]
    for anchor in range(2 * N):
        positive = (anchor + N) % (2 * N)
        negatives = [other for other in range(2 * N) if other not in (anchor, positive)]
        assert len(negatives) == 2 * N - 2
        whole = math.exp(cosine[anchor][positive] / tau) + math.fsum(
            math.exp(cosine[anchor][other] / tau) for other in negatives
        )
        total -= math.log(math.exp(cosine[anchor][positive] / tau) / whole)
    return total / (2 * N)


class Everyone:
    """A context in which this rank has rows [start, start + B) of `rows`."""

    prepared: dict = {}

    def __init__(self, rows=None, start=0):
        self.rows, self.start = rows, start

    def gather(self, tensor):
        if self.rows is None:
            return tensor, torch.arange(len(tensor))
        whole = self.rows.clone()
        whole[self.start : self.start + len(tensor)] = tensor
        return whole, torch.arange(len(tensor)) + self.start


def contrastive(**options) -> SequenceContrastive:
    return SequenceContrastive(
        build(SequenceContrastive, options),
        BuildContext(name="sequence_contrastive", encoder=Stub()),
    )


def views_of(a, b, draws=None) -> dict[str, View]:
    """Return two views with the given features at the first position."""
    views = {}
    for name, first in (("corrupted", a), ("cropped", b)):
        features = torch.cat([first[:, None], torch.randn(len(first), 3, D, dtype=first.dtype)], 1)
        views[name] = View(
            name=name,
            draws=torch.arange(len(first)) if draws is None else draws,
            inputs={},
            encoded=Encoded(features=features),
        )
    return views


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("tau", [1.0, 0.05])
@pytest.mark.parametrize("negatives", ["micro_batch", "ranks"])
def test_the_contrast_is_the_equation(rows, tau, negatives):
    a, b = (3.0 * part for part in vectors(rows))  # of any length: cosines
    objective = contrastive(temperature=tau, negatives=negatives)
    views = views_of(a, b)
    output = objective(views, Everyone())
    mean = output.terms["contrast"].sum / objective.normalizers(views, None)["contrast"]
    assert mean.item() == pytest.approx(in_plain_python(a, b, tau), rel=1e-11, abs=1e-13)


def test_anchors_of_one_rank_see_the_sequences_of_all():
    a, b = vectors(8)
    objective, rows = contrastive(), torch.stack([a, b], 1)
    total = sum(
        float(
            objective(views_of(a[s : s + 2], b[s : s + 2]), Everyone(rows, s)).terms["contrast"].sum
        )
        for s in range(0, 8, 2)
    )
    assert total / 16 == pytest.approx(in_plain_python(a, b, 1.0), rel=1e-11)
    alone = sum(
        float(
            contrastive(negatives="micro_batch")(
                views_of(a[s : s + 2], b[s : s + 2]), Everyone(rows, s)
            )
            .terms["contrast"]
            .sum
        )
        for s in range(0, 8, 2)
    )
    assert alone < total - 1  # fewer negatives


@pytest.mark.parametrize("tau", [1.0, 0.1])
def test_the_shares_of_micro_batches_add_up_to_loss_and_gradient_of_the_whole_update(tau):
    a, b = vectors(11)
    everyone = torch.cat([a, b])
    leaf = everyone.clone().requires_grad_()
    N = len(a)
    index = torch.arange(2 * N)
    positive = (index + N) % (2 * N)
    whole = contrast(leaf @ leaf.T / tau, index, positive).sum()
    (expected,) = torch.autograd.grad(whole, leaf)
    assert whole.item() / (2 * N) == pytest.approx(in_plain_python(a, b, tau), rel=1e-11)
    gradient, value = torch.zeros_like(expected), 0.0
    for rows in (slice(0, 3), slice(3, 4), slice(4, 11)):
        anchors = torch.cat([index[rows], index[rows] + N])
        live = everyone[anchors].clone().requires_grad_()
        part = share_of_the_whole(
            live @ everyone.T / tau, log_sums(everyone, tau), anchors, positive[anchors]
        )
        gradient[anchors] = torch.autograd.grad(part, live)[0]
        value += part.item()
    assert value == pytest.approx(whole.item(), rel=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-13)


def test_sums_over_others_do_not_depend_on_how_many_rows_are_held(monkeypatch):
    a, b = vectors(9)
    everyone, whole = torch.cat([a, b]), log_sums(torch.cat([a, b]), 0.3)
    monkeypatch.setattr("fwk_plugins.coco_lm.criteria.sequence_contrastive.ROWS", 4)
    torch.testing.assert_close(log_sums(everyone, 0.3), whole, rtol=1e-14, atol=0)
    for anchor in range(18):
        others = [
            float(everyone[anchor] @ everyone[other]) / 0.3
            for other in range(18)
            if other != anchor
        ]
        assert whole[anchor].item() == pytest.approx(
            math.log(math.fsum(map(math.exp, others))), rel=1e-12
        )


def test_mean_cosines_of_positive_and_negative_pairs_are_counted_apart():
    a, b = vectors(5)
    objective = contrastive()
    metrics = objective.metrics(objective(views_of(a, b), Everyone()).statistics)
    everyone = torch.cat([a, b])
    cosines = everyone @ everyone.T
    pairs = [(i, j) for i in range(10) for j in range(10) if i != j]
    near = [cosines[i, j].item() for i, j in pairs if abs(i - j) == 5]
    far = [cosines[i, j].item() for i, j in pairs if abs(i - j) != 5]
    assert metrics["positive_cosine"] == pytest.approx(sum(near) / 10) and metrics[
        "negative_cosine"
    ] == pytest.approx(sum(far) / 80)
    assert metrics["accuracy"] == pytest.approx(
        sum(
            cosines[i].masked_fill(torch.arange(10) == i, -2).argmax().item() == (i + 5) % 10
            for i in range(10)
        )
        / 10
    )
    alone = objective.metrics(objective(views_of(a[:1], b[:1]), Everyone()).statistics)
    assert (
        "negative_cosine" not in alone and alone["accuracy"] == 1.0
    )  # one sequence has no negatives


def test_vectors_are_compared_in_fp32_whatever_the_encoder_gives():
    a, b = (part.bfloat16() for part in vectors(6))
    output = contrastive()(views_of(a, b), Everyone())
    assert output.terms["contrast"].sum.dtype == torch.float32
    assert output.terms["contrast"].sum.item() / 12 == pytest.approx(
        in_plain_python(a.double(), b.double(), 1.0), rel=1e-6
    )


@pytest.mark.parametrize("first", ["corrupted", "remasked"])
def test_micro_batches_without_any_sequence_take_part(first):
    """Some micro-batches have no example of source b; the gradient is that of a single micro-batch."""
    few = {"noiser": "rows", "sources": ["b"]}
    views = {
        "few": few,
        "cropped": {"of": "few"},
        "masked": {"noiser": "bert_mask", "of": "few"},
        **({"remasked": {"noiser": "bert_mask", "of": "few"}} if first == "remasked" else {}),
    }
    by_size = [
        gradients(
            tiny_config(
                {
                    "criterion": {"sequence_contrastive": {"views": [first, "cropped"]}},
                    "views": views,
                    "train": {"micro_batch": size},
                }
            )
        )
        for size in (None, 1)
    ]
    assert difference(*by_size) < 1e-10
    config = tiny_config(
        {
            "criterion": {
                "sequence_contrastive": {"views": [first, "cropped"], "negatives": "ranks"}
            },
            "views": views,
            "train": {"micro_batch": 1},
        }
    )
    assert all(value is None or torch.isfinite(value).all() for value in gradients(config).values())


def test_views_of_two_widths_are_refused_and_so_is_an_encoder_whose_first_position_sees_nothing():
    other = {
        "networks": {"other": {"name": "bert", "layers": 1, "width": 8, "heads": 2}},
        "views": {"cropped": {"encoder": "other"}},
    }
    with pytest.raises(
        ConfigError,
        match="'corrupted' and 'cropped' are encoded 16 and 8 wide; cosines need one width",
    ):
        gradients(tiny_config({"criterion": {"sequence_contrastive": {}}, **other}))
    with pytest.raises(
        ConfigError, match="reads the first position, which sees nothing but itself"
    ):
        gradients(
            tiny_config(
                {"criterion": {"sequence_contrastive": {}}, "model": {"direction": "left_to_right"}}
            )
        )


def test_a_noiser_that_does_not_set_changed_is_refused(tmp_path):
    (tmp_path / "silent.py").write_text('''
from fwk import Noiser, register

@register("noiser", "test_says_nothing")
class SaysNothing(Noiser):
    """Changes nothing and says nothing."""
    def apply(self, source, key, context=None):
        return source.replace()
''')
    config = tiny_config(
        {
            "criterion": {"corrective_lm": {"lm_weight": 0.0}},
            "views": {"corrupted": {"noiser": "test_says_nothing", "of": None}},
        },
        [str(tmp_path)],
    )
    with pytest.raises(
        ConfigError, match="views.corrupted.noiser: does not say which tokens it changed"
    ):
        gradients(config)


def test_views_of_different_sequences_are_refused():
    a, b = vectors(3)
    views = views_of(a, b)
    views["cropped"] = views["cropped"].replace(draws=torch.arange(3) + 1)
    with pytest.raises(ConfigError, match="have different sequences"):
        contrastive()(views, Everyone())


def test_negatives_of_the_update_are_encoded_twice_only_with_several_micro_batches():
    calls = {}
    for size in (None, 4):
        with trainer_of(
            tiny_config({"criterion": {"sequence_contrastive": {}}, "train": {"micro_batch": size}})
        ) as trainer:
            differentiate_once(trainer)
            calls[size] = trainer.run.module.encoding.calls
    assert calls == {None: 2, 4: 3 * 2 * 2}  # generator and encoder; three micro-batches, twice


def test_with_negatives_of_the_update_dropout_falls_twice_the_same_way():
    """Otherwise the two passes would have different vectors, and the gradient would not be that of the loss."""
    noisy = {
        "model": {"dropout": 0.3, "attention_dropout": 0.3},
        "criterion": {"sequence_contrastive": {}},
        "train": {"micro_batch": 5},
    }
    with trainer_of(tiny_config(noisy)) as trainer:
        criterion, seen = trainer.run.module.criteria["sequence_contrastive"], []
        first, second = criterion.prepare, criterion.forward

        def prepare(views, context):
            seen.append(first(views, context))
            return seen[-1]

        def forward(views, context):
            live = torch.stack(criterion._vectors(views), 1)
            assert torch.equal(live, seen[context.micro_batch]["vectors"]) and live.requires_grad
            return second(views, context)

        criterion.prepare, criterion.forward = prepare, forward
        differentiate_once(trainer)
        assert len(seen) == 3


# -- the views and networks of COCO-LM ---------------------------------------------------------------------------


def test_by_default_the_two_criteria_share_one_corrupted_view_and_its_auxiliary_network():
    views = tiny_config(
        {"criterion": {"corrective_lm": {}, "sequence_contrastive": {}}}
    ).views_by_name
    assert sorted(views) == ["corrupted", "cropped", "masked"]
    assert (
        views["cropped"].noiser == "crop"
        and views["cropped"].of is None
        and views["cropped"].component.config.keep == 0.9
    )
    network = views["corrupted"].network.component
    assert network.name == "scaled" and (network.config.width, network.config.share) == (
        1.0,
        "token_and_position",
    )
    assert network.config.layers == pytest.approx(1 / 3)


def test_the_auxiliary_network_runs_once_without_dropout_and_shares_the_embeddings():
    config = tiny_config(
        {
            "criterion": {"corrective_lm": {}},
            "model": {"layers": 3, "dropout": 0.5, "attention_dropout": 0.5},
        }
    )
    with trainer_of(config) as trainer:
        module = trainer.run.module
        network, main = module.networks["corrupted_network"], module.networks["main"]
        assert (
            network.width == main.width
            and len(network.inner.layers) == 1
            and network.embedding() is main.embedding()
        )
        seen = []
        network.register_forward_hook(lambda part, inputs, output: seen.append(part.training))
        differentiate_once(trainer)
        assert seen == [False]
        assert (
            network.inner.layers[0].inner.weight.grad.abs().sum() > 0
        )  # it learns from the same run


def test_a_view_without_a_default_is_read_as_another_criterion_defines_it():
    config = tiny_config(
        {
            "criterion": {
                "sequence_contrastive": {"views": ["masked", "remasked"]},
                "semantic_augment": {},
            }
        }
    )
    assert sorted(config.views_by_name) == ["masked", "remasked"]
    with pytest.raises(
        ConfigError,
        match="views.somewhere: criterion 'sequence_contrastive' reads this view, and nothing says how",
    ):
        _ = tiny_config(
            {"criterion": {"sequence_contrastive": {"views": ["masked", "somewhere"]}}}
        ).views_by_name


def test_an_encoder_that_does_not_see_its_own_token_is_refused():
    towers = {"name": "two_tower", "layers": 1, "width": 16, "heads": 2}
    config = tiny_config(
        {
            "criterion": {"corrective_lm": {}},
            "model": towers,
            "views": {"corrupted": {"noiser": "uniform"}},
        }
    )
    with pytest.raises(
        ConfigError,
        match="criterion.corrective_lm: judges every token, and in TwoTower no position sees its own token",
    ):
        with trainer_of(config):
            pass
