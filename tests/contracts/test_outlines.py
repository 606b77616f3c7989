"""Outlines of views that are not made yet, and what a component requires when it is built."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fwk import BuildContext, View
from fwk.contracts.views import Outline
from fwk.errors import ConfigError, RunError
from fwk.nn.masked_lm_head import MaskedLMHead


def source() -> View:
    tokens = torch.arange(6).view(2, 3)
    return View(name="masked", draws=torch.arange(2), inputs={"tokens": tokens}, target=tokens)


def test_an_outline_gives_what_is_known():
    outline = Outline.of(source(), "corrupted", ["changed"])
    assert outline.outline and outline.name == "corrupted" and len(outline) == 2
    assert torch.equal(outline.target, source().target)


def test_an_outline_names_the_view_and_the_field_that_is_unknown():
    outline = Outline.of(source(), "corrupted", ["changed"])
    with pytest.raises(RunError, match="view 'corrupted' has no changed yet.*'prepare: true'"):
        _ = outline.changed
    with pytest.raises(RunError, match="view 'corrupted' has no tokens yet"):
        _ = outline.tokens


def test_what_is_unknown_of_a_view_is_unknown_of_views_made_of_it_until_they_set_it():
    first = Outline.of(source(), "first", ["changed", "log_q"])
    second = Outline.of(first.replace(log_q=torch.zeros(2, 3)), "second", ["positions"])
    assert torch.equal(second.log_q, torch.zeros(2, 3))
    for name in ("changed", "positions"):
        with pytest.raises(RunError, match=f"view 'second' has no {name} yet"):
            getattr(second, name)


def test_a_component_that_needs_tokens_or_an_encoder_is_refused_without_them():
    build = BuildContext(name="mine", key="criterion.mine")
    with pytest.raises(ConfigError, match="criterion.mine: reads tokens, and the task has no"):
        build.require_vocabulary()
    with pytest.raises(ConfigError, match="criterion.mine: needs an encoder"):
        build.require_encoder()


def test_an_output_tied_to_an_encoder_without_token_embedding_is_refused():
    class Pixels(nn.Module):
        width = 4

        def embedding(self):
            return None

    with pytest.raises(ConfigError, match="Pixels has no token embedding"):
        MaskedLMHead(Pixels(), 10)
    assert MaskedLMHead(Pixels(), 10, tied=False).output.weight.shape == (10, 4)
