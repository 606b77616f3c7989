"""The base of noisers that sample from a network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from fwk import BuildContext, Context, Encoder, LearnedNoiser, View, option
from fwk.contracts.context import Mode
from fwk.errors import ConfigError
from fwk.nn.masked_lm_head import OUTPUT_BIAS, MaskedLMHead, OutputBias
from fwk.nn.softmax import Softmax


@dataclass(frozen=True, kw_only=True)
class ClozeOptions:
    """Options of every noiser that samples from a network."""

    sampling: Literal["with_dropout", "without_dropout", "run_again"] = option(
        "with_dropout",
        "sample from the run that learns, with or without dropout, or run the network again to sample "
        "from, without dropout and gradient",
    )
    temperature: float = option(
        1.0, "of the distribution that is sampled from; the one that learns stays at 1", above=0
    )
    weight: float = option(1.0, "weight of this noiser's own loss", low=0)
    output_bias: OutputBias = OUTPUT_BIAS


OptionsT = TypeVar("OptionsT", bound=ClozeOptions)


def require_network(build: BuildContext) -> Encoder:
    """Return the network to sample from. Raises ConfigError where none is named or it reads no tokens."""
    if build.network is None:
        raise ConfigError(
            f"views.{build.name}.network",
            "this noiser samples from a network, and none is named; for example "
            "{name: scaled, width: 0.25}",
        )
    if build.vocabulary is None or build.network.embedding() is None:
        raise ConfigError(
            f"views.{build.name}",
            "this noiser draws tokens, and the task has no vocabulary or the network reads no tokens",
        )
    return build.network


class Distributions(NamedTuple):
    """Distributions over the vocabulary at N positions."""

    learned: Softmax  # the one that the loss trains
    sampled: Softmax  # the one that is sampled from: `learned`, or that of a second run
    features: Tensor  # [N, D], from which `learned` is computed


class ClozeNoiser(LearnedNoiser[OptionsT]):
    """A noiser that samples from a network and trains it by likelihood.

    The output matrix is the network's token embedding, and samples are keyed.
    """

    def __init__(self, config: OptionsT, build: BuildContext) -> None:
        super().__init__(config, build)
        network = require_network(build)
        self.head = MaskedLMHead.from_options(
            replace(build, encoder=network), tied=True, bias=config.output_bias
        )

    def distributions(self, view: View, context: Context, at: View | None = None) -> Distributions:
        """Return the network's distributions at every position of a view (N = B·T).

        at: a view at whose chosen positions they are wanted instead (N = B·K).
        """
        mode: Mode = "quiet" if self.config.sampling == "without_dropout" else "train"
        learned, features = self._run(view, context, at, mode)
        if self.config.sampling != "run_again" or not context.training:
            return Distributions(learned, learned, features)
        with torch.no_grad():
            sampled, _ = self._run(view, context, at, "teacher")
        return Distributions(learned, sampled, features)

    def _run(
        self, view: View, context: Context, at: View | None, mode: Mode
    ) -> tuple[Softmax, Tensor]:
        """Return the distributions of one run of the network, and the features behind them, [N, D]."""
        features = context.encode(view, mode=mode).features  # [B, T, D]
        if at is not None:
            features = at.at_positions(features)  # [B, K, D]
        features = features.flatten(0, 1)
        hidden = self.head.apply_transform(features)
        return Softmax(hidden, self.head.output.weight, self.head.output.bias), features
