"""An encoder that computes the first position alone gives what the whole computation gives there."""

from __future__ import annotations

import pytest
import torch

from fwk.contracts.context import BuildContext, Vocabulary
from fwk.models.bert import Bert


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("positions, buckets", [("learned", 0), ("neighbour", 8)])
@pytest.mark.parametrize("padded", [False, True])
def test_the_first_position_alone_is_what_it_is_among_all(
    norm: str, positions: str, buckets: int, padded: bool
) -> None:
    config = Bert.Config(
        layers=2, width=16, heads=4, norm=norm, positions=positions, buckets=buckets, farthest=12
    )
    build = BuildContext(vocabulary=Vocabulary(size=30, pad=0), length=9)
    encoder = Bert(config, build).double().eval()
    tokens = torch.randint(1, 30, (3, 9))
    mask = torch.arange(9) < torch.tensor([[9], [4], [7]]) if padded else None
    whole = encoder({"tokens": tokens}, mask, None, ("layer_1",))
    first = encoder({"tokens": tokens}, mask, None, ("layer_1",), first_only=True)
    assert first.features.shape == (3, 1, 16)
    torch.testing.assert_close(first.features[:, 0], whole.features[:, 0], rtol=0, atol=1e-14)
    torch.testing.assert_close(first.states["layer_1"], whole.states["layer_1"])
