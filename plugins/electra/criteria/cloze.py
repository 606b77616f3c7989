"""The likelihood of a cloze model: every token given all others (Baevski et al. 2019).

    L = - mean over ordinary tokens t of log p(x_t | x_1 ... x_{t-1}, x_{t+1} ... x_n)
    p = softmax(U transform(h_t) + b)

x is the text as it is (`view.target`), and h are the features of an encoder in which no position
sees its own token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fwk import BuildContext, Context, Criterion, LossTerm, Output, Read, View, option, register
from fwk.contracts.sizes import SequenceShape, Transformer
from fwk.errors import ConfigError
from fwk.nn.masked_lm_head import HeadOptions, MaskedLMHead


@register("criterion", "cloze")
class Cloze(Criterion["Cloze.Config"]):
    """Every ordinary token given all others, for an encoder in which no position sees its own token.

    The loss is the mean of -log p(x_t | the rest) over the text as it is (Baevski et al. 2019). Such
    an encoder is 'two_tower'.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(HeadOptions):
        view: str = option("plain", "the view whose tokens are predicted")

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        encoder = build.require_encoder()
        if encoder.sees_itself:
            raise ConfigError(
                f"criterion.{build.name}",
                f"{type(encoder).__name__} lets a position see its own token, so there is nothing to "
                "predict; expected an encoder such as 'two_tower' (--model two_tower)",
            )
        self.head = MaskedLMHead.from_options(build, config.tied_output, config.output_bias)

    @classmethod
    def reads(cls, config: Config) -> dict[str, Read]:
        return {config.view: Read({"noiser": "identity"})}

    @classmethod
    def flops(cls, config: Config, encoder: tuple[Transformer, ...], shape: SequenceShape) -> float:
        return encoder[0].softmax(shape, share=1.0, width=sum(tower.width for tower in encoder))

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        return {"cloze": views[self.config.view].ordinary.sum()}

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        view = views[self.config.view]
        counted = view.ordinary  # [B, T]
        losses, best = self.head.losses(view.encoded.features, view.target)  # [B, T]
        return Output(
            terms={"cloze": LossTerm(losses.masked_fill(~counted, 0.0).sum())},
            statistics={"right": ((best == view.target) & counted).sum(), "tokens": counted.sum()},
        )

    def log_probs(
        self, text: View, views: Mapping[str, View], options: Any, context: Context
    ) -> Tensor:
        losses, _ = self.head.losses(context.encode(text).features, text.target)
        return -losses

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        return {"accuracy": float(sums["right"] / sums["tokens"].clamp(min=1))}
