"""Rules for learning-rate schedules."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fwk.components.registry import registry
from fwk.config.resolve import build as build_config
from fwk.contracts.plain import PlainMapping
from fwk.contracts.schedule import Schedule
from fwk.testing.subject import Rule, Subject


def _schedule(name: str, options: PlainMapping) -> Schedule:
    cls = registry.get("schedule", name).cls
    return cls(build_config(cls, options))


def _factors(schedule: Schedule, total: int | None) -> list[float]:
    """Return the factor of every update of a run of `total` updates (None: a run of unknown length)."""
    end = total or 300
    return [schedule.factor(update, total, (update - 1) / end) for update in range(1, end + 1)]


def schedule_is_a_factor(name: str, options: PlainMapping) -> str:
    """Check that every factor lies in [0, 1], for runs of any length and any warm-up."""
    for warmup in (0.0, 1.0, 7.0, 500.0, 0.3):
        schedule = _schedule(name, {**options, "warmup": warmup})
        for total in (1, 2, 3, 10, 300, None):
            for update, factor in enumerate(_factors(schedule, total), 1):
                if not 0 <= factor <= 1:
                    return (
                        f"update {update} of {total} after a warm-up of {warmup:g} "
                        f"has the factor {factor}"
                    )
    return ""


def schedule_is_pure(name: str, options: PlainMapping) -> str:
    """Check that a factor does not depend on earlier calls, so that a resumed run has the same rates."""
    forwards = _factors(_schedule(name, options), 50)
    schedule = _schedule(name, options)
    backwards = [schedule.factor(update, 50, (update - 1) / 50) for update in range(50, 0, -1)]
    if backwards[::-1] != forwards:
        return "the factors are different when they are asked for in reverse order"
    return ""


SCHEDULE_RULES: dict[str, Callable[[str, PlainMapping], str]] = {
    "a factor": schedule_is_a_factor,
    "pure": schedule_is_pure,
}


def schedule_rules(subject: Subject) -> dict[str, Rule]:
    """Return the rules for a schedule."""
    return {
        name: partial(rule, subject.name, subject.options) for name, rule in SCHEDULE_RULES.items()
    }
