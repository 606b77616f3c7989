"""One cycle: up from a small rate to the peak, then down to a far smaller one.

Smith and Topin 2018, "Super-convergence: very fast training of neural networks using large learning rates".

    update 1: start_ratio     update W: 1     last update: final_ratio     between: half a cosine, or a line

Deviations: two stretches, as in fast.ai and `torch.optim.lr_scheduler.OneCycleLR` (whose rates these are),
instead of the paper's three; the momentum is not cycled, optimizers keep the one in their options.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fwk.components.registry import register
from fwk.contracts.options import option
from fwk.contracts.schedule import Schedule, ScheduleConfig


@register("schedule", "one_cycle")
class OneCycle(Schedule["OneCycle.Config"]):
    """Up to the peak and down again, far below the start."""

    name = "one_cycle"

    @dataclass(frozen=True, kw_only=True)
    class Config(ScheduleConfig):
        warmup: float = option(
            0.3,
            "the way up: a number of updates if 1 or more, a share of the run if below 1 (0: none)",
            low=0,
        )
        start_ratio: float = option(
            0.04, "learning rate of the first update, as a share of the peak", low=0, high=1
        )
        final_ratio: float = option(
            4e-6, "learning rate of the last update, as a share of the peak", low=0, high=1
        )
        anneal: Literal["cosine", "linear"] = option(
            "cosine", "half a cosine, or a line, from one rate to the next"
        )

    def at(self, update: int, warmup: float, end: float | None) -> float:
        """Return the factor of an update."""
        assert end is not None  # needs_end
        if update < warmup:
            return self._between(self.config.start_ratio, 1.0, (update - 1) / (warmup - 1))
        top = max(1.0, warmup)
        done = min(1.0, (update - top) / (end - top)) if end > top else 1.0
        return self._between(1.0, self.config.final_ratio, done)

    def _between(self, a: float, b: float, share: float) -> float:
        """Return the factor at a share of the way from `a` to `b`."""
        if self.config.anneal == "cosine":
            share = 0.5 * (1 - math.cos(math.pi * share))
        return a + (b - a) * share
