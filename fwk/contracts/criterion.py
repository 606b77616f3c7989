"""The contract of criteria (registry `criterion`): encoded views -> loss terms.

A criterion returns sums, never means. The engine divides them by counts over the whole update, weighs, scales and logs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic

from torch import Tensor, nn

from fwk.contracts.component import ConfigT
from fwk.contracts.context import BuildContext, Context
from fwk.contracts.heads import HasHead
from fwk.contracts.predicts import Predicts
from fwk.contracts.read import Read
from fwk.contracts.replaced import ReadsByOldNames
from fwk.contracts.sizes import SequenceShape, Transformer
from fwk.contracts.views import Output, View

__all__ = ["Criterion", "Read"]


class Criterion(ReadsByOldNames, HasHead, Predicts, nn.Module, Generic[ConfigT]):
    """Base class of criteria, registered with `@register("criterion", NAME)`.

    Output heads belong to the criterion, so any criterion runs on any encoder. A subclass defines `reads`,
    `normalizers` and `forward`; everything else is optional.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the criterion."""

    @dataclass(frozen=True, kw_only=True)
    class Scoring:
        """Options of `log_probs`, set by `fwk-score`."""

    def __init__(self, config: ConfigT, build: BuildContext) -> None:
        super().__init__()
        self.config = config

    @classmethod
    @abstractmethod
    def reads(cls, config: ConfigT) -> dict[str, Read]:
        """Return the views that this criterion reads, by name, and what it needs of each.

        The defaults are those of the view's definition: the user's config may override them by name and key. Views that
        two criteria define alike are made and encoded once.
        """
        raise NotImplementedError

    @classmethod
    def needs_labels(cls, config: ConfigT) -> tuple[str, ...]:
        """Return the names of the labels that this criterion reads. A task without them is refused."""
        return ()

    @classmethod
    def check_labels(cls, config: ConfigT, labels: Mapping[str, tuple[str, ...]], key: str) -> None:
        """Raise ConfigError where a label exists but is of a kind that this criterion cannot use.

        labels: all labels of the task, with their values. key: where this criterion stands in the config.
        """

    @classmethod
    def prepares(cls, config: ConfigT, micro_batches: int) -> bool:
        """Return whether `prepare` runs in an update of `micro_batches` micro-batches per rank.

        By default it runs where it is overridden.
        """
        return cls.prepare is not Criterion.prepare

    @classmethod
    def flops(
        cls, config: ConfigT, encoder: tuple[Transformer, ...], shape: SequenceShape
    ) -> float | None:
        """Return the operations of one forward pass of the heads on one sequence; None: unknown (see `fwk.flops`)."""
        return None

    def states(self) -> tuple[str, ...]:
        """Return the names of the encoder states that this criterion reads besides the features."""
        return ()

    @abstractmethod
    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        """Return the count of each loss term in this micro-batch (0-d tensors), by name of the term.

        It is called before anything is encoded. The criterion decides what a term is divided by, and several terms may
        share a count. A term whose count is 0 over the whole update contributes 0.
        """
        raise NotImplementedError

    def prepare(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        """Return small tensors [B, ...] computed from encoded views, without gradient (optional).

        If it is overridden, the engine runs it over every micro-batch of the update before the counts are taken, where
        `prepares` says so. `normalizers` and `forward` find the result in `context.prepared`, and that of the whole
        update and all ranks in `context.over_update(name)`.
        """
        raise NotImplementedError

    @abstractmethod
    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        """Return the loss terms and statistics of one micro-batch.

        Terms have the names that `normalizers` gives. `view.encoded` is set on every view that `reads` wants encoded
        and that has rows in this micro-batch.
        """
        raise NotImplementedError

    def log_probs(
        self, text: View, views: Mapping[str, View], options: Any, context: Context
    ) -> Tensor:
        """Return log p of each token of a text under this criterion's model, [B, T] in nats (optional).

        `fwk-score` uses it. Values at special tokens are ignored. No gradient is recorded.

        text: sequences of equal length, without noise. views: this criterion's views as far as they are known without
        a network. options: an instance of `Scoring`. context: `context.encode(view)` encodes a view,
        `context.budget` tokens at most in one call; `context.log_probs(view, text)` asks the noiser of a view.
        """
        raise NotImplementedError

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Return numbers computed from the global sums of `Output.statistics`, without side effects."""
        return {}
