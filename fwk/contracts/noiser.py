"""The contract of noisers (registry `noiser`): a view -> another view.

A static noiser is a pure function of tokens and key. A learned noiser has a network and may have loss terms.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic

from torch import Tensor, nn

from fwk.contracts.component import ConfigT
from fwk.contracts.context import BuildContext, Context
from fwk.contracts.heads import HeadOutputs
from fwk.contracts.keyed import Key
from fwk.contracts.sizes import SequenceShape, Transformer
from fwk.contracts.views import Output, View


class Noiser(Generic[ConfigT]):
    """Base class of noisers, registered with `@register("noiser", NAME)`. A subclass defines `apply`.

    Static noisers draw from `key` only, and compute with integers wherever they choose, so that CPU and GPU agree to
    the bit.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the noiser."""

    @dataclass(frozen=True, kw_only=True)
    class Scoring:
        """Options of `log_probs`, set by `fwk-score`."""

    learned: ClassVar[bool] = False  # True for subclasses of `LearnedNoiser`
    # True: a static noiser that keeps the order of rows and computes each row of the view, its T included, from the
    # same row of the source, its draw and T alone. Views of several micro-batches are then made in one call. The
    # conformance kit tests it
    by_row: bool = False
    knows_log_q: bool = False  # True: its views have `log_q`
    # True: its views have chosen positions; False: only those of the source view, if it has any; None: unknown
    chooses: bool | None = None
    # True: which positions it chooses depends on the tokens that stand there
    chooses_by_token: bool = False
    reads_positions: bool = False  # True: the source view must have chosen positions
    # True: `apply` reads `source.encoded`, so the source is encoded first
    reads_encoding: bool = False

    def __init__(self, config: ConfigT, build: BuildContext) -> None:
        self.config = config
        self.vocabulary = build.vocabulary
        self.view = build.name  # name of the view that it makes
        self.source = build.of  # name of the view that it is made of

    @abstractmethod
    def apply(self, source: View, key: Key, context: Context | None = None) -> View:
        """Return the view made of `source`, which must not be modified. The engine sets the view's name."""
        raise NotImplementedError

    def log_probs(
        self, text: View, views: Mapping[str, View], options: Any, context: Context
    ) -> Tensor:
        """Return log of the probability that each token of a text is drawn at its position, [B, T] in nats (optional).

        The arguments are those of `Criterion.log_probs`.
        """
        raise NotImplementedError


class LearnedNoiser(Noiser[ConfigT], nn.Module):
    """Base class of noisers with a network: `build.network`, which may be tied to the encoder.

    Its loss terms are optional.
    """

    learned: ClassVar[bool] = True
    roles: tuple[str, ...] = ()  # as `Criterion.roles`
    head_path: str = "head"  # as `Criterion.head_path`

    def __init__(self, config: ConfigT, build: BuildContext) -> None:
        nn.Module.__init__(self)
        Noiser.__init__(self, config, build)
        self.network = build.network

    def head_outputs(self) -> HeadOutputs:
        """Return what the outputs of the head mean (optional)."""
        return HeadOutputs()

    @classmethod
    def flops(
        cls, config: ConfigT, network: tuple[Transformer, ...], shape: SequenceShape
    ) -> float | None:
        """Return the operations of one forward pass of network and heads on one sequence; None: unknown."""
        return None

    def outline(self, source: View, key: Key) -> View:
        """Return what is known of the view before any network runs: positions, validity, mask.

        Counts are taken from it. `changed` and `log_q` are unknown where they are None.
        """
        return source.replace(changed=None)

    @abstractmethod
    def apply(  # type: ignore[override]  # the engine always gives a learned noiser its context
        self, source: View, key: Key, context: Context, prepared: View | None = None
    ) -> View:
        """Return the view made of `source`, which must not be modified.

        It runs inside the forward pass with gradient; sampled tokens must carry none. If the view is declared
        `prepare: true`, the engine first calls `apply` without gradient over every micro-batch of the update, and
        passes the result as `prepared` in the forward pass, which must then use the tokens of `prepared`.
        """
        raise NotImplementedError

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        """Return the count of each loss term of this noiser, as `Criterion.normalizers`."""
        return {}

    def losses(
        self,
        views: Mapping[str, View],
        outcomes: Mapping[str, Mapping[str, Tensor]],
        context: Context,
    ) -> Output:
        """Return the loss terms of this noiser. It is called after the criteria.

        outcomes: by label of a criterion, the `Output.outcomes` of that criterion.
        """
        return Output()

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Return numbers computed from the global sums of this noiser's statistics, without side effects."""
        return {}
