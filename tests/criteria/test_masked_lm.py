"""Masked LM and BERT masking, against references written from their equations."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from support.small_text import VOCABULARY, B, D, Stub, T, V, reference_nll, text

from fwk import BuildContext, Key, View, Vocabulary
from fwk.contracts.views import Encoded
from fwk.criteria.masked_lm import MaskedLM
from fwk.nn.masked_lm_head import MaskedLMHead
from fwk.nn.softmax import token_losses
from fwk.noisers.bert_mask import BertMask


def masked(view: View, **options) -> View:
    return BertMask(BertMask.Config(**options), BuildContext(vocabulary=VOCABULARY)).apply(
        view, Key(1, "masked", view.draws)
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_is_the_equation_in_float64(smoothing, tied):
    torch.manual_seed(0)
    criterion = MaskedLM(
        MaskedLM.Config(tied_output=tied, label_smoothing=smoothing),
        BuildContext(encoder=Stub(), vocabulary=VOCABULARY),
    ).double()
    with torch.no_grad():
        for parameter in criterion.parameters():
            parameter.copy_(torch.randn_like(parameter))
    view = masked(text(), ratio=0.4)
    view = view.replace(encoded=Encoded(features=torch.randn(B, T, D, dtype=torch.float64)))
    output = criterion({"masked": view}, None)
    expected, count = 0.0, 0
    for row in range(B):
        for slot in range(view.positions.shape[1]):
            if view.valid[row, slot]:
                position = int(view.positions[row, slot])
                target = int(view.target[row, position])
                expected += reference_nll(
                    criterion.head, view.encoded.features[row, position], target, smoothing
                )
                count += 1
    assert int(criterion.normalizers({"masked": view}, None)["masked_lm"]) == count
    assert float(output.terms["masked_lm"].sum.detach()) == pytest.approx(expected, rel=1e-12)


def test_sums_are_wide_whatever_the_logits_are():
    logits = torch.randn(3, 5, V, dtype=torch.bfloat16)
    assert token_losses(logits, torch.zeros(3, 5, dtype=torch.long)).dtype == torch.float32


def test_the_tied_output_matrix_is_the_embedding_and_is_trained_by_both():
    encoder = Stub()
    head = MaskedLMHead(encoder, V, tied=True)
    assert head.output.weight is encoder.table.weight
    assert MaskedLMHead(encoder, V, tied=False).output.weight is not encoder.table.weight


def test_the_bias_starts_at_the_frequencies_and_features_that_say_nothing_give_the_unigram_model():
    counts = torch.tensor([0, 0, 0, 0, 0, 90, 10, 0, 400, *[1] * (V - 9)], dtype=torch.float64)
    build = BuildContext(encoder=Stub(), vocabulary=replace(VOCABULARY, counts=counts))
    head = MaskedLM(MaskedLM.Config(), build).head
    with torch.no_grad():
        head.norm.weight.zero_()
        share = head(torch.randn(D)).double().softmax(-1)
    torch.testing.assert_close(share, (counts + 0.5) / (counts + 0.5).sum(), rtol=1e-6, atol=0)
    assert not MaskedLM(MaskedLM.Config(output_bias="zeros"), build).head.output.bias.any()
    assert not MaskedLM(
        MaskedLM.Config(), BuildContext(encoder=Stub(), vocabulary=VOCABULARY)
    ).head.output.bias.any()


def test_a_factorised_embedding_ties_through_the_transform():
    head = MaskedLMHead(Stub(width=D, embedding=3), V, tied=True)
    assert head(torch.randn(2, D)).shape == (2, V)


def test_masking_chooses_exactly_the_share_of_ordinary_tokens():
    for ratio in (0.15, 0.4, 1.0, 0.0):
        view = masked(text(), ratio=ratio)
        ordinary = (view.mask & ~view.special).sum(1)
        expected = [math.ceil(round(ratio * int(n), 9)) for n in ordinary]
        assert view.valid.sum(1).tolist() == expected


def test_masking_leaves_specials_padding_and_unchosen_tokens_alone_and_remembers_the_originals():
    clean = text()
    view = masked(clean, ratio=0.5)
    chosen = torch.zeros_like(view.mask)
    for row in range(B):
        chosen[row, view.positions[row][view.valid[row]]] = True
    assert torch.equal(view.tokens[~chosen], clean.tokens[~chosen])
    assert not (chosen & (clean.special | ~clean.mask)).any()
    assert torch.equal(view.target, clean.tokens)
    assert torch.equal(view.changed, view.tokens != clean.tokens)


@pytest.mark.parametrize(
    "mask,random", [(0.8, 0.1), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (0.0, 0.0)]
)
def test_the_split_into_mask_random_and_kept_is_as_configured(mask, random):
    rows = 3000
    view = masked(text(rows), ratio=0.5, mask=mask, random=random)
    new, old = (view.at_positions(t)[view.valid] for t in (view.tokens, view.target))
    n = len(new)
    tolerance = 4 * 0.5 / math.sqrt(n)  # four standard deviations at most
    ordinary = V - 5
    assert float((new == 4).float().mean()) == pytest.approx(mask, abs=tolerance)
    assert float(((new != 4) & (new != old)).float().mean()) == pytest.approx(
        random * (1 - 1 / ordinary), abs=tolerance
    )
    drawn = new[(new != 4) & (new != old)]
    assert random == 0 or (drawn.min() >= 5 and len(drawn.unique()) == ordinary)


def test_two_views_and_two_epochs_get_different_noise():
    clean = text(200)
    noiser = BertMask(BertMask.Config(), BuildContext(vocabulary=VOCABULARY))
    one = noiser.apply(clean, Key(1, "masked", clean.draws))
    other = noiser.apply(clean, Key(1, "remasked", clean.draws))
    later = noiser.apply(clean, Key(1, "masked", clean.draws + 200))
    assert not torch.equal(one.positions, other.positions)
    assert not torch.equal(one.positions, later.positions)


def test_shares_above_one_are_refused():
    with pytest.raises(ValueError, match="add up to more than 1"):
        BertMask.Config(mask=0.8, random=0.3)


def test_a_tokenizer_without_a_mask_is_refused_by_view():
    from fwk.errors import ConfigError

    with pytest.raises(ConfigError, match=r"views.noisy: .*\[MASK\]"):
        BertMask(BertMask.Config(), BuildContext(name="noisy", vocabulary=Vocabulary(size=V)))
