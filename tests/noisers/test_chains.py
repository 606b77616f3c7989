"""Noisers of views that were noised before: the original tokens stay the targets."""

from __future__ import annotations

import pytest
import torch

from fwk.engine.update import Update
from fwk.testing import batches_of, tiny_config, trainer_of

CHAINS = {
    "bert_mask of bert_mask": ("bert_mask", {"noiser": "bert_mask", "mask": 1.0, "random": 0.0}),
    "frequency_mask of bert_mask": (
        "frequency_mask",
        {"noiser": "bert_mask", "random": 1.0, "mask": 0.0},
    ),
    "bert_mask of frequency_mask": ("bert_mask", {"noiser": "frequency_mask"}),
    "bert_mask of crop": ("bert_mask", {"noiser": "crop", "keep": 0.5}),
    "uniform of bert_mask": ("uniform", {"noiser": "bert_mask", "ratio": 0.5}),
    "unigram of frequency_mask": ("unigram", {"noiser": "frequency_mask", "ratio": 0.5}),
    "bert_mask of uniform": ("bert_mask", {"noiser": "uniform", "ratio": 0.5}),
}


@pytest.mark.parametrize(("second", "first"), CHAINS.values(), ids=CHAINS)
def test_targets_are_the_original_tokens_whatever_the_chain(second, first):
    config = tiny_config(
        {
            "criterion": {"masked_lm": {"view": "again"}},
            "views": {"once": first, "again": {"noiser": second, "of": "once", "ratio": 0.5}},
        }
    )
    with trainer_of(config) as trainer:
        module, run = trainer.run.module, trainer.run
        (static, *_) = next(batches_of(run))
        views = module.begin(static, 0, Update()).views
        original, view = views["batch"].tokens, views["again"]
    assert not torch.equal(views["once"].tokens, original)  # the first noiser did something
    if view.alignment is not None:
        original = original.gather(1, view.alignment.clamp(min=0))
    content = view.content
    assert torch.equal(view.target[content], original[content])
    assert torch.equal(view.changed[content], (view.tokens != view.target)[content])
    assert view.valid.any()
