"""The contract of schedules (registry `schedule`): a pure function from the number of an update to the factor that the
learning rate is multiplied with. A schedule holds no state, so a resumed run needs to save nothing of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fwk.contracts.options import option
from fwk.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """What every schedule has."""

    warmup: float = option(
        0.06,
        "linear warm-up from 0: a number of updates if 1 or more, a share of the run if below 1 (0: none)",
        low=0,
    )

    def __post_init__(self) -> None:
        check_updates("schedule.warmup", self.warmup)


class Schedule:
    """Base class of schedules. Subclasses implement `after_warmup`, or `at` where a share of the run does not say it.

    The warm-up of W updates gives update u the factor u/W, so the first update already moves and update W has the
    peak rate.
    """

    Config = ScheduleConfig
    name = "schedule"
    needs_end = True  # False: the factor after the warm-up does not depend on where the run ends

    def __init__(self, config: Any):
        self.config = config

    def factor(self, update: int, total: int | None = None, progress: float | None = None) -> float:
        """The factor of update number `update` (the first one is 1), in [0, 1].

        total: number of updates of the run, where it is known. progress: share of the run done before this update,
        counted by whichever limit is nearest. When that is another limit than `total` (minutes, tokens), the end is
        estimated from the pace so far. Raises ConfigError when the end is needed and nothing says where it is.
        """
        end = estimated_end(update, total, progress)
        if end is None and (self.needs_end or 0 < self.config.warmup < 1):
            who = (
                f"schedule '{self.name}'"
                if self.needs_end
                else f"a warm-up over {self.config.warmup} of the run"
            )
            raise ConfigError(
                "train.updates",
                f"{who} needs to know where the run ends; set this, train.epochs, train.tokens or train.minutes",
            )
        return self.at(update, updates_of(self.config.warmup, end), end)

    def at(self, update: int, warmup: float, end: float | None) -> float:
        """The factor of an update, the first being 1. warmup and end: numbers of updates, fractions included where they
        are shares of the run or estimates; end is None where nothing says it and nothing needs it, and infinite before
        the first update of a run whose length is not counted in updates."""
        if update <= warmup:
            return update / warmup
        if end is None:
            return self.after_warmup(0.0)
        return self.after_warmup(share_of(update, warmup, end))

    def after_warmup(self, share: float) -> float:
        """The factor when `share` of the updates after the warm-up are done: 0 at the first of them, below 1 at the
        last."""
        raise NotImplementedError


def updates_of(length: float, end: float | None) -> float:
    """A number of updates as options name it: itself, or below 1 a share of the whole run."""
    return length * end if 0 < length < 1 else length


def share_of(update: int, start: float, end: float) -> float:
    """How much of the stretch from `start` to `end` is done before this update, in [0, 1]; 1 where it has no length."""
    return min(1.0, max(0.0, (update - 1 - start) / (end - start))) if end > start else 1.0


def check_updates(key: str, value: float) -> None:
    """ConfigError unless this is a whole number of updates or a share below 1."""
    if value >= 1 and value != int(value):
        raise ConfigError(
            key, f"expected a whole number of updates or a share below 1, {value} was given"
        )


def estimated_end(update: int, total: int | None, progress: float | None) -> float | None:
    """Number of updates of the whole run: `total` unless `progress` shows that another limit comes first, then the
    end at the pace so far; None when neither is known. Before the first update has ended there is no pace: the end
    is then taken to be `total`, or infinitely far."""
    if not progress:
        return total if total is not None or progress is None else float("inf")
    if total is not None and progress * total <= update + 1e-6:
        return total  # exact, so that rounding in `progress` cannot leak into the learning rate
    return max(float(update), (update - 1) / progress)
