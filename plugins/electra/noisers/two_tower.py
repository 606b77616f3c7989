"""The noise of Electric: a cloze model that reads the original sequence and sees no token at its own place, so that q is
known for every token (Clark et al. 2020b, section 2.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fwk import BuildContext, Context, Key, LossTerm, Output, View, register
from fwk.contracts.sizes import SequenceShape, Transformer
from fwk.errors import ConfigError
from fwk.nn.masked_lm_head import OUTPUT_BIAS, OutputBias
from fwk.nn.softmax import Softmax
from fwk_plugins.electra.cloze_noiser import SAMPLING, TEMPERATURE, WEIGHT, ClozeNoiser, Sampling
from fwk_plugins.electra.corruption import RATIO, replaced, with_positions


@register("noiser", "two_tower")
class TwoTowerNoiser(ClozeNoiser):
    """Samples of a cloze model that reads the original sequence, so that q is known for every token.

    Its own likelihood loss runs over every ordinary token. The network lets no position see its own token ('two_tower', or
    'scaled' with `towers`).
    """

    knows_log_q = True
    chooses = True  # where the source view does not

    @dataclass(frozen=True, kw_only=True)
    class Config:
        ratio: float = RATIO
        sampling: Sampling = SAMPLING
        temperature: float = TEMPERATURE
        weight: float = WEIGHT
        output_bias: OutputBias = OUTPUT_BIAS

    def __init__(self, config: Config, build: BuildContext):
        super().__init__(config, build)
        if self.network.sees_itself:
            raise ConfigError(
                f"views.{build.name}.network",
                "lets a position see its own token, which a cloze model must not; "
                "expected 'two_tower', or 'scaled' with towers: true",
            )

    @classmethod
    def flops(cls, config: Config, network: tuple[Transformer, ...], shape: SequenceShape) -> float:
        runs = 1.5 if config.sampling == "run_again" else 1  # the second one has no backward pass
        head = network[0].softmax(shape, share=1.0, width=sum(tower.width for tower in network))
        return runs * (sum(tower.forward(shape) for tower in network) + head)

    def outline(self, source: View, key: Key) -> View:
        return with_positions(source, key, self.config.ratio).replace(changed=None)

    def apply(self, source: View, key: Key, context: Context, prepared: View | None = None) -> View:
        source = with_positions(source, key, self.config.ratio)
        original = source.replace(inputs={**source.inputs, "tokens": source.target})
        learned, sampled, _ = self.read(original, context)
        B, T = source.target.shape
        if prepared is None:
            drawn = sampled.sample(
                key.child("sample").uniform(T).flatten(), self.config.temperature
            ).view(B, T)
            view = replaced(source, source.at_positions(drawn))
            view = view.replace(
                log_q=sampled.log_probs(view.tokens.flatten(), self.config.temperature).view(B, T)
            )
        else:
            view = prepared
        return view.replace(extra={"softmax": learned})

    def log_probs(
        self, text: View, views: Mapping[str, View], options: Any, context: Context
    ) -> Tensor:
        _, sampled, _ = self.read(text, context)
        return sampled.log_probs(text.tokens.flatten(), self.config.temperature).view_as(
            text.tokens
        )

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        return {"cloze": views[self.source].ordinary.sum()}

    def losses(
        self,
        views: Mapping[str, View],
        outcomes: Mapping[str, Mapping[str, Tensor]],
        context: Context,
    ) -> Output:
        view = views[self.view]
        softmax: Softmax = view.extra["softmax"]
        counted = view.ordinary  # [B, T]
        losses = softmax.losses(view.target.flatten()).view_as(view.target)
        right = (softmax.best.view_as(view.target) == view.target) & counted
        return Output(
            terms={
                "cloze": LossTerm(
                    losses.masked_fill(~counted, 0.0).sum(), weight=self.config.weight
                )
            },
            statistics={
                "right": right.sum(),
                "positions": counted.sum(),
                "replaced": view.changed.sum(),
                "tokens": view.content.sum(),
            },
        )

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        return {
            "accuracy": float(sums["right"] / sums["positions"].clamp(min=1)),
            "replaced": float(sums["replaced"] / sums["tokens"].clamp(min=1)),
        }
