"""Linear warm-up, then half a cosine down (Loshchilov and Hutter 2017, "SGDR", equation 5 without restarts)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fwk.components.registry import register
from fwk.contracts.options import option
from fwk.contracts.schedule import Schedule, ScheduleConfig


@register("schedule", "cosine")
class Cosine(Schedule["Cosine.Config"]):
    """Linear warm-up, then half a cosine down."""

    name = "cosine"

    @dataclass(frozen=True, kw_only=True)
    class Config(ScheduleConfig):
        final_ratio: float = option(
            0.0, "learning rate that the decay aims at, as a share of the peak", low=0, high=1
        )

    def after_warmup(self, share: float) -> float:
        """Return half a cosine from 1 to `final_ratio`."""
        final = self.config.final_ratio
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share))
