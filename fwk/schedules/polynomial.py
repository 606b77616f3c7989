"""Linear warm-up, then a polynomial down (BERT's and RoBERTa's released trainers, with power 1).

    factor = final_ratio + (1 - final_ratio)·(1 - share)^power

share: the share of the updates after the warm-up that is done.
"""

from __future__ import annotations

from dataclasses import dataclass

from fwk.components.registry import register
from fwk.contracts.options import option
from fwk.contracts.schedule import Schedule, ScheduleConfig


@register("schedule", "polynomial")
class Polynomial(Schedule["Polynomial.Config"]):
    """Linear warm-up, then polynomial decay."""

    name = "polynomial"

    @dataclass(frozen=True, kw_only=True)
    class Config(ScheduleConfig):
        power: float = option(
            2.0, "exponent of the share of the run that is left (1: linear)", above=0
        )
        final_ratio: float = option(
            0.0, "learning rate that the decay aims at, as a share of the peak", low=0, high=1
        )

    def after_warmup(self, share: float) -> float:
        """Return a power of the share that is left, from 1 to `final_ratio`."""
        final = self.config.final_ratio
        return final + (1 - final) * (1 - share) ** self.config.power
