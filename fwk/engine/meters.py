"""Sums and counts of what is logged.

The numbers of an update are pending until they are committed or rolled back, so that an update skipped under
fp16 leaves no trace. Only at a log line are they summed over ranks.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fwk.engine.ranks.world import World, sum_named
from fwk.engine.update import StepOutput

Number = Tensor | float


class Meters:
    """Additive float64 numbers of this rank since the last log line, by name.

    A number on the CPU is kept as a Python float, whose sums are those of a float64 tensor. A number on another device
    stays there: nothing waits for it before the log line.
    """

    def __init__(self) -> None:
        self._window: dict[str, Number] = {}
        self._pending: dict[str, Number] = {}

    @property
    def window(self) -> dict[str, Tensor]:
        """The numbers of committed updates."""
        return _tensors(self._window)

    @property
    def pending(self) -> dict[str, Tensor]:
        """The numbers of the update under way."""
        return _tensors(self._pending)

    def add(self, values: Mapping[str, Number], prefix: str = "") -> None:
        """Add numbers to the update under way. prefix: put before each name."""
        for name, value in values.items():
            if isinstance(value, Tensor):
                on_cpu = value.dim() == 0 and value.device.type == "cpu"
                value = value.item() if on_cpu else value.detach().double()
            _add(self._pending, prefix + name, value)

    def record(self, output: StepOutput, loss: Tensor) -> None:
        """Add what a micro-batch contributed: its share of the loss, sums and statistics."""
        self.add({"loss": loss})
        self.add(output.sums, "sum:")
        self.add(output.statistics, "stat:")

    def commit(self) -> None:
        """Count the update under way."""
        for name, value in self._pending.items():
            _add(self._window, name, value)
        self._pending = {}

    def rollback(self) -> None:
        """Forget the update under way."""
        self._pending = {}

    def read(self, world: World) -> dict[str, Tensor]:
        """Return the sums over all ranks, and start a new window."""
        sums = sum_named(world, self.window)
        self._window = {}
        return sums

    def state(self, world: World) -> dict[str, Tensor]:
        """Return every rank's window as 'rank/name', on every rank.

        Stored per rank: summing over ranks before a restart would change the order of additions, and so the last bit.
        """
        window = {f"{world.rank}/{name}": value for name, value in self.window.items()}
        return sum_named(world, window)

    def load(self, state: Mapping[str, Tensor], world: World, saved_world_size: int) -> None:
        """Restore this rank's window; with another world size, rank 0 gets the sum of all windows."""
        self._window = {}
        for path in sorted(state):
            saved_rank, name = path.split("/", 1)
            rank = int(saved_rank) if saved_world_size == world.size else 0
            if rank == world.rank:
                value = state[path]
                number = value.item() if value.dim() == 0 else value.to(world.device)
                _add(self._window, name, number)


def means(sums: Mapping[str, Tensor], prefix: str = "sum:") -> dict[str, float]:
    """Return `sum:x` over `count:x` for every x; 0 where the count is 0."""
    quotients = {}
    for path, total in sums.items():
        if path.startswith(prefix):
            name = path.removeprefix(prefix)
            count = float(sums.get(f"count:{name}", 0.0))
            quotients[name] = float(total) / count if count else 0.0
    return quotients


def _add(sums: dict[str, Number], name: str, value: Number) -> None:
    sums[name] = sums[name] + value if name in sums else value


def _tensors(sums: Mapping[str, Number]) -> dict[str, Tensor]:
    return {name: torch.as_tensor(value, dtype=torch.float64) for name, value in sums.items()}
