"""Sums and counts of what is logged. An update's numbers are begun, then committed or rolled back, so that an update
skipped under fp16 leaves no trace; only at the log line do sums cross ranks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fwk.engine.ranks.world import World, sum_named
from fwk.engine.update import StepOutput


class Meters:
    """Additive float64 numbers by name, of this rank, since the last log line. A number on the CPU is kept as a Python
    float, whose sums are those of a float64 tensor; what is on a device is not waited for."""

    def __init__(self):
        self._window: dict[str, Tensor | float] = {}
        self._pending: dict[str, Tensor | float] = {}

    @property
    def window(self) -> dict[str, Tensor]:
        """What was committed."""
        return _tensors(self._window)

    @property
    def pending(self) -> dict[str, Tensor]:
        """What the update under way has added so far."""
        return _tensors(self._pending)

    def add(self, values: Mapping[str, Tensor | float], prefix: str = "") -> None:
        for name, value in values.items():
            if isinstance(value, Tensor):
                at_hand = value.dim() == 0 and value.device.type == "cpu"
                value = value.item() if at_hand else value.detach().double()
            _add(self._pending, prefix + name, value)

    def record(self, output: StepOutput, loss: Tensor) -> None:
        """Add what a micro-batch contributed: its share of the loss, sums and statistics."""
        self.add({"loss": loss})
        self.add(output.sums, "sum:")
        self.add(output.statistics, "stat:")

    def commit(self) -> None:
        for name, value in self._pending.items():
            _add(self._window, name, value)
        self._pending = {}

    def rollback(self) -> None:
        self._pending = {}

    def read(self, world: World) -> dict[str, Tensor]:
        """The global sums; the window starts anew."""
        sums = sum_named(world, self.window)
        self._window = {}
        return sums

    def state(self, world: World) -> dict[str, Tensor]:
        """Every rank's window, `rank/name`, on every rank: a sum over ranks taken now and continued later would add in
        another order than one taken once."""
        mine = {f"{world.rank}/{name}": value for name, value in self.window.items()}
        return sum_named(world, mine)

    def load(self, state: Mapping[str, Tensor], world: World, saved_world_size: int) -> None:
        """Own window back; on another world size rank 0 takes the sum of all."""
        self._window = {}
        for path in sorted(state):
            rank, name = path.split("/", 1)
            if (
                saved_world_size == world.size
                and int(rank) != world.rank
                or saved_world_size != world.size
                and world.rank
            ):
                continue
            value = state[path]
            _add(self._window, name, value.item() if value.dim() == 0 else value.to(world.device))


def _add(sums: dict[str, Tensor | float], name: str, value: Tensor | float) -> None:
    sums[name] = sums[name] + value if name in sums else value


def _tensors(sums: Mapping[str, Tensor | float]) -> dict[str, Tensor]:
    return {name: torch.as_tensor(value, dtype=torch.float64) for name, value in sums.items()}


def means(sums: Mapping[str, Tensor], prefix: str = "sum:") -> dict[str, float]:
    """`sum:x` over `count:x` for every x; 0 where the count is 0."""
    found = {}
    for path, total in sums.items():
        if path.startswith(prefix):
            count = float(sums.get("count:" + path[len(prefix) :], torch.tensor(0.0)))
            found[path[len(prefix) :]] = float(total) / count if count else 0.0
    return found
