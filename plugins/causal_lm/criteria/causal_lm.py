"""Causal language modelling: every token is predicted from those before it, or those after it.

    L = - mean over tokens t but the first of log p(x_t | x_1 ... x_{t-1})
    p = softmax(U transform(h_{t-1}) + b)

h are the features of an encoder that reads in one direction (`model.direction`; with
right_to_left, "before" and "first" read "after" and "last"). Special tokens are predicted like
others, so that the model learns where a sequence ends ([SEP]). The first token, [CLS], is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from fwk import BuildContext, Context, Criterion, LossTerm, Output, Read, View, option, register
from fwk.contracts.sizes import SequenceShape, Transformer
from fwk.errors import ConfigError
from fwk.nn.masked_lm_head import HeadOptions, MaskedLMHead


class Shift(NamedTuple):
    """Which positions are predicted, and from the features of which."""

    target: slice  # T - 1 positions that are predicted
    source: slice  # their neighbours, from whose features they are predicted


LEFT_TO_RIGHT = Shift(target=slice(1, None), source=slice(0, -1))
RIGHT_TO_LEFT = Shift(target=slice(0, -1), source=slice(1, None))


def counted_positions(view: View) -> Tensor:
    """Return which of the predicted positions are content, bool [B, T - 1].

    Padding is at the end, so both of two neighbours are content where the later one is.
    """
    return view.content[:, 1:]


@register("criterion", "causal_lm")
class CausalLM(Criterion["CausalLM.Config"]):
    """Cross-entropy of every token given those before it, for an encoder that reads in one direction."""

    @dataclass(frozen=True, kw_only=True)
    class Config(HeadOptions):
        view: str = option("plain", "the view whose tokens are predicted")

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        direction = build.require_encoder().direction
        if direction == "both":
            raise ConfigError(
                f"criterion.{build.name}",
                "the encoder sees the token that is to be predicted; expected one that reads in "
                "one direction (model.direction=left_to_right)",
            )
        self.forwards = direction == "left_to_right"
        self.shift = LEFT_TO_RIGHT if self.forwards else RIGHT_TO_LEFT
        self.head = MaskedLMHead.from_options(build, config.tied_output, config.output_bias)

    @classmethod
    def reads(cls, config: Config) -> dict[str, Read]:
        return {config.view: Read({"noiser": "identity"})}

    @classmethod
    def flops(cls, config: Config, encoder: tuple[Transformer, ...], shape: SequenceShape) -> float:
        return encoder[0].softmax(shape, share=1.0)

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        return {"causal_lm": counted_positions(views[self.config.view]).sum()}

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        view = views[self.config.view]
        counted = counted_positions(view)  # [B, T - 1]
        features = view.encoded.features[:, self.shift.source]  # [B, T - 1, D]
        target = view.target[:, self.shift.target]  # [B, T - 1]
        losses, best = self.head.losses(features, target)  # [B, T - 1]
        return Output(
            terms={"causal_lm": LossTerm(losses.masked_fill(~counted, 0.0).sum())},
            statistics={"right": ((best == target) & counted).sum(), "tokens": counted.sum()},
        )

    def log_probs(
        self, text: View, views: Mapping[str, View], options: Any, context: Context
    ) -> Tensor:
        edge = 0 if self.forwards else -1
        if text.special is None or not bool(text.special[:, edge].all()):
            raise ConfigError(
                "task.placement",
                "a causal LM gives no probability to the first token that it reads; expected a "
                "special token there",
            )
        features = context.encode(text).features[:, self.shift.source]  # [B, T - 1, D]
        losses, _ = self.head.losses(features, text.target[:, self.shift.target])
        return F.pad(-losses, (1, 0) if self.forwards else (0, 1))  # [B, T]

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        return {"accuracy": float(sums["right"] / sums["tokens"].clamp(min=1))}
