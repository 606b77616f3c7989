"""Views with other tokens at their chosen positions: what all noise distributions share.

    x~_t ~ q(. | context)   for t in R, the chosen positions of the source view
    x~_t = x_t              elsewhere

Of the view that is made, `target` is the original sequence x, and `changed` is True where the token
differs from it. `log_q` [B, T], where the noiser knows it, is the log-probability of the token at
each position under the distribution that was sampled, given the original sequence. Samples are
keyed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fwk import Key, View, choose, option

RATIO: float = option(
    0.15,
    "share of the ordinary tokens that is chosen, where the source view chooses none",
    low=0,
    high=1,
)


def ensure_positions(source: View, key: Key, ratio: float) -> View:
    """Return the source view, with ⌈ratio·n⌉ positions of each sequence chosen if it has none."""
    if source.positions is not None:
        return source
    positions, valid = choose(key.child("choice"), source.ordinary, ratio)  # [B, K]
    return source.replace(positions=positions, valid=valid)


def replace_chosen(source: View, drawn: Tensor, unchanged: Tensor | None = None) -> View:
    """Return the original sequence with the tokens `drawn` [B, K] at the chosen positions.

    unchanged: bool [B], True for sequences that keep their tokens.
    """
    put = source.valid if unchanged is None else source.valid & ~unchanged[:, None]  # [B, K]
    T = source.target.shape[1]
    # tokens that are not put go to an extra column, which is cut off
    columns = torch.where(put, source.positions, T)
    tokens = F.pad(source.target, (0, 1)).scatter(1, columns, drawn)[:, :T]
    return source.replace(
        inputs={**source.inputs, "tokens": tokens}, changed=tokens != source.target, log_q=None
    )


def choose_unchanged(key: Key, share: float, device: torch.device) -> Tensor | None:
    """Return which sequences keep their tokens, bool [B]; None where the share is 0."""
    if not share:
        return None
    return key.child("kept").happens(1, share)[:, 0].to(device)
