"""Causal language modelling: every token from those before it (or, right to left, from those after it).

    L = - mean over tokens t but the first of log p(x_t | x_1 ... x_{t-1})
    p = softmax(U transform(h_{t-1}) + b)

h are the features of an encoder that reads in one direction (`model.direction`); special tokens are predicted like others, [SEP] so
that an end can be expected. The first token, [CLS], is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fwk import BuildContext, Context, Criterion, LossTerm, Output, View, option, register
from fwk.contracts.sizes import SequenceShape, Transformer
from fwk.errors import ConfigError
from fwk.nn.masked_lm_head import HeadOptions, MaskedLMHead


@register("criterion", "causal_lm")
class CausalLM(Criterion):
    """Cross-entropy of every token given those before it, for an encoder that reads in one direction."""

    @dataclass(frozen=True, kw_only=True)
    class Config(HeadOptions):
        view: str = option("plain", "the view whose tokens are predicted")

    def __init__(self, config: Config, build: BuildContext):
        super().__init__(config, build)
        self.direction = build.encoder.direction
        if self.direction == "both":
            raise ConfigError(
                f"criterion.{build.name}",
                "the encoder sees the token that is to be predicted; expected one that reads in "
                "one direction (model.direction=left_to_right)",
            )
        self.head = MaskedLMHead.built(build, config.tied_output, config.output_bias)

    @classmethod
    def views(cls, config: Config) -> dict[str, dict[str, Any]]:
        return {config.view: {"noiser": "identity"}}

    @classmethod
    def flops(cls, config: Config, encoder: tuple[Transformer, ...], shape: SequenceShape) -> float:
        return encoder[0].softmax(shape, share=1.0)

    def predicted(self, view: View) -> tuple[slice, slice, Tensor]:
        """Which positions are predicted, and which features they are predicted from; bool [B, T - 1], what of it is content."""
        first, last = slice(0, -1), slice(1, None)
        target, source = (last, first) if self.direction == "left_to_right" else (first, last)
        return (
            target,
            source,
            view.content[:, 1:],
        )  # where the later of two neighbours is content, both are

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        return {"causal_lm": self.predicted(views[self.config.view])[2].sum()}

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        view = views[self.config.view]
        target, source, counted = self.predicted(view)
        losses, best = self.head.losses(
            view.encoded.features[:, source], view.target[:, target]
        )  # [B, T - 1]
        return Output(
            terms={"causal_lm": LossTerm(losses.masked_fill(~counted, 0.0).sum())},
            statistics={
                "right": ((best == view.target[:, target]) & counted).sum(),
                "tokens": counted.sum(),
            },
        )

    def log_probs(
        self, text: View, views: Mapping[str, View], options: Any, context: Context
    ) -> Tensor:
        given = text.special[:, 0 if self.direction == "left_to_right" else -1]
        if not bool(given.all()):
            raise ConfigError(
                "task.placement",
                "the token that a causal LM begins with has no probability; expected a special one",
            )
        target, source, _ = self.predicted(text)
        losses, _ = self.head.losses(
            context.encode(text).features[:, source], text.target[:, target]
        )
        return F.pad(-losses, (1, 0) if self.direction == "left_to_right" else (0, 1))

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        return {"accuracy": float(sums["right"] / sums["tokens"].clamp(min=1))}
