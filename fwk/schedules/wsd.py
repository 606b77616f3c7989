"""Warm-up, stable, decay.

Hu et al. 2024, "MiniCPM", section 4; Hägele et al. 2024, "Scaling laws and compute-optimal training beyond
fixed training durations".

    u/W          1 ... 1          shape(share of the decay that is done), from 1 to final_ratio

    linear: 1 - s          sqrt: 1 - √s (Hägele et al.)          cosine: (1 + cos πs)/2

The rate before the decay does not depend on where the run ends: a checkpoint from the stable part continues as a longer
run with the updates that the longer run would have had. For that, set the warm-up in updates. Deviation: MiniCPM's
exponential shape is not offered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fwk.components.registry import register
from fwk.contracts.options import option
from fwk.contracts.schedule import Schedule, ScheduleConfig, check_updates, share_of

SHAPES = {
    "linear": lambda s: 1 - s,
    "sqrt": lambda s: 1 - math.sqrt(s),
    "cosine": lambda s: 0.5 * (1 + math.cos(math.pi * s)),
}


@register("schedule", "wsd")
class WarmupStableDecay(Schedule["WarmupStableDecay.Config"]):
    """Linear warm-up, the peak rate, then a short decay at the end."""

    name = "wsd"

    @dataclass(frozen=True, kw_only=True)
    class Config(ScheduleConfig):
        decay: float = option(
            0.2,
            "the decay at the end: a number of updates if 1 or more, a share of the run if below 1 (MiniCPM: 0.1; "
            "Hägele et al.: 0.1 to 0.2)",
            low=0,
        )
        shape: Literal["linear", "sqrt", "cosine"] = option(
            "sqrt", "shape of the decay; sqrt: 1 - root of the share that is done"
        )
        final_ratio: float = option(
            0.0, "learning rate that the decay aims at, as a share of the peak", low=0, high=1
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            check_updates("schedule.decay", self.decay)

    def at(self, update: int, warmup: float, end: float | None) -> float:
        """Return the factor of an update."""
        if update <= warmup:
            return update / warmup
        assert end is not None  # needs_end
        decay = self.config.decay
        start = end * (1 - decay) if decay < 1 else end - decay
        start = max(warmup, start)  # a long warm-up shortens the decay
        if update <= start + 1:
            return 1.0
        shape = SHAPES[self.config.shape](share_of(update, start, end))
        return self.config.final_ratio + (1 - self.config.final_ratio) * shape
