"""Networks that noise is sampled from: what the two of them have in common."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from fwk import BuildContext, Context, LearnedNoiser, View, option
from fwk.errors import ConfigError
from fwk.nn.masked_lm_head import MaskedLMHead
from fwk.nn.softmax import Softmax

Sampling = Literal["with_dropout", "without_dropout", "run_again"]
SAMPLING = option(
    "with_dropout",
    "one run with dropout that is sampled from and learns; one run without dropout; or a second run, "
    "without dropout and gradient, to sample from",
)
TEMPERATURE = option(
    1.0, "of the distribution that is sampled; what is learned stays at 1", above=0
)
WEIGHT = option(1.0, "weight of this noiser's own loss", low=0)


class ClozeNoiser(LearnedNoiser):
    """What the two learned distributions have in common: an output matrix that is the network's token embedding, keyed
    samples, and training by likelihood."""

    def __init__(self, config: Any, build: BuildContext):
        super().__init__(config, build)
        if self.network is None:
            raise ConfigError(
                f"views.{build.name}.network",
                "this noiser samples from a network, and none is named; for example "
                "{name: scaled, width: 0.25}",
            )
        if self.vocabulary is None or self.network.embedding() is None:
            raise ConfigError(
                f"views.{build.name}",
                "this noiser draws tokens, and the task or the network has none",
            )
        self.head = MaskedLMHead.built(
            replace(build, encoder=self.network), tied=True, bias=config.output_bias
        )

    def read(
        self, view: View, context: Context, at: View | None = None
    ) -> tuple[Softmax, Softmax, Tensor]:
        """The distributions that are learned and those that are sampled from, and the features that the former are made
        of, [N, D]. at: the view whose chosen positions they are for (None: every position)."""

        def run(mode: str) -> tuple[Softmax, Tensor]:
            features = context.encode(view, mode=mode).features
            features = (features if at is None else at.at_positions(features)).flatten(
                0, 1
            )  # [N, D]
            return Softmax(
                self.head.transformed(features), self.head.output.weight, self.head.output.bias
            ), features

        learned, features = run("quiet" if self.config.sampling == "without_dropout" else "train")
        if self.config.sampling != "run_again" or not context.training:
            return learned, learned, features
        with torch.no_grad():
            return learned, run("teacher")[0], features
