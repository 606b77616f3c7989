"""Views with other tokens at their chosen positions: what all noise distributions have in common.

    x~_t ~ q(. | context)   for t in R, the chosen positions of the source view          x~_t = x_t elsewhere

`target` of the view that is made is the original sequence, `changed` is where the token differs from it, and `log_q` [B, T],
where there is one, is the log-probability of the token that stands at each position under the distribution that was sampled,
given the original sequence. Samples are keyed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fwk import Key, View, choose, option

RATIO = option(
    0.15,
    "share of the ordinary tokens that is chosen, where the source view chooses none",
    low=0,
    high=1,
)


def with_positions(source: View, key: Key, ratio: float) -> View:
    """The source view, with ⌈ratio·n⌉ positions of each sequence chosen where it chooses none itself."""
    if source.positions is not None:
        return source
    positions, valid = choose(key.child("choice"), source.ordinary, ratio)
    return source.replace(positions=positions, valid=valid)


def replaced(source: View, drawn: Tensor, keep: Tensor | None = None) -> View:
    """The original sequence with `drawn` [B, K] at the chosen positions. keep: bool [B], sequences left as they are."""
    put = source.valid if keep is None else source.valid & ~keep[:, None]  # [B, K]
    T = source.target.shape[1]
    where = torch.where(
        put, source.positions, T
    )  # what is not put goes to a column that is cut off again
    tokens = F.pad(source.target, (0, 1)).scatter(1, where, drawn)[:, :T]
    return source.replace(
        inputs={**source.inputs, "tokens": tokens}, changed=tokens != source.target, log_q=None
    )


def kept(key: Key, share: float, like: Tensor) -> Tensor | None:
    """bool [B]: this share of the sequences, or None for none."""
    if not share:
        return None
    return key.child("kept").happens(1, share)[:, 0].to(like.device)
