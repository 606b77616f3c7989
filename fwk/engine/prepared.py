"""Tensors that criteria prepare before counts are taken: they are exchanged over all micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fwk.contracts.context import Context
from fwk.contracts.criterion import Criterion
from fwk.contracts.views import View
from fwk.engine.parts import Part
from fwk.engine.ranks.world import World
from fwk.engine.update import MicroBatch
from fwk.errors import RunError, did_you_mean


def prepare_tensors(
    part: Part, views: Mapping[str, View], micro: MicroBatch, context: Context
) -> None:
    """Let a criterion prepare its tensors of a micro-batch, and note which draws their rows are of."""
    criterion = part.component
    assert isinstance(criterion, Criterion)  # learned noisers prepare views, not tensors
    readable = part.views_of(views)
    tensors = criterion.prepare(readable, context)
    micro.prepared[part.name] = tensors
    micro.prepared_draws[part.name] = {
        name: _draws_of(part.name, name, rows, readable) for name, rows in tensors.items()
    }


@torch.no_grad()
def exchange(micros: Sequence[MicroBatch], world: World) -> None:
    """Give every micro-batch the prepared rows of the whole update, in draw order.

    The micro-batches of all ranks of `world` take part, so every rank must call this.
    """
    for label, tensors in micros[0].prepared.items():
        for name in tensors:
            draws_of_each = [micro.prepared_draws[label][name] for micro in micros]
            draws = world.gather_rows(torch.cat(draws_of_each))
            order = draws.argsort()
            position = {draw: row for row, draw in enumerate(draws[order].tolist())}
            rows = world.gather_rows(torch.cat([micro.prepared[label][name] for micro in micros]))[
                order
            ]
            for micro, draws_of_one in zip(micros, draws_of_each):
                positions = torch.tensor(
                    [position[draw] for draw in draws_of_one.tolist()],
                    dtype=torch.int64,
                    device=rows.device,
                )
                micro.over_update.setdefault(label, {})[name] = (rows, positions)


def _draws_of(label: str, name: str, rows: Tensor, views: Mapping[str, View]) -> Tensor:
    """Return the draw numbers of a prepared tensor's rows: those of the first view with as many rows."""
    for view in views.values():
        if len(view) == len(rows):
            return view.draws
    raise RunError(
        f"criterion '{label}' prepared '{name}' with {len(rows)} rows, but none of its views has as many"
    )


def over_update(micro: MicroBatch, component: str, name: str) -> tuple[Tensor, Tensor]:
    """Return `context.over_update(name)` of a component."""
    rows = micro.over_update.get(component, {})
    if name not in rows:
        raise RunError(
            f"'{component}' asks for '{name}' over the update, which its `prepare` did not return"
            f"{did_you_mean(name, rows)}"
        )
    return rows[name]
