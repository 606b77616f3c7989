"""A phase of training: what is trained, and with which losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from fwk.contracts.plain import PlainDict, PlainMapping


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What the hook `fwk_phase` returns. The engine changes phase where the name changes."""

    name: str  # saved in the checkpoint
    frozen: tuple[str, ...] = ()  # glob patterns over names of parameters that are not trained
    # labels of criteria and views of learned noisers whose losses are left out, with every view that only they need
    off: tuple[str, ...] = ()
    # target prefix -> source prefix of parameters that are copied when the phase begins, but not when it is resumed
    copy: Mapping[str, str] = field(default_factory=dict)
    reset_optimizer: bool = False  # forget the optimizer's moments when the phase begins
    restart_schedule: bool = False  # run the learning-rate schedule anew over the rest of the run

    def to_state(self) -> PlainDict:
        """Return the phase as JSON data, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: PlainMapping) -> Phase:
        """Return the phase that `to_state` described."""
        return cls(
            name=state["name"],
            frozen=tuple(state["frozen"]),
            off=tuple(state["off"]),
            copy=dict(state["copy"]),
            reset_optimizer=state["reset_optimizer"],
            restart_schedule=state["restart_schedule"],
        )
