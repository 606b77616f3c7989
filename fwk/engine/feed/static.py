"""Static views: those that noisers without a network make of a batch, before any network runs.

They are a pure function of the batch and its draws, so they are made where the examples are read: in the data-loading
processes, and for several micro-batches in one call where every noiser allows it (`Noiser.by_row`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fwk.contracts.keyed import Key
from fwk.contracts.noiser import Noiser
from fwk.contracts.views import Batch, View
from fwk.engine.plan import BATCH


@dataclass(frozen=True)
class StaticViews:
    """A function from a batch to its static views; it pickles to data-loading processes."""

    seed: int
    noisers: Mapping[str, Noiser]  # by view, in the order in which the views are made
    parents: Mapping[str, str]  # by view: the view that it is made from

    @property
    def by_row(self) -> bool:
        """Return True where no row of any view depends on another row of the batch."""
        return all(noiser.by_row for noiser in self.noisers.values())

    def __call__(self, batch: Batch, split: str) -> dict[str, View]:
        """Return the batch and every static view of it, by name."""
        views = {BATCH: View.from_batch(batch)}
        for name, noiser in self.noisers.items():
            parent = views[self.parents[name]]
            view = noiser.apply(parent, Key(self.seed, f"{split}/{name}", parent.draws))
            padded = view.padded and not view.is_full()
            views[name] = view.replace(name=name, encoded=None, outline=False, padded=padded)
        return views
