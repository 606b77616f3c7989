"""Views of several successive micro-batches, made in one call and split when they are used.

A small micro-batch costs more in calls than in work. Where rows do not depend on their neighbours, the examples of
many micro-batches are located, read, collated, noised and moved together, and each micro-batch is a slice of them.
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

# the parts of a value, one per micro-batch, by the identity of the value and the sizes of the parts
Splits = dict[tuple[int, ...], Sequence[Any]]


@dataclass(frozen=True)
class JoinedViews:
    """The views of successive micro-batches, by name, with the rows of all micro-batches in one tensor."""

    views: Mapping[str, View]
    sizes: Mapping[str, Sequence[int]]  # by view: the rows of each micro-batch
    # by view: whether each micro-batch has padding, as if it had been made alone
    padded: Mapping[str, Sequence[bool]]

    @classmethod
    def joining(cls, views: Mapping[str, View], draws: Sequence[np.ndarray]) -> JoinedViews:
        """Return `views` with the bounds of the micro-batches that they consist of.

        draws: the draw numbers of each micro-batch, ascending over all of them. A view may lack rows or repeat them:
        the draw of a row says which micro-batch it belongs to. Raises PluginError where a view's rows are not in the
        order of their draws.
        """
        last_draws = np.array([micro_batch[-1] for micro_batch in draws])
        sizes, padded = {}, {}
        for name, view in views.items():
            row_draws = view.draws.numpy()
            if (np.diff(row_draws) < 0).any():
                raise PluginError(
                    f"the noiser of view '{name}' declares `by_row` but reorders the rows; set by_row = False"
                )
            bounds = np.searchsorted(row_draws, last_draws, side="right")
            sizes[name] = np.diff(bounds, prepend=0).tolist()
            padded[name] = _padding_per_part(view, sizes[name])
        return cls(views, sizes, padded)

    def __iter__(self) -> Iterator[dict[str, View]]:
        """Yield the views of one micro-batch after another."""
        if all(len(sizes) == 1 for sizes in self.sizes.values()):
            yield dict(self.views)
            return

        splits: Splits = {}  # a value that several fields or views share is split once
        columns = {
            name: _split_fields(view, self.sizes[name], splits) for name, view in self.views.items()
        }
        for number in range(len(next(iter(self.sizes.values())))):
            views = {}
            for name, parts in columns.items():
                values = {field: part[number] for field, part in parts.items()}
                views[name] = self.views[name].replace(**values, padded=self.padded[name][number])
            yield views

    def to(self, device: torch.device) -> JoinedViews:
        """Return the same views on `device`."""
        return replace(self, views={name: view.to(device) for name, view in self.views.items()})

    def pin_memory(self) -> JoinedViews:
        """Return the same views in pinned memory (called by torch's DataLoader)."""
        return replace(self, views={name: view.pin_memory() for name, view in self.views.items()})


def _padding_per_part(view: View, sizes: Sequence[int]) -> list[bool]:
    if not view.padded or view.mask is None:
        return [False] * len(sizes)
    return [not bool(part.all()) for part in view.mask.split(sizes)]


def _split_fields(view: View, sizes: Sequence[int], splits: Splits) -> dict[str, Sequence[Any]]:
    """Return the fields of a view that hold rows, each as one part per micro-batch."""
    values = {field.name: getattr(view, field.name) for field in fields(view)}
    return {
        name: _split(value, sizes, splits)
        for name, value in values.items()
        if isinstance(value, Tensor) or (isinstance(value, Mapping) and value)
    }


def _split(value: object, sizes: Sequence[int], splits: Splits) -> Sequence[Any]:
    key = id(value), *sizes
    if key not in splits:
        if isinstance(value, Tensor):
            splits[key] = value.split(sizes)
        elif isinstance(value, Mapping):
            columns = {name: _split(entry, sizes, splits) for name, entry in value.items()}
            splits[key] = [
                {name: column[number] for name, column in columns.items()}
                for number in range(len(sizes))
            ]
        else:
            splits[key] = [value] * len(sizes)
    return splits[key]
