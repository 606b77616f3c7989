"""The noiser `crop`, and views of which some positions are kept."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cases import CONTRACTS

from fwk import BuildContext, Key, View, Vocabulary
from fwk.errors import ConfigError, UserError
from fwk.noisers.bert_mask import BertMask
from fwk.noisers.crop import Crop, spans
from fwk.testing import tiny_config, train_briefly

V, T = 50, 24
VOCABULARY = Vocabulary(size=V, pad=0, cls=2, sep=3, mask=4, special=(0, 2, 3, 4))


def text(sizes, seed=0) -> View:
    """Sequences of so many tokens: [CLS], ordinary tokens that are all different, [SEP]; one more [SEP] in the
    middle of long ones."""
    rows = len(sizes)
    tokens = torch.zeros(rows, T, dtype=torch.int64)
    for row, size in enumerate(sizes):
        tokens[row, :size] = (
            torch.randperm(V - 5, generator=torch.Generator().manual_seed(seed + row))[:size] + 5
        )
        tokens[row, 0] = 2
        tokens[row, size - 1] = 3
        if size > 12:
            tokens[row, size // 2] = 3
    mask = torch.arange(T) < torch.tensor(sizes)[:, None]
    segments = (torch.arange(T) > 6).long().expand(rows, T)
    return View(
        name="batch",
        draws=torch.arange(100, 100 + rows),
        inputs={"tokens": tokens, "segments": segments},
        mask=mask,
        special=(tokens == 2) | (tokens == 3),
        target=tokens,
        labels={"class": torch.arange(rows), "tag": tokens * 2},
    )


def crop(source: View, keep=0.9, seed=1) -> View:
    made = Crop(Crop.Config(keep=keep), BuildContext(name="cropped", vocabulary=VOCABULARY))
    return made.apply(source, Key(seed, "cropped", source.draws))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(2, T), min_size=1, max_size=5),
    keep=st.sampled_from([0.05, 0.3, 0.5, 0.75, 0.9, 1.0]),
    seed=st.integers(0, 1000),
)
def test_a_contiguous_share_of_the_ordinary_tokens_is_kept_with_every_special_one(
    sizes, keep, seed
):
    source = text(sizes, seed)
    view = crop(source, keep, seed)
    for row, size in enumerate(sizes):
        before = source.tokens[row, :size].tolist()
        after = view.tokens[row][view.mask[row]].tolist()
        ordinary = [token for token in before if token > 4]
        kept = [token for token in after if token > 4]
        assert len(kept) == math.ceil(round(keep * len(ordinary), 9))
        start = ordinary.index(kept[0]) if kept else 0
        assert kept == ordinary[start : start + len(kept)]  # in a piece, in order
        assert [
            token for token in before if token <= 4 or token in kept
        ] == after  # specials where they were
        where = view.alignment[row][view.mask[row]]
        assert (
            source.tokens[row][where].tolist() == after
            and (view.alignment[row][~view.mask[row]] == -1).all()
        )
    assert view.tokens.shape[1] == int(view.mask.sum(1).max())  # no column without content
    assert view.padded == (not view.mask.all())


def test_everything_that_is_known_by_position_goes_with_its_token():
    source = text([24, 9, 15])
    view = crop(source, 0.5)
    content = view.mask
    at = view.alignment.clamp(min=0)
    for mine, theirs in (
        (view.target, source.target),
        (view.inputs["segments"], source.inputs["segments"]),
        (view.special, source.special),
        (view.labels["tag"], source.labels["tag"]),
    ):
        assert torch.equal(mine[content], theirs.gather(1, at)[content])
    assert torch.equal(view.labels["class"], source.labels["class"]) and torch.equal(
        view.draws, source.draws
    )
    assert (view.labels["tag"][~content] == -1).all() and (view.tokens[~content] == 0).all()


def test_chosen_positions_that_are_kept_are_found_again_and_others_are_not_valid():
    whole = text([24, 9, 15])
    masked = BertMask(
        BertMask.Config(ratio=0.4, mask=1.0, random=0.0), BuildContext(vocabulary=VOCABULARY)
    ).apply(whole, Key(1, "masked", whole.draws))
    view = crop(masked, 0.5)
    dropped = 0
    for row in range(3):
        chosen = set(masked.positions[row][masked.valid[row]].tolist())
        kept = view.alignment[row][view.mask[row]].tolist()
        found = view.positions[row][view.valid[row]].tolist()
        assert (
            found
            == sorted(found)
            == [place for place, original in enumerate(kept) if original in chosen]
        )
        assert (view.tokens[row][found] == 4).all()
        assert (
            not view.valid[row][len(found) :].any()
            and (view.positions[row][len(found) :] == 0).all()
        )  # slots at the end
        dropped += len(chosen) - len(found)
    assert dropped > 0
    assert torch.equal(view.changed[view.mask], (view.tokens != view.target)[view.mask])


def test_a_crop_of_a_crop_says_where_it_was_in_the_original():
    source = text([24, 20])
    view = crop(crop(source, 0.8), 0.5, seed=2)
    where = view.alignment[view.mask]
    rows = torch.arange(2)[:, None].expand_as(view.mask)[view.mask]
    assert torch.equal(source.tokens[rows, where], view.tokens[view.mask])


def test_every_span_is_equally_likely():
    source = text([22] * 4000)
    key = Key(3, "x", torch.arange(4000))
    kept = spans(source.ordinary, key, 0.75)
    counts = Counter(kept.int().argmax(1).tolist())
    n = int(source.ordinary[0].sum())
    starts = n - math.ceil(0.75 * n) + 1
    assert len(counts) == starts
    expected = 4000 / starts
    assert (
        sum((count - expected) ** 2 / expected for count in counts.values()) < 3 * starts + 20
    )  # chi-squared, far in its tail


def test_two_seeds_and_two_views_are_cropped_elsewhere_and_one_key_alike():
    source = text([24] * 50)
    assert torch.equal(crop(source).alignment, crop(source).alignment)
    assert not torch.equal(crop(source).alignment, crop(source, seed=2).alignment)


def test_without_rows_there_is_nothing_to_crop():
    view = crop(
        text([24]).replace(
            **{
                name: getattr(text([24]), name)[:0]
                for name in ("draws", "mask", "special", "target")
            },
            inputs={"tokens": torch.zeros(0, T, dtype=torch.int64)},
            labels={},
        )
    )
    assert len(view) == 0 and view.tokens.shape == (0, 0)


def test_a_batch_that_is_no_text_is_refused(tmp_path):
    config = tiny_config(
        {
            "task": {"name": "test_digits"},
            "model": {"name": "test_pixels"},
            "criterion": {"test_classify": {}},
            "views": {"plain": {"noiser": "crop"}},
        },
        [CONTRACTS],
    )
    with pytest.raises(
        UserError, match="'crop' keeps a part of a sequence of tokens, and its source has no tokens"
    ):
        train_briefly(config, tmp_path)


def test_a_criterion_of_chosen_positions_refuses_the_crop_of_a_view_that_has_none():
    config = tiny_config({"criterion": {"masked_lm": {}}, "views": {"masked": {"noiser": "crop"}}})
    with pytest.raises(
        ConfigError,
        match="views.masked.noiser: criterion 'masked_lm' reads chosen positions, and 'crop'",
    ):
        _ = config.views_by_name


def test_criteria_that_predict_read_a_crop_of_a_masked_view(tmp_path):
    config = tiny_config(
        {
            "criterion": {"masked_lm": {"view": "part"}},
            "views": {
                "masked": {"noiser": "bert_mask"},
                "part": {"noiser": "crop", "of": "masked", "keep": 0.6},
            },
        }
    )
    assert train_briefly(config, tmp_path)
