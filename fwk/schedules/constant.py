"""Linear warm-up, then the peak rate to the end."""

from __future__ import annotations

from dataclasses import dataclass

from fwk.components.registry import register
from fwk.contracts.schedule import Schedule, ScheduleConfig


@register("schedule", "constant")
class Constant(Schedule["Constant.Config"]):
    """Linear warm-up, then the peak rate to the end."""

    name = "constant"
    needs_end = False

    @dataclass(frozen=True, kw_only=True)
    class Config(ScheduleConfig):
        pass

    def after_warmup(self, share: float) -> float:
        """Return 1."""
        return 1.0
