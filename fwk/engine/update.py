"""What flows through one update: its facts, its micro-batches, and what a forward pass returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from fwk.contracts.views import Batch, View
from fwk.engine.plan import BATCH

Views = Mapping[str, View]


@dataclass(kw_only=True)
class Update:
    """Facts shared by all micro-batches of one update, or of one pass over a split."""

    number: int = 0  # counted from 1; outside of training, the last update done
    micro_batches: int = 1  # per rank
    progress: float = 0.0  # share of the run that is done, in [0, 1]
    split: str = "train"  # seeds the noise of the views
    # by 'label/term', over all ranks and micro-batches; empty until the ranks have summed them, and outside of training
    counts: Mapping[str, float] = field(default_factory=dict)


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
