"""A phase of training: what is trained and which losses are used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Phase:
    """name: tells phases apart, and is saved. frozen: glob patterns over parameter names that are not trained in this
    phase. off: labels of criteria, and views of learned noisers, whose losses are left out in this phase, with every view
    that only they need. copy: target prefix -> source prefix, parameters copied when the phase begins (not when it is
    resumed). reset_optimizer: forget moments when the phase begins. restart_schedule: the learning rate's schedule runs
    anew over what is left of the run."""

    name: str
    frozen: tuple[str, ...] = ()
    off: tuple[str, ...] = ()
    copy: Mapping[str, str] = field(default_factory=dict)
    reset_optimizer: bool = False
    restart_schedule: bool = False

    def to_state(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Phase:
        return cls(
            name=state["name"],
            frozen=tuple(state["frozen"]),
            off=tuple(state["off"]),
            copy=dict(state["copy"]),
            reset_optimizer=state["reset_optimizer"],
            restart_schedule=state["restart_schedule"],
        )
