"""Decay with the time that has passed.

Darken and Moody 1990, "search then converge"; with the square root of the time: Clark et al. 2018, "Semi-Supervised
Sequence Modeling with Cross-View Training", section 3.1.

    factor = min(u / W, 1) / (1 + k u^p)          u: number of the update, from 1; W: updates of warm-up

The decay does not depend on the end of the run, so a run can be extended at any time. CVT: lr 0.5, k = 0.005, p = 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

from fwk.components.registry import register
from fwk.contracts.options import option
from fwk.contracts.schedule import Schedule, ScheduleConfig


@register("schedule", "inverse_time")
class InverseTime(Schedule["InverseTime.Config"]):
    """Linear warm-up times 1 / (1 + rate·update^power) (CVT)."""

    name = "inverse_time"
    needs_end = False

    @dataclass(frozen=True, kw_only=True)
    class Config(ScheduleConfig):
        warmup: float = option(
            0.0,
            "linear warm-up from 0: a number of updates if 1 or more, a share of the run if below 1 (0: none)",
            low=0,
        )
        rate: float = option(0.005, "k, speed of the decay (CVT: 0.005)", low=0, high=1e6)
        power: float = option(
            0.5,
            "p, exponent of the number of the update (CVT: 0.5, the square root)",
            low=0,
            high=10,
        )

    def at(self, update: int, warmup: float, end: float | None) -> float:
        """Return the factor of an update."""
        rise = min(update / warmup if warmup else 1.0, 1.0)
        return rise / (1.0 + self.config.rate * update**self.config.power)
