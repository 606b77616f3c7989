"""Frozen networks, and the criteria that teach others with them.

A network that is `frozen` is encoded without dropout and gradient, and no optimizer, phase or hook trains it. A
criterion that reads encodings of frozen networks alone is a teacher: its head comes from the source of its network and
is frozen, too. It has no loss and predicts nothing; other criteria ask it for its outputs while they train
(`Context.teacher`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from fwk.config.spec import ViewSpec
from fwk.contracts.criterion import Criterion
from fwk.contracts.task import Task
from fwk.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Teachers:
    """The frozen networks of an objective, and the criteria that teach with them."""

    networks: frozenset[str]
    labels: tuple[str, ...]

    @classmethod
    def of(
        cls,
        encodes: Mapping[str, Sequence[str]],
        views: Mapping[str, ViewSpec],
        frozen: Collection[str],
    ) -> Teachers:
        """Return the teachers. encodes: by criterion, the views whose encodings it reads. frozen: networks."""
        labels = tuple(
            label
            for label, names in encodes.items()
            if names and all(views[name].encoder in frozen for name in names)
        )
        return cls(frozenset(frozen), labels)

    def asked_by(self, criteria: Iterable[Criterion]) -> list[str]:
        """Return the teachers that these criteria ask."""
        asked = {name for criterion in criteria for name in criterion.teachers}
        return [label for label in self.labels if label in asked]

    def is_frozen(self, parameter: str) -> bool:
        """Return whether a parameter of this name is never trained."""
        kind, _, rest = parameter.partition(".")
        names = {"networks": self.networks, "criteria": self.labels}.get(kind, ())
        return rest.partition(".")[0] in names

    def switch_dropout_off(self, networks: nn.ModuleDict, criteria: nn.ModuleDict) -> None:
        """Put what is frozen into evaluation mode."""
        for modules, names in ((networks, self.networks), (criteria, self.labels)):
            for name in names:
                modules[name].eval()


def check_teachers(task: Task, criteria: Mapping[str, Criterion], teachers: Teachers) -> None:
    """Raise ConfigError where criteria and their teachers do not fit each other, or stored outputs are not learned."""
    for label, criterion in criteria.items():
        for name in criterion.teachers:
            if name not in teachers.labels:
                listed = ", ".join(teachers.labels)
                known = f"; the teachers are {listed}" if listed else ""
                raise ConfigError(
                    f"criterion.{label}.teacher",
                    f"'{name}' is no criterion that reads a view of a frozen network (networks.NAME.frozen)"
                    f"{did_you_mean(name, teachers.labels) or known}",
                )
    asked = teachers.asked_by(criteria.values())
    for name in teachers.labels:
        if name not in asked:
            raise ConfigError(
                f"criterion.{name}",
                "reads a frozen network alone, so it has nothing to train; expected another criterion with "
                f"teacher: {name}",
            )
    learned = {label for criterion in criteria.values() for label in criterion.taught}
    for label in task.taught():
        if label not in learned:
            raise ConfigError(
                "task.teacher",
                f"has outputs for the label '{label}', and no criterion learns from them; expected one such as "
                "classification for this label, without a teacher of its own",
            )
