"""What flows through one update: its facts, its micro-batches, and what a forward pass returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from fwk.contracts.alignment import first_rows
from fwk.contracts.views import Batch, View
from fwk.engine.plan import BATCH

Views = Mapping[str, View]
EXAMPLES = "#examples"  # behind the label of a criterion: the count of the examples that it reads


@dataclass(kw_only=True)
class Update:
    """Facts shared by all micro-batches of one update, or of one pass over a split."""

    number: int = 0  # counted from 1; outside of training, the last update done
    micro_batches: int = 1  # per rank
    progress: float = 0.0  # share of the run that is done, in [0, 1]
    split: str = "train"  # seeds the noise of the views
    # by 'label/term', over all ranks and micro-batches; empty until the ranks have summed them, and outside of training
    counts: Mapping[str, float] = field(default_factory=dict)
    # by label, of criteria whose loss is divided by the examples of all tasks: the share of theirs among them
    shares: Mapping[str, float] = field(default_factory=dict)

    def take_counts(self, counts: Mapping[str, float], examples: int) -> None:
        """Keep the counts of the whole update, and what follows from them. examples: in the update."""
        self.counts = {name: count for name, count in counts.items() if EXAMPLES not in name}
        self.shares = shares_of_examples(counts, examples)


class MicroBatch:
    """The examples of one forward pass on their way through the phases of an update.

    It is no dataclass: wrappers such as FSDP read every field of those to find tensors, which outlines refuse.
    """

    def __init__(self, index: int, views: dict[str, View]) -> None:
        self.index = index  # within the update
        self.views = views  # static views, and outlines or prepared views of the others
        self.prepared_views: dict[str, View] = {}  # those with `prepare: true`
        # by criterion label and name: what its `prepare` returned, and the draw numbers of those rows
        self.prepared: dict[str, dict[str, Tensor]] = {}
        self.prepared_draws: dict[str, dict[str, Tensor]] = {}
        # by criterion label and name: the rows of the whole update [N, ...], and int64 [B], which of them are ours
        self.over_update: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}

    @property
    def batch(self) -> View:
        """The examples as the task made them."""
        return self.views[BATCH]


def count_examples(view: View) -> Tensor:
    """Return the number of examples that a view shows; rows of one example, such as choices, follow each other."""
    return first_rows(view.draws).sum()


def shares_of_examples(counts: Mapping[str, Any], examples: float) -> dict[str, float]:
    """Return the share of a criterion's examples among all, by label. counts: by name, see `EXAMPLES`."""
    return {
        name.removesuffix(EXAMPLES): float(count) / max(examples, 1)
        for name, count in counts.items()
        if name.endswith(EXAMPLES)
    }


def count_tokens(batch: Batch | View) -> Tensor | int:
    """Return the number of tokens of a batch without padding; 0 where its examples are not text."""
    return batch.mask.sum() if batch.mask is not None and "tokens" in batch.inputs else 0


class StepOutput(NamedTuple):
    """What a forward pass returns for one micro-batch."""

    loss: Tensor | None  # 0-d, see `ObjectiveModule.weighted_loss`; None in evaluation and per term
    sums: dict[str, Tensor]  # by 'label/term', detached
    statistics: dict[str, Tensor]  # by 'label/name', detached
    terms: dict[str, Tensor]  # shares of the loss by 'label/term', for gradients per term
    weights: dict[str, float]  # by 'label/term': the factor of the term's mean in the loss
