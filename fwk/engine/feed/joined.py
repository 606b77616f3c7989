"""Several successive micro-batches that were made in one call, and are cut apart when they are used.

A small micro-batch costs more in calls than in work. Where rows do not depend on their neighbours, the examples of
many micro-batches are located, read, collated, noised and moved together, and each micro-batch is a slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwk.contracts.views import View
from fwk.errors import PluginError


@dataclass(frozen=True)
class JoinedViews:
    """views: by name, with the rows of all micro-batches below each other. sizes: by name, the rows of each
    micro-batch. padded: by name, which micro-batches have padding, as if they had been made alone."""

    views: Mapping[str, View]
    sizes: Mapping[str, Sequence[int]]
    padded: Mapping[str, Sequence[bool]]

    @classmethod
    def joining(cls, views: Mapping[str, View], draws: Sequence[np.ndarray]) -> JoinedViews:
        """draws: the draw numbers of each micro-batch, ascending over all of them. A view may lack rows or repeat them:
        which micro-batch a row belongs to follows from its draw."""
        ends = np.array([own[-1] for own in draws])
        sizes, padded = {}, {}
        for name, view in views.items():
            rows = view.draws.numpy()
            if (np.diff(rows) < 0).any():
                raise PluginError(
                    f"the noiser of view '{name}' says `by_row` and reorders the rows; set by_row = False"
                )
            bounds = np.searchsorted(rows, ends, side="right")
            sizes[name] = np.diff(bounds, prepend=0).tolist()
            full = (
                [True] * len(draws)
                if not view.padded
                else [bool(part.all()) for part in view.mask.split(sizes[name])]
            )
            padded[name] = [not whole for whole in full]
        return cls(views, sizes, padded)

    def __iter__(self) -> Iterator[dict[str, View]]:
        """The views of one micro-batch after the other."""
        if all(len(sizes) == 1 for sizes in self.sizes.values()):
            yield dict(self.views)
            return
        cut: dict[tuple, Sequence[Any]] = {}  # what several fields or views share is cut once
        columns = {name: _columns(view, self.sizes[name], cut) for name, view in self.views.items()}
        for number in range(len(next(iter(self.sizes.values())))):
            views = {}
            for name, parts in columns.items():
                own = {field: part[number] for field, part in parts.items()}
                views[name] = self.views[name].replace(**own, padded=self.padded[name][number])
            yield views

    def to(self, device: torch.device) -> JoinedViews:
        return replace(self, views={name: view.to(device) for name, view in self.views.items()})

    def pin_memory(self) -> JoinedViews:
        return replace(self, views={name: view.pin_memory() for name, view in self.views.items()})


def _columns(
    view: View, sizes: Sequence[int], cut: dict[tuple, Sequence[Any]]
) -> dict[str, Sequence[Any]]:
    """The fields of a view that hold rows, cut: an entry for each micro-batch."""
    values = {field.name: getattr(view, field.name) for field in fields(view)}
    return {
        name: _cut(value, sizes, cut)
        for name, value in values.items()
        if isinstance(value, Tensor) or (isinstance(value, Mapping) and value)
    }


def _cut(value: Any, sizes: Sequence[int], cut: dict[tuple, Sequence[Any]]) -> Sequence[Any]:
    key = id(value), *sizes
    if key not in cut:
        if isinstance(value, Tensor):
            cut[key] = value.split(sizes)
        elif isinstance(value, Mapping):
            columns = {name: _cut(entry, sizes, cut) for name, entry in value.items()}
            cut[key] = [
                {name: column[number] for name, column in columns.items()}
                for number in range(len(sizes))
            ]
        else:
            cut[key] = [value] * len(sizes)
    return cut[key]
