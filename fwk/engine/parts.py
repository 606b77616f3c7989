"""Parts of an objective: the criteria and learned noisers that have loss terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from fwk.contracts.context import Context
from fwk.contracts.criterion import Criterion
from fwk.contracts.noiser import LearnedNoiser
from fwk.contracts.views import View
from fwk.engine.update import EXAMPLES, count_examples

MAIN = "main"  # the network that `model:` describes


@dataclass(frozen=True)
class Part:
    """A criterion or a learned noiser at work in this run."""

    name: str  # the left half of 'name/term'
    component: Criterion | LearnedNoiser
    network: str  # the network that `context.encode` calls unless it is given another one
    reads: tuple[str, ...] | None  # the views that it receives; None: all of them
    # 'criteria.mlm', 'learned.corrupted': its place in the module, which seeds its dropout
    path: str
    # the view whose examples are counted, of a loss that is divided by the examples of all tasks; None: of another
    counted: str | None = None

    @property
    def roots(self) -> tuple[str, ...]:
        """The views that exist for the sake of this part: those that it reads, or that it makes."""
        return (self.name,) if self.reads is None else self.reads

    def views_of(self, views: Mapping[str, View]) -> Mapping[str, View]:
        """Return those of the views that this part receives."""
        if self.reads is None:
            return views
        return {name: views[name] for name in self.reads}

    def counts(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        """Return the counts of a micro-batch by 'label/term', and 'label#examples' where those are counted."""
        terms = self.component.normalizers(self.views_of(views), context)
        counts = {f"{self.name}/{term}": count for term, count in terms.items()}
        if self.counted is not None:
            counts[f"{self.name}{EXAMPLES}"] = count_examples(views[self.counted])
        return counts

    def metrics_of(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Return this part's metrics by 'name/metric', from the sums of its statistics ('stat:name/statistic')."""
        prefix = f"stat:{self.name}/"
        statistics = {
            path.removeprefix(prefix): value
            for path, value in sums.items()
            if path.startswith(prefix)
        }
        if not statistics:
            return {}
        metrics = self.component.metrics(statistics)
        return {f"{self.name}/{key}": value for key, value in metrics.items()}


def metrics_of(parts: Mapping[str, Part], sums: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the metrics that components make of their summed statistics, by 'label/name'.

    sums: global sums by meter name; those of statistics begin with 'stat:'.
    """
    metrics: dict[str, float] = {}
    for part in parts.values():
        metrics.update(part.metrics_of(sums))
    return metrics


def parts_of(
    criteria: Mapping[str, Criterion],
    learned: Mapping[str, LearnedNoiser],
    networks: Mapping[str, nn.Module],
    reads: Mapping[str, Sequence[str]],
    counted: Mapping[str, str],
) -> dict[str, Part]:
    """Return the parts of an objective by name, criteria first. counted: see `Part.counted`."""
    parts = {
        label: Part(
            label, criterion, MAIN, tuple(reads[label]), f"criteria.{label}", counted.get(label)
        )
        for label, criterion in criteria.items()
    }
    for view, noiser in learned.items():
        parts[view] = Part(view, noiser, _network_of(noiser, networks), None, f"learned.{view}")
    return parts


def _network_of(noiser: LearnedNoiser, networks: Mapping[str, nn.Module]) -> str:
    names = (name for name, network in networks.items() if network is noiser.network)
    return next(names, MAIN)
