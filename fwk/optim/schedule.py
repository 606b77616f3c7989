"""The contract of schedules (registry `schedule`): a pure function from the number of an update to the factor that the
learning rate is multiplied with. A schedule holds no state, so a resumed run needs to save nothing of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fwk.config import option
from fwk.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """What every schedule has."""

    warmup: float = option(
        0.06, "linear warm-up from 0: a number of updates if 1 or more, a share of the run if below 1 (0: none)", low=0
    )

    def __post_init__(self) -> None:
        if self.warmup >= 1 and self.warmup != int(self.warmup):
            raise ConfigError(
                "schedule.warmup", f"expected a whole number of updates or a share below 1, {self.warmup} was given"
            )


class Schedule:
    """Base class of schedules. Subclasses implement `after_warmup`.

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
            who = f"schedule '{self.name}'" if self.needs_end else f"a warm-up over {self.config.warmup} of the run"
            raise ConfigError(
                "train.updates",
                f"{who} needs to know where the run ends; set this, train.epochs, train.tokens or train.minutes",
            )
        warmup = self.config.warmup
        if 0 < warmup < 1:
            warmup *= end
        if update <= warmup:
            return update / warmup
        if end is None:
            return self.after_warmup(0.0)
        done, rest = update - 1 - warmup, end - warmup
        return self.after_warmup(min(1.0, max(0.0, done / rest)) if rest > 0 else 1.0)

    def after_warmup(self, share: float) -> float:
        """The factor when `share` of the updates after the warm-up are done: 0 at the first of them, below 1 at the
        last."""
        raise NotImplementedError


def estimated_end(update: int, total: int | None, progress: float | None) -> float | None:
    """Number of updates of the whole run: `total` unless `progress` shows that another limit comes first, then the
    end at the pace so far; None when neither is known. Before the first update has ended there is no pace: the end
    is then taken to be `total`, or infinitely far."""
    if not progress:
        return total if total is not None or progress is None else float("inf")
    if total is not None and progress * total <= update + 1e-6:
        return total  # exact, so that rounding in `progress` cannot leak into the learning rate
    return max(float(update), (update - 1) / progress)
