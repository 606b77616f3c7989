"""Static views: those that noisers without a network make of a batch, before any network runs.

They are a pure function of the batch and its draws, so they are made where the examples are read: in the data-loading
processes, and for several micro-batches in one call where every noiser allows it (`Noiser.by_row`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fwk.config.spec import ViewSpec
from fwk.contracts.keyed import Key
from fwk.contracts.noiser import Noiser
from fwk.contracts.views import Batch, View
from fwk.engine.plan import BATCH
from fwk.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class StaticViews:
    """A function from a batch to its static views; it pickles to data-loading processes."""

    seed: int
    noisers: Mapping[str, Noiser]  # by view, in the order in which the views are made
    parents: Mapping[str, str]  # by view: the view that it is made from
    # by view of the batch: the named texts that it renders, where it renders some
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # by view of the batch: the task whose examples it shows, where it does not show all
    parts: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, seed: int, views: Mapping[str, ViewSpec], noisers: Mapping[str, Noiser]
    ) -> StaticViews:
        """Return the function that makes these views, in this order. noisers: by view."""
        return cls(
            seed,
            {name: noisers[name] for name in views},
            {name: spec.of or BATCH for name, spec in views.items()},
            {name: spec.fields for name, spec in views.items() if spec.fields},
            {name: spec.part for name, spec in views.items() if spec.part is not None},
        )

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
        """Return what views of texts or parts are made of, by name; what is stated alike is rendered once."""
        made: dict[tuple[str | None, tuple[str, ...]], View] = {}  # by part and fields
        sources: dict[str, View] = {}  # by view
        for name in {**self.fields, **self.parts}:
            part, fields = self.parts.get(name), self.fields.get(name, ())
            if (part, fields) not in made:
                made[part, fields] = _source(batch, part, fields, f"views.{name}")
            sources[name] = made[part, fields]
        return sources


def _source(batch: Batch, part: str | None, fields: tuple[str, ...], key: str) -> View:
    """Return a batch, or a part of it, as the view that renders these texts. key: of the view, for errors."""
    if part is not None:
        if part not in batch.parts:
            raise ConfigError(
                f"{key}.part", f"the batch has no part '{part}'{did_you_mean(part, batch.parts)}"
            )
        batch = batch.parts[part]
    if not fields:
        return View.from_batch(batch)
    if batch.texts is None:
        raise ConfigError(f"{key}.fields", "the task has no named texts")
    return batch.texts.rendered(batch, fields, f"{key}.fields")
