"""The synthetic task, with a place for faults where an example is read."""

from __future__ import annotations

from dataclasses import dataclass

from fwk import Source, register
from fwk.tasks.synthetic import Synthetic

from . import acts


class Reached(Source):
    def __init__(self, source):
        self.source, self.name, self.read = source, source.name, 0

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        self.read += 1
        acts.reach("example", self.read)
        return self.source[index]


@register("task", "reached")
class ReachedTask(Synthetic):
    """Synthetic sequences, read past a place for faults."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Synthetic.Config):
        pass

    def sources(self, split):
        by_name = super().sources(split)
        return (
            {name: Reached(source) for name, source in by_name.items()}
            if split == "train"
            else by_name
        )
