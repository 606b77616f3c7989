"""A part of the batch, with unchanged rows: those of some sources, or those with (or without) a label.

A criterion on such a view reads only these sequences: a supervised one the labelled rows, a consistency loss the
unlabelled ones. A micro-batch may have no such row; the view then has B = 0, and its counts are 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from fwk.components.registry import register
from fwk.contracts.context import BuildContext, Context
from fwk.contracts.keyed import Key
from fwk.contracts.noiser import Noiser
from fwk.contracts.options import option
from fwk.contracts.views import View, map_tensors
from fwk.errors import ConfigError, did_you_mean


@register("noiser", "rows")
class Rows(Noiser["Rows.Config"]):
    """Keeps the rows of the named sources, or those of them that have (or lack) a label."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        sources: tuple[str, ...] = option(
            (), "names of the sources whose rows are kept (empty: all)"
        )
        without: tuple[str, ...] = option(
            (), "names of sources whose rows are left out, where the task has them"
        )
        label: str | None = option(
            None, "keep the rows that have this label, which is >= 0 there (null: labelled or not)"
        )
        unlabelled: bool = option(
            False, "keep the rows without that label instead, where it is < 0"
        )

        def __post_init__(self) -> None:
            if self.unlabelled and self.label is None:
                raise ValueError("unlabelled rows of which label? set 'label'")

    by_row = True
    chooses = False

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        if config.label is not None and build.labels and config.label not in build.labels:
            raise ConfigError(
                f"views.{build.name}.label",
                f"the task has no label '{config.label}'{did_you_mean(config.label, build.labels)}",
            )
        self.kinds = build.label_kinds
        # the positions of sources in `Batch.source`; unknown where a model is used without its data
        self.kept = _numbers_of(config.sources, build) if build.sources else None
        self.excluded = [build.sources.index(n) for n in config.without if n in build.sources]

    def apply(self, source: View, key: Key, context: Context | None = None) -> View:
        """Return the rows that are kept."""
        keep = torch.ones(len(source), dtype=torch.bool, device=source.draws.device)  # [B]
        if self.config.sources:
            keep &= _is_in(self._source_of_rows(source), self.kept or [])
        if self.excluded:
            keep &= ~_is_in(self._source_of_rows(source), self.excluded)
        if self.config.label is not None:
            keep &= self._has_label(source, self.config.label) != self.config.unlabelled
        return keep_rows(source, keep)

    def _source_of_rows(self, view: View) -> Tensor:
        """Return the number of each row's source, int64 [B]. Raises ConfigError where it is unknown."""
        if self.kept is None or view.source is None:
            raise ConfigError(
                f"views.{self.view}.sources",
                "the batch does not say which sources its rows are from",
            )
        return view.source

    def _has_label(self, view: View, label: str) -> Tensor:
        """Return which rows have the label, bool [B]: a value >= 0, or a number; of several values, one is enough."""
        if label not in view.labels:
            raise ConfigError(
                f"views.{self.view}.label",
                f"the batch has no label '{label}'{did_you_mean(label, view.labels)}",
            )
        values = view.labels[label]  # [B] or [B, ...]
        # numbers may be negative, and are NaN where they are absent; absent classes are -1
        by_kind = self.kinds.get(label) in ("number", "numbers")
        labelled = ~values.isnan() if by_kind else values >= 0
        return labelled.flatten(1).any(1) if labelled.dim() > 1 else labelled


def _numbers_of(names: Sequence[str], build: BuildContext) -> list[int]:
    """Return the positions of sources in `Batch.source`. Raises ConfigError for a source that the task lacks."""
    for name in names:
        if name not in build.sources:
            reason = build.missing_sources.get(name)
            advice = f": {reason}" if reason else did_you_mean(name, build.sources)
            raise ConfigError(
                f"views.{build.name}.sources", f"the task has no source '{name}'{advice}"
            )
    return [build.sources.index(name) for name in names]


def _is_in(numbers: Tensor, wanted: Sequence[int]) -> Tensor:
    return torch.isin(numbers, torch.tensor(wanted, device=numbers.device))


def keep_rows(view: View, keep: Tensor) -> View:
    """Return the rows of a view where `keep` bool [B] is True, without encodings and extras."""
    rows = {
        f.name: map_tensors(getattr(view, f.name), lambda tensor: tensor[keep])
        for f in fields(view)
        if f.name not in ("encoded", "extra")
    }
    return View(**rows)
