"""Semantic textual similarity: pairs of sentences with a number, to judge vectors without training.

    fwk-evaluate MODEL --task sts --criterion similarity task.data=STS-B/dev.tsv

The columns are those of STS-B by default. The data are evaluated as a whole: they are the split `valid` too, unless
`task.valid` names other files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fwk.components.registry import register
from fwk.contracts.options import option
from fwk.tasks.examples import SOURCE, Examples, Records


@register("task", "sts")
class Sts(Examples):
    """Two sentences and how similar they are, measured by correlations."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Examples.Config):
        texts: str | int | tuple[str | int, ...] = option(
            ("sentence1", "sentence2"), "columns of the sentences"
        )
        label: str | int | None = option("score", "column of the similarity")
        kind: Literal["number"] = option("number", "what the label is")
        valid_share: float = option(0.0, "share of the data held out", low=0, high=0.9)

    def find_splits(self) -> tuple[str, ...]:
        splits = super().find_splits()
        return splits if "valid" in splits else ("train", "valid", *splits[1:])

    def read(self, split: str) -> Records:
        if split == "valid" and not self.config.valid and not self.config.valid_share:
            return {SOURCE: self.reader.read(self.config.data, "task.data")}
        return super().read(split)
