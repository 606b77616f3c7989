"""A criterion turns encoded views into loss terms: sums, never means. The engine divides, weighs, scales and logs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fwk.contracts.context import BuildContext, Context
from fwk.contracts.sizes import SequenceShape, Transformer
from fwk.contracts.views import Output, View


class Criterion(nn.Module):
    """Base class of all criteria; registered with `@register("criterion", NAME)`. Heads live here, so that any
    criterion runs on any encoder."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    @dataclass(frozen=True, kw_only=True)
    class Scoring:
        """Options of `log_probs`."""

    # what `self.head` is to other libraries, for fwk-export: 'masked_lm' (a `MaskedLMHead`) or 'replaced_token' (dense, GELU,
    # dense to a logit that is positive where a token was replaced)
    roles: tuple[str, ...] = ()

    def __init__(self, config: Any, build: BuildContext):
        super().__init__()
        self.config = config

    @classmethod
    @abstractmethod
    def views(cls, config: Any) -> dict[str, dict[str, Any] | None]:
        """The views this criterion reads: name -> how to make it if the user's config does not say; None: as another criterion
        makes it, or the config."""
        raise NotImplementedError

    @classmethod
    def encoded(cls, config: Any) -> tuple[str, ...]:
        """Those of the views whose encodings this criterion reads; by default all. A view that is only named so that
        another can be made of it is not encoded for this criterion."""
        return tuple(cls.views(config))

    @classmethod
    def needs_log_q(cls, config: Any) -> tuple[str, ...]:
        """Those of the views whose `log_q` this criterion reads; their noisers must know it (`Noiser.knows_log_q`)."""
        return ()

    @classmethod
    def needs_positions(cls, config: Any) -> tuple[str, ...]:
        """Those of the views whose chosen positions, or what was put there, this criterion reads (`Noiser.chooses`)."""
        return ()

    @classmethod
    def needs_labels(cls, config: Any) -> tuple[str, ...]:
        """Names of the labels this criterion reads; a task without them is refused."""
        return ()

    @classmethod
    def check_labels(cls, config: Any, labels: Mapping[str, tuple[str, ...]], key: str) -> None:
        """ConfigError where a label is there and of a kind that this criterion has no use for. labels: all of the task's, with
        their values. key: where this criterion stands in the config."""

    @classmethod
    def prepares(cls, config: Any, micro_batches: int) -> bool:
        """Whether `prepare` is run in an update of so many micro-batches on each rank: where it is overridden."""
        return cls.prepare is not Criterion.prepare

    @classmethod
    def flops(
        cls, config: Any, encoder: tuple[Transformer, ...], shape: SequenceShape
    ) -> float | None:
        """Operations of one forward pass of this criterion's own heads on one sequence (`fwk.flops`); None: not counted."""
        return None

    def states(self) -> tuple[str, ...]:
        """Names of encoder states this criterion reads besides the features."""
        return ()

    @abstractmethod
    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        """Term name -> its count in this micro-batch (a 0-d tensor), before anything is encoded. What several terms
        divide by is this criterion's decision. A term whose count is 0 over the whole update contributes 0."""
        raise NotImplementedError

    def prepare(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        """Optional: small tensors [B, ...] computed from encoded views without gradient, over every micro-batch of the
        update before the counts are taken. In `normalizers` and `forward` they are `context.prepared`; over the whole
        update and all ranks, `context.over_update(name)`. Override it and the engine runs it, where `prepares` says so."""
        raise NotImplementedError

    @abstractmethod
    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        raise NotImplementedError

    def log_probs(
        self, text: View, views: Mapping[str, View], options: Any, context: Context
    ) -> Tensor:
        """Optional: log p of each token of a text, under whatever this criterion learns, [B, T] in nats, for `fwk-score`. What it
        says of special tokens is not read. text: sequences of one length without noise. views: what can be known of the
        criterion's views without a network. options: a `Scoring`. context: `context.encode(view)` encodes, `context.budget`
        tokens at most in one call; `context.log_probs(view, text)` asks the noiser of a view. Nothing has a gradient."""
        raise NotImplementedError

    def predict(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        """Optional: what the model says, by label, [B, ...] for the rows of the first view this criterion encodes, for
        `fwk-evaluate --predictions`; the task writes it down. Nothing has a gradient."""
        raise NotImplementedError

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Numbers from the global sums of `Output.statistics`; a pure function."""
        return {}
