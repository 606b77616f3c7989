"""A noiser turns one view into another. A static one is a pure function of tokens and key; a learned one has a
network, and may have a loss of its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fwk.contracts.context import BuildContext, Context
from fwk.contracts.keyed import Key
from fwk.contracts.sizes import SequenceShape, Transformer
from fwk.contracts.views import Output, View


class Noiser:
    """Base class of all noisers; registered with `@register("noiser", NAME)`.

    Subclasses name a frozen dataclass `Config` and implement `apply`. Static noisers must compute with integers where
    they choose, so that CPU and GPU agree to the bit, and must draw from `key` only.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    @dataclass(frozen=True, kw_only=True)
    class Scoring:
        """Options of `log_probs`."""

    # True for a static noiser that keeps the order of rows and makes each of them from that row, its draw and T alone,
    # T of the view included: views of several micro-batches may then be made in one call. The conformance kit tests it
    by_row = False
    knows_log_q = False  # True: the views it makes have `log_q`
    # whether the views it makes have chosen positions: True; False: those of the source view, if any; None: it does not say
    chooses: bool | None = None
    reads_positions = False  # True: the source view must have chosen positions
    reads_encoding = False  # True: `apply` needs `source.encoded`, so the source is encoded before this noiser runs

    def __init__(self, config: Any, build: BuildContext):
        self.config = config
        self.vocabulary = build.vocabulary
        self.view, self.source = (
            build.name,
            build.of,
        )  # the names of the view it makes and of the one it makes it of

    @abstractmethod
    def apply(self, source: View, key: Key, context: Context | None = None) -> View:
        """`source` -> the new view. Must not modify `source`. The engine sets the view's name afterwards."""
        raise NotImplementedError

    def log_probs(
        self, text: View, views: Mapping[str, View], options: Any, context: Context
    ) -> Tensor:
        """Optional: log of the probability with which each token of a text would be drawn at its place, [B, T]; as
        `Criterion.log_probs`."""
        raise NotImplementedError


class LearnedNoiser(Noiser, nn.Module):
    """A noiser with a network (`build.network`, possibly tied to the encoder) and, if it likes, a loss.

    `apply` runs inside the module's forward with gradient; what it samples must carry none. When the view is declared
    `prepare: true` the engine first calls `apply` without gradient over every micro-batch of the update, and in the
    gradient phase passes that view as `prepared`: its tokens are then the ones to use.
    """

    roles: tuple[str, ...] = ()  # as `Criterion.roles`

    def __init__(self, config: Any, build: BuildContext):
        nn.Module.__init__(self)
        Noiser.__init__(self, config, build)
        self.network = build.network

    @classmethod
    def flops(
        cls, config: Any, network: tuple[Transformer, ...], shape: SequenceShape
    ) -> float | None:
        """Operations of one forward pass of network and heads on one sequence (`fwk.flops`); None: not counted."""
        return None

    def outline(self, source: View, key: Key) -> View:
        """What is known of the view before any network runs (positions, validity, mask): counts are taken from it."""
        return source.replace(changed=None)

    def apply(self, source: View, key: Key, context: Context, prepared: View | None = None) -> View:
        raise NotImplementedError

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        """Counts of this noiser's own loss terms, as `Criterion.normalizers`."""
        return {}

    def losses(
        self,
        views: Mapping[str, View],
        outcomes: Mapping[str, Mapping[str, Tensor]],
        context: Context,
    ) -> Output:
        """This noiser's own terms, after the criteria ran; `outcomes[label]` is what criterion `label` reported."""
        return Output()

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Numbers from the global sums of this noiser's statistics."""
        return {}
