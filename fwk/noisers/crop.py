"""A contiguous part of each sequence (COCO-LM, Meng et al. 2021, section 3.3; Giorgi et al. 2021)."""

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
    """Keeps ⌈keep·n⌉ successive ones of a sequence's n ordinary tokens, with [CLS], [SEP] and the like; the rest closes up.

    What is known by position goes with its token: target, changed, chosen positions, labels per token. `alignment` says
    where each position was in the original. Deviation: the paper keeps a share of the length, here of the ordinary tokens.
    """

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
        if source.target is None or source.target.dim() != 2:
            raise ConfigError(
                f"views.{self.view}.of",
                "'crop' keeps a part of a sequence of tokens, and its source has none",
            )
        return source.keep_positions(
            spans(source.ordinary, key, self.config.keep) | (source.content & ~source.ordinary),
            self.pad,
        )


def spans(ordinary: Tensor, key: Key, keep: float) -> Tensor:
    """Bool [B, T]: in each row ⌈keep·n⌉ successive ones of its n ordinary positions, bool [B, T]; every such span is
    equally likely.
    """
    n = ordinary.sum(1, keepdim=True)  # [B, 1]
    length = exact_share(keep, n)
    start = key.child("start").bits(1).to(n.device) % (
        n - length + 1
    )  # the modulo's bias is below T / 2^63
    place = ordinary.cumsum(1) - 1  # the number of each ordinary position in its row
    return ordinary & (place >= start) & (place < torch.add(start, length))
