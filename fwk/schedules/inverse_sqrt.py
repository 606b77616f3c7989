"""Linear warm-up, then decay with the inverse square root of the number of the update.

Vaswani et al. 2017, "Attention is all you need", equation 3, as a share of its peak:

    factor = min(u / W, √(W / u))          u: number of the update, from 1; W: updates of warm-up, at least 1

The decay does not depend on the end of the run: a run can be extended at any time, and its rate never reaches 0. The
warm-up is also the time scale of the decay, so set it in updates where the length of the run may change. Deviation: the
paper's factor width^-0.5·W^-0.5 is `optimizer.lr`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fwk.components.registry import register
from fwk.contracts.options import option
from fwk.contracts.schedule import Schedule, ScheduleConfig


@register("schedule", "inverse_sqrt")
class InverseSqrt(Schedule["InverseSqrt.Config"]):
    """Linear warm-up, then decay with the inverse square root of the update (Transformer)."""

    name = "inverse_sqrt"
    needs_end = False

    @dataclass(frozen=True, kw_only=True)
    class Config(ScheduleConfig):
        warmup: float = option(
            4000.0,
            "linear warm-up from 0, and time scale of the decay: a number of updates if 1 or more, a share of "
            "the run if below 1 (paper: 4000)",
            low=0,
        )

    def at(self, update: int, warmup: float, end: float | None) -> float:
        """Return the factor of an update."""
        return update / warmup if update <= warmup else math.sqrt(max(1.0, warmup) / update)
