"""Linear warm-up, then linear decay (BERT's schedule)."""

from __future__ import annotations

from dataclasses import dataclass

from fwk.components.registry import register
from fwk.contracts.options import option
from fwk.contracts.schedule import Schedule, ScheduleConfig


@register("schedule", "linear")
class Linear(Schedule["Linear.Config"]):
    """Linear warm-up, then linear decay (BERT)."""

    name = "linear"

    @dataclass(frozen=True, kw_only=True)
    class Config(ScheduleConfig):
        final_ratio: float = option(
            0.0, "learning rate that the decay aims at, as a share of the peak", low=0, high=1
        )

    def after_warmup(self, share: float) -> float:
        """Return a line from 1 to `final_ratio`."""
        return self.config.final_ratio + (1 - self.config.final_ratio) * (1 - share)
