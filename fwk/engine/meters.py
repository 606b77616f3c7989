"""Sums and counts of what is logged. An update's numbers are begun, then committed or rolled back, so that an update
skipped under fp16 leaves no trace; only at the log line do sums cross ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fwk.engine.distributed import World, sum_named

if TYPE_CHECKING:
    from fwk.engine.module import ObjectiveModule


class Meters:
    """Additive float64 tensors by name, of this rank, since the last log line."""

    def __init__(self):
        self.window: dict[str, Tensor] = {}
        self.pending: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor | float], prefix: str = "") -> None:
        for name, value in values.items():
            value = value.detach().double() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
            have = self.pending.get(prefix + name)
            self.pending[prefix + name] = value if have is None else have + value

    def commit(self) -> None:
        for name, value in self.pending.items():
            have = self.window.get(name)
            self.window[name] = value if have is None else have + value
        self.pending = {}

    def rollback(self) -> None:
        self.pending = {}

    def read(self, world: World) -> dict[str, Tensor]:
        """The global sums; the window starts anew."""
        sums = sum_named(world, self.window)
        self.window = {}
        return sums

    def state(self, world: World) -> dict[str, Tensor]:
        """Every rank's window, `rank/name`, on every rank: a sum over ranks taken now and continued later would add in
        another order than one taken once."""
        mine = {f"{world.rank}/{name}": value for name, value in self.window.items()}
        return sum_named(world, mine)

    def load(self, state: Mapping[str, Tensor], world: World, saved_world_size: int) -> None:
        """Own window back; on another world size rank 0 takes the sum of all."""
        self.window = {}
        for path in sorted(state):
            rank, name = path.split("/", 1)
            if saved_world_size == world.size and int(rank) != world.rank or saved_world_size != world.size and world.rank:
                continue
            value = state[path].to(world.device)
            self.window[name] = self.window[name] + value if name in self.window else value


def means(sums: Mapping[str, Tensor], prefix: str = "sum:") -> dict[str, float]:
    """`sum:x` over `count:x` for every x; 0 where the count is 0."""
    found = {}
    for path, total in sums.items():
        if path.startswith(prefix):
            count = float(sums.get("count:" + path[len(prefix):], torch.tensor(0.0)))
            found[path[len(prefix):]] = float(total) / count if count else 0.0
    return found


def component_metrics(module: ObjectiveModule, sums: Mapping[str, Tensor]) -> dict[str, float]:
    """Named statistics -> numbers: each component's own, by 'component/name'."""
    metrics: dict[str, float] = {}
    for name, component in (*module.criteria.items(), *module.learned.items()):
        prefix = f"stat:{name}/"
        own = {path[len(prefix):]: value for path, value in sums.items() if path.startswith(prefix)}
        if own:
            metrics.update({f"{name}/{key}": value for key, value in component.metrics(own).items()})
    return metrics
