"""A part of the batch: the rows of some sources, or those with (or without) a label. Nothing is changed in them.

A criterion on such a view sees those sequences only: a supervised one the labelled rows, a consistency loss the
unlabelled ones. A micro-batch may have no such row; the view then has B = 0, and its counts are 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from fwk.components.registry import register
from fwk.contracts.context import BuildContext, Context
from fwk.contracts.keyed import Key
from fwk.contracts.noiser import Noiser
from fwk.contracts.options import option
from fwk.contracts.views import View
from fwk.errors import ConfigError, did_you_mean


@register("noiser", "rows")
class Rows(Noiser["Rows.Config"]):
    """Keeps the rows of the named sources, and of those the labelled (or the unlabelled) ones."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        sources: tuple[str, ...] = option(
            (), "names of the sources whose rows are kept (none: those of every source)"
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
        self.name = build.name
        if config.label is not None and build.labels and config.label not in build.labels:
            raise ConfigError(
                f"views.{build.name}.label",
                f"the task has no label '{config.label}'{did_you_mean(config.label, build.labels)}",
            )
        for name in (
            config.sources if build.sources else ()
        ):  # not known where a model is used without its data
            if name not in build.sources:
                why = build.missing_sources.get(name)
                raise ConfigError(
                    f"views.{build.name}.sources",
                    f"the task has no source '{name}'"
                    f"{f': {why}' if why else did_you_mean(name, build.sources)}",
                )
        self.without = [
            build.sources.index(name) for name in config.without if name in build.sources
        ]
        self.numbers = (
            [build.sources.index(name) for name in config.sources] if build.sources else None
        )

    def apply(self, source: View, key: Key, context: Context | None = None) -> View:
        keep = torch.ones(len(source), dtype=torch.bool, device=source.draws.device)  # [B]
        if self.config.sources:
            if self.numbers is None or source.source is None:
                raise ConfigError(
                    f"views.{self.name}.sources",
                    "the batch does not say which sources its rows are from",
                )
            keep &= torch.isin(source.source, torch.tensor(self.numbers, device=keep.device))
        if self.without:
            keep &= ~torch.isin(source.source, torch.tensor(self.without, device=keep.device))
        if self.config.label is not None:
            if self.config.label not in source.labels:
                raise ConfigError(
                    f"views.{self.name}.label",
                    f"the batch has no label '{self.config.label}'"
                    f"{did_you_mean(self.config.label, source.labels)}",
                )
            labelled = source.labels[self.config.label] >= 0  # [B] or [B, ...]
            if labelled.dim() > 1:  # of a label per position, one is enough
                labelled = labelled.flatten(1).any(1)
            keep &= labelled != self.config.unlabelled
        return only(source, keep)


def only(view: View, keep: Tensor) -> View:
    """The rows of a view where `keep` [B] is true; what was encoded or handed on for all rows is left behind."""

    def cut(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[keep]
        return (
            {name: cut(entry) for name, entry in value.items()}
            if isinstance(value, Mapping)
            else value
        )

    kept = {
        f.name: cut(getattr(view, f.name))
        for f in fields(view)
        if f.name not in ("encoded", "extra")
    }
    return View(**kept)
