"""Static views: those that noisers without a network make of a batch, before any network runs.

They are a pure function of the batch and its draws, so they are made where the examples are read: in the data-loading
processes, and for several micro-batches in one call where every noiser allows it (`Noiser.by_row`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fwk.contracts.keyed import Key
from fwk.contracts.noiser import Noiser
from fwk.contracts.views import Batch, View
from fwk.engine.plan import BATCH
from fwk.errors import ConfigError


@dataclass(frozen=True)
class StaticViews:
    """A function from a batch to its static views; it pickles to data-loading processes."""

    seed: int
    noisers: Mapping[str, Noiser]  # by view, in the order in which the views are made
    parents: Mapping[str, str]  # by view: the view that it is made from
    # by view of the batch: the named texts that it renders, where it renders some
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def by_row(self) -> bool:
        """Return True where no row of any view depends on another row of the batch."""
        return all(noiser.by_row for noiser in self.noisers.values())

    def __call__(self, batch: Batch, split: str) -> dict[str, View]:
        """Return the batch and every static view of it, by name."""
        views = {BATCH: View.from_batch(batch)}
        rendered = self._rendered(batch)
        for name, noiser in self.noisers.items():
            parent = rendered[name] if name in rendered else views[self.parents[name]]
            view = noiser.apply(parent, Key(self.seed, f"{split}/{name}", parent.draws))
            padded = view.padded and not view.is_full()
            views[name] = view.replace(name=name, encoded=None, outline=False, padded=padded)
        return views

    def _rendered(self, batch: Batch) -> dict[str, View]:
        """Return what views that render named texts are made of, by name; texts named alike are rendered once."""
        by_fields: dict[tuple[str, ...], View] = {}
        for name, fields in self.fields.items():
            if fields not in by_fields:
                if batch.texts is None:
                    raise ConfigError(f"views.{name}.fields", "the task has no named texts")
                by_fields[fields] = batch.texts.rendered(batch, fields, f"views.{name}.fields")
        return {name: by_fields[fields] for name, fields in self.fields.items()}
