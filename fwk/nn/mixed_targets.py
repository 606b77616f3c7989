"""Targets that mix a label and a teacher: l(lambda y + (1 - lambda) t, student) (Clark et al. 2019, BAM, section 3.2).

    classes, choices   lambda CE(y, z) + (1 - lambda) T^2 CE(softmax(u / T), softmax(z / T))
    several classes    lambda BCE(y, s(z)) + (1 - lambda) T^2 BCE(s(u / T), s(z / T))
    numbers            (lambda y + (1 - lambda) t - out)^2                     in the unit of the loss

z are the student's logits, u the teacher's, t its numbers, s the logistic function. The first two are linear in the
target, so with T = 1 they are the loss of the mixed target itself; T^2 keeps the size of the gradient (Hinton et al.
2015). `gold` is lambda: teacher annealing lets it rise from 0 to 1. Label smoothing applies to y alone, and class
weights apply to rows.

lambda = 1 is supervised training to the bit. For lambda below 1 a row without the label learns from the teacher alone
and is counted; for lambda = 1 it is left out. Outside of training lambda is 1: losses of the label can be compared over
the run, and splits to evaluate need no teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fwk.components.registry import registry
from fwk.contracts.context import BuildContext, Context
from fwk.contracts.options import option
from fwk.contracts.ramp import KEYS, complete_ramp, share_at
from fwk.contracts.schedule import Schedule
from fwk.contracts.texts import teacher_label
from fwk.contracts.views import View
from fwk.errors import ConfigError

ANNEALED = {"from": 0.0, "to": 1.0}
SCHEDULE = "schedule"
_LENGTH = 2**20  # updates of the run that a schedule of the teacher's part is asked about


@dataclass(frozen=True, kw_only=True)
class TeacherOptions:
    """Options of every criterion that may learn from a teacher beside its label."""

    teacher: str | None = option(
        None,
        "the criterion that teaches, which reads a frozen network (null: the stored outputs of task.teacher, where it "
        "is set)",
    )
    gold: float | dict[str, float | str] = option(
        ANNEALED,
        "with a teacher, the label's share of the target: a number, or {from, to, start, end, schedule} over the run's "
        "progress (BAM: from 0 to 1)",
        low=0,
        high=1,
    )
    temperature: float = option(
        1.0, "with a teacher, what both models' logits are divided by for its part", above=0
    )

    def __post_init__(self) -> None:
        if isinstance(self.gold, Mapping):
            _ramp_of(self.gold, "gold")


class Distillation:
    """What a criterion learns from a teacher. Without one it is supervised."""

    def __init__(self, config: TeacherOptions, build: BuildContext, label: str) -> None:
        self.label, self.criterion = label, config.teacher
        self.stored = config.teacher is None and label in build.taught
        self.temperature = config.temperature
        self.gold: float | _Annealing = 1.0
        if self.stored or self.criterion is not None:
            gold, key = config.gold, f"{build.key}.gold"
            self.gold = _Annealing(gold, key) if isinstance(gold, Mapping) else gold

    @property
    def taught(self) -> tuple[str, ...]:
        """The label whose stored outputs are learned."""
        return (self.label,) if self.stored else ()

    @property
    def teachers(self) -> tuple[str, ...]:
        """The criterion that is asked."""
        return () if self.criterion is None else (self.criterion,)

    def share(self, context: Context) -> float:
        """Return lambda, the label's share of the target."""
        if (not self.stored and self.criterion is None) or not context.training:
            return 1.0
        return self.gold.at(context.progress) if isinstance(self.gold, _Annealing) else self.gold

    def learned(self, labelled: Tensor, context: Context) -> Tensor:
        """Return what counts in the loss, bool like `labelled`: what has the label, and below 1 all."""
        return labelled if self.share(context) == 1.0 else torch.ones_like(labelled)

    def outputs(self, view: View, context: Context) -> Tensor:
        """Return the teacher's outputs, as `Criterion.teach` gives them, with a row for each row of the view."""
        if self.criterion is None:
            return view.labels[teacher_label(self.label)]
        assert context.teacher is not None
        return context.teacher(self.criterion)[self.label]

    def mixed(
        self, gold: Tensor, labelled: Tensor, soft: Callable[[], Tensor], context: Context
    ) -> Tensor:
        """Return losses that are linear in the target. gold: those of the label. soft: gives those of the teacher.

        labelled: bool, of the same shape.
        """
        share = self.share(context)
        if share == 1.0:
            return gold
        shares = share * labelled.to(gold.dtype)
        # what has no label may have any loss there
        return shares * gold.masked_fill(~labelled, 0) + (1 - shares) * soft()

    def mixed_number(
        self, gold: Tensor, labelled: Tensor, teacher: Callable[[], Tensor], context: Context
    ) -> Tensor:
        """Return the number to learn. gold, teacher: in one unit. labelled: bool, of the same shape."""
        share = self.share(context)
        if share == 1.0:
            return gold
        shares = share * labelled.to(gold.dtype)
        return shares * gold + (1 - shares) * teacher().to(gold.dtype)


def soft_cross_entropy(logits: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return T^2 CE(softmax(teacher / T), softmax(logits / T)), [R]. logits, teacher: [R, C]; -inf: no class."""
    T = temperature
    p = (teacher.to(logits.dtype) / T).softmax(-1)
    log_q = (logits / T).log_softmax(-1)
    return -T * T * (p * log_q.masked_fill(p == 0, 0)).sum(-1)


def soft_binary_cross_entropy(
    logits: Tensor, teacher: Tensor, temperature: float = 1.0, positive_weight: float = 1.0
) -> Tensor:
    """Return T^2 BCE(s(teacher / T), s(logits / T)) of each class, [R, C]. logits, teacher: [R, C]."""
    T = temperature
    weight = torch.full((logits.shape[-1],), positive_weight, dtype=logits.dtype).to(logits.device)
    p = (teacher.to(logits.dtype) / T).sigmoid()
    losses = F.binary_cross_entropy_with_logits(logits / T, p, reduction="none", pos_weight=weight)
    return T * T * losses


def require_no_temperature(config: TeacherOptions, what: str) -> None:
    """Raise ConfigError where a criterion of numbers is given a temperature."""
    if config.temperature != 1.0:
        raise ConfigError("temperature", f"softens distributions, and {what} has none; expected 1")


class _Annealing:
    """lambda over the run: from + (to - from) * share, where the share rises from 0 to 1.

    With a schedule the share is 1 minus its factor, so that the teacher's part falls as a learning rate would.
    """

    def __init__(self, options: Mapping[str, float | str], key: str) -> None:
        self.ramp = _ramp_of(options, key)
        name = options.get(SCHEDULE)
        self.schedule = None if name is None else _schedule(str(name), f"{key}.{SCHEDULE}")

    def at(self, progress: float) -> float:
        """Return lambda at some progress of the run, in [0, 1]."""
        share = share_at(self.ramp, progress)
        if self.schedule is not None:
            # a power of two, so that the schedule finds this very share
            share = 1.0 - self.schedule.at(1 + round(share * _LENGTH), 0.0, _LENGTH)
        return self.ramp["from"] + (self.ramp["to"] - self.ramp["from"]) * share


def _ramp_of(options: Mapping[str, float | str], key: str) -> dict[str, float]:
    """Return the ramp of an option. Raises ConfigError for a key or a value that it does not have."""
    for name, value in options.items():
        if name in (*KEYS, SCHEDULE) and isinstance(value, str) != (name == SCHEDULE):
            expected = "the name of a schedule" if name == SCHEDULE else "a number"
            raise ConfigError(f"{key}.{name}", f"is {value!r}, expected {expected}")
    numbers = {
        # a key that is unknown is refused there, whatever its value is
        name: 0.0 if isinstance(value, str) else value
        for name, value in options.items()
        if name != SCHEDULE
    }
    return complete_ramp(numbers, key, "share", (SCHEDULE,))


def _schedule(name: str, key: str) -> Schedule:
    """Return a schedule without warm-up. Raises ConfigError for one that counts updates."""
    cls = registry.get("schedule", name, f"given in {key}").cls
    if not cls.needs_end:
        raise ConfigError(
            key, f"'{name}' is no function of the share of the run; expected one such as cosine"
        )
    schedule: Schedule = cls(cls.Config(warmup=0.0))
    return schedule
