"""The noise of Electric: samples of a cloze model (Clark et al. 2020b, section 2.3).

The model reads the original sequence and sees no token at its own position, so q is known for every
token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fwk import BuildContext, Context, Key, LossTerm, Output, View, register
from fwk.contracts.sizes import SequenceShape, Transformer
from fwk.errors import ConfigError
from fwk.nn.softmax import Softmax
from fwk_plugins.electra.cloze_noiser import ClozeNoiser, ClozeOptions, require_network
from fwk_plugins.electra.corruption import RATIO, ensure_positions, replace_chosen


@register("noiser", "two_tower")
class TwoTowerNoiser(ClozeNoiser["TwoTowerNoiser.Config"]):
    """Samples of a cloze model that reads the original sequence, so that q is known for every token.

    Its own likelihood loss runs over every ordinary token. The network lets no position see its own
    token: it is 'two_tower', or 'scaled' with `towers`.
    """

    knows_log_q = True
    chooses = True  # where the source view does not

    @dataclass(frozen=True, kw_only=True)
    class Config(ClozeOptions):
        ratio: float = RATIO

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        if require_network(build).sees_itself:
            raise ConfigError(
                f"views.{build.name}.network",
                "lets a position see its own token, which a cloze model must not; "
                "expected 'two_tower', or 'scaled' with towers: true",
            )

    @classmethod
    def flops(cls, config: Config, network: tuple[Transformer, ...], shape: SequenceShape) -> float:
        runs = 1.5 if config.sampling == "run_again" else 1  # the second run has no backward pass
        towers = sum(tower.forward(shape) for tower in network)
        head = network[0].softmax(shape, share=1.0, width=sum(tower.width for tower in network))
        return runs * (towers + head)

    def outline(self, source: View, key: Key) -> View:
        return ensure_positions(source, key, self.config.ratio).replace(changed=None)

    def apply(  # type: ignore[override]  # as `LearnedNoiser.apply`
        self, source: View, key: Key, context: Context, prepared: View | None = None
    ) -> View:
        source = ensure_positions(source, key, self.config.ratio)
        original = source.replace(inputs={**source.inputs, "tokens": source.target})
        learned, sampled, _ = self.distributions(original, context)
        view = prepared if prepared is not None else self._sample(source, key, sampled)
        return view.replace(extra={"softmax": learned})

    def _sample(self, source: View, key: Key, distribution: Softmax) -> View:
        """Return the source view with keyed samples at its chosen positions, and log q of all tokens."""
        B, T = source.target.shape
        uniform = key.child("sample").uniform(T).flatten()
        drawn = distribution.sample(uniform, self.config.temperature).view(B, T)
        view = replace_chosen(source, source.at_positions(drawn))
        log_q = distribution.log_probs(view.tokens.flatten(), self.config.temperature)
        return view.replace(log_q=log_q.view(B, T))

    def log_probs(
        self, text: View, views: Mapping[str, View], options: Any, context: Context
    ) -> Tensor:
        sampled = self.distributions(text, context).sampled
        log_q = sampled.log_probs(text.tokens.flatten(), self.config.temperature)
        return log_q.view_as(text.tokens)

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
        total = losses.masked_fill(~counted, 0.0).sum()
        return Output(
            terms={"cloze": LossTerm(total, weight=self.config.weight)},
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
