"""A contiguous part of each sequence (COCO-LM, Meng et al. 2021, section 3.3; Giorgi et al. 2021).

Of a sequence's n ordinary tokens, ⌈keep·n⌉ successive ones remain, with all special tokens ([CLS], [SEP] and
the like), and are moved together. Whatever belongs to a position moves with its token: target, changed, chosen
positions, labels per token. `alignment` gives the original position of each token. Deviation: `keep` is a share
of the ordinary tokens; in the paper it is a share of the length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fwk.components.registry import register
from fwk.contracts.context import BuildContext, Context
from fwk.contracts.keyed import Key, exact_share
from fwk.contracts.noiser import Noiser
from fwk.contracts.options import option
from fwk.contracts.views import View
from fwk.errors import ConfigError


@register("noiser", "crop")
class Crop(Noiser["Crop.Config"]):
    """Keeps a contiguous part of each sequence's ordinary tokens, and all special tokens."""

    chooses = False

    @dataclass(frozen=True, kw_only=True)
    class Config:
        keep: float = option(
            0.9, "share of the ordinary tokens that is kept (COCO-LM: 0.9)", above=0, high=1
        )

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        self.pad = max(self.vocabulary.pad, 0) if self.vocabulary else 0

    def apply(self, source: View, key: Key, context: Context | None = None) -> View:
        """Return the cropped view. Raises ConfigError where the source has no tokens."""
        if source.target is None or source.target.dim() != 2:
            raise ConfigError(
                f"views.{self.view}.of",
                "'crop' keeps a part of a sequence of tokens, and its source has no tokens",
            )
        special = source.content & ~source.ordinary
        kept = spans(source.ordinary, key, self.config.keep) | special
        return source.keep_positions(kept, self.pad)


def spans(ordinary: Tensor, key: Key, keep: float) -> Tensor:
    """Return ⌈keep·n⌉ successive ones of the n ordinary positions of each row, all such spans equally likely.

    ordinary: bool [B, T]. The result is bool [B, T].
    """
    n = ordinary.sum(1, keepdim=True)  # [B, 1]
    length = exact_share(keep, n)
    # the bias of the modulo is below T / 2^63
    start = key.child("start").bits(1).to(n.device) % (n - length + 1)
    number = ordinary.cumsum(1) - 1  # of each ordinary position in its row
    return ordinary & (number >= start) & (number < torch.add(start, length))
