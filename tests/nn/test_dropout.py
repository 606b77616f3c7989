"""Dropout with cheap random numbers, and the attention that uses it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from fwk.models import bert
from fwk.models.bert import attention
from fwk.nn.dropout import Dropout, dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.999])
def test_each_element_is_dropped_with_the_probability_and_the_mean_is_kept(p):
    torch.manual_seed(1)
    n = 1 << 20
    out = dropout(torch.ones(n, dtype=torch.float64), p)
    level = round(p * 65536) / 65536
    kept = int((out != 0).sum())
    assert abs(kept - n * (1 - level)) < 5 * math.sqrt(n * level * (1 - level))
    assert out.unique().tolist() == pytest.approx([0.0, 1 / (1 - level)], rel=1e-12)


def test_neighbours_are_dropped_independently():
    """Four of them are cut out of one random number."""
    torch.manual_seed(2)
    kept = (dropout(torch.ones(1 << 20), 0.5) != 0).double().view(-1, 4) - 0.5
    together = (kept.T @ kept) / len(kept)  # [4, 4], 1/4 on the diagonal
    assert (together - torch.eye(4, dtype=torch.float64) / 4).abs().max() < 5 * 0.25 / math.sqrt(
        len(kept)
    )


@pytest.mark.parametrize("shape", [(1,), (3,), (5, 7), (2, 3, 4, 5), (0, 4)])
def test_any_shape_one_seed_one_pattern_and_the_gradient_falls_where_the_value_does(shape):
    x = torch.randn(shape, requires_grad=True)
    torch.manual_seed(3)
    a = dropout(x, 0.4)
    torch.manual_seed(3)
    assert torch.equal(a, dropout(x, 0.4))
    a.sum().backward()
    assert torch.equal(x.grad != 0, a != 0)
    torch.testing.assert_close(x.grad * x, a)


def test_nothing_is_dropped_outside_of_training_or_at_zero_and_all_at_one():
    x = torch.randn(50)
    assert dropout(x, 0.5, training=False) is x and dropout(x, 0.0) is x
    assert not dropout(x, 1.0).any()
    assert Dropout(0.5).eval()(x) is x


@pytest.mark.parametrize("kind", ["none", "numbers", "which"])
def test_attention_without_torchs_kernel_is_the_same(kind, monkeypatch):
    """Its own way is taken under dropout; with dropout that drops nothing it must be torch's."""
    torch.manual_seed(4)
    query, key, value = torch.randn(3, 2, 4, 9, 8, dtype=torch.float64)
    bias = {
        "none": None,
        "numbers": torch.randn(1, 4, 9, 9, dtype=torch.float64),
        "which": torch.rand(2, 1, 1, 9) < 0.6,
    }[kind]
    if kind == "which":
        bias[..., 0] = True
    monkeypatch.setattr(bert, "dropout", lambda x, p: x)
    ours = attention(query, key, value, bias, 0.1)
    torch.testing.assert_close(
        ours,
        F.scaled_dot_product_attention(query, key, value, attn_mask=bias),
        rtol=1e-12,
        atol=1e-12,
    )
