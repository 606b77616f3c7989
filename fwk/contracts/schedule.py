"""The contract of schedules (registry `schedule`): number of an update -> factor on the learning rate.

A schedule is a pure function without state, so a checkpoint holds nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from fwk.contracts.options import option
from fwk.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Options of every schedule."""

    warmup: float = option(
        0.06,
        "linear warm-up from 0: a number of updates if 1 or more, a share of the run if below 1 (0: none)",
        low=0,
    )

    def __post_init__(self) -> None:
        check_updates("schedule.warmup", self.warmup)


ScheduleConfigT = TypeVar("ScheduleConfigT", bound=ScheduleConfig)


class Schedule(Generic[ScheduleConfigT]):
    """Base class of schedules.

    A subclass defines `after_warmup`, or `at` if its factor is not a function of the share of the run that is done.
    With a warm-up of W updates, update u has the factor u/W: the first update already moves, and update W has the
    peak rate.
    """

    Config = ScheduleConfig
    name = "schedule"
    needs_end = True  # False: the factor after the warm-up does not depend on where the run ends

    def __init__(self, config: ScheduleConfigT) -> None:
        self.config = config

    def factor(self, update: int, total: int | None = None, progress: float | None = None) -> float:
        """Return the factor of update number `update` (the first is 1), in [0, 1].

        total: number of updates of the run, if it is known. progress: share of the run that is done before this update,
        by the limit that is nearest. If that is another limit than `total` (minutes, tokens), the end is estimated from
        the pace so far. Raises ConfigError where the end is needed and unknown.
        """
        end = estimated_end(update, total, progress)
        if end is None and (self.needs_end or 0 < self.config.warmup < 1):
            needs = f"schedule '{self.name}' needs"
            if not self.needs_end:
                needs = f"a warm-up over {self.config.warmup} of the run needs"
            raise ConfigError(
                "train.updates",
                f"{needs} to know where the run ends; set this, train.epochs, train.tokens or train.minutes",
            )
        return self.at(update, updates_of(self.config.warmup, end), end)

    def at(self, update: int, warmup: float, end: float | None) -> float:
        """Return the factor of an update (the first is 1).

        warmup, end: numbers of updates; not whole where they are shares of the run or estimates. end is None where it
        is unknown and not needed, and infinite before the first update of a run whose length is not counted in
        updates.
        """
        if update <= warmup:
            return update / warmup
        if end is None:
            return self.after_warmup(0.0)
        return self.after_warmup(share_of(update, warmup, end))

    def after_warmup(self, share: float) -> float:
        """Return the factor when `share` of the updates after the warm-up are done.

        The share is 0 at the first of these updates and below 1 at the last.
        """
        raise NotImplementedError


def updates_of(length: float, end: float | None) -> float:
    """Return a number of updates: `length` itself, or if it is below 1, that share of the run."""
    return length * end if end is not None and 0 < length < 1 else length


def share_of(update: int, start: float, end: float) -> float:
    """Return the share of the updates from `start` to `end` that is done before `update`, in [0, 1]; 1 if empty."""
    return min(1.0, max(0.0, (update - 1 - start) / (end - start))) if end > start else 1.0


def check_updates(key: str, value: float) -> None:
    """Raise ConfigError unless `value` is a whole number of updates or a share below 1."""
    if value >= 1 and value != int(value):
        raise ConfigError(
            key, f"expected a whole number of updates or a share below 1, got {value}"
        )


def estimated_end(update: int, total: int | None, progress: float | None) -> float | None:
    """Return the number of updates of the whole run, or None where nothing determines it.

    It is `total` unless `progress` shows that another limit comes first; then the end at the pace so far. Before the
    first update has ended there is no pace: the end is then `total`, or infinitely far.
    """
    if not progress:
        return total if total is not None or progress is None else float("inf")
    if total is not None and progress * total <= update + 1e-6:
        return total  # exact, so that rounding in `progress` cannot reach the learning rate
    return max(float(update), (update - 1) / progress)
