"""The generator of ELECTRA: a small masked LM on the source view, whose loss is its own (Clark et al. 2020, section 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwk import BuildContext, Context, Key, LossTerm, Output, View, option, register
from fwk.contracts.sizes import SequenceShape, Transformer
from fwk.errors import ConfigError, did_you_mean
from fwk.nn.masked_lm_head import OUTPUT_BIAS, OutputBias, count_chosen, masked_log_probs
from fwk.nn.softmax import Softmax
from fwk_plugins.electra.cloze_noiser import SAMPLING, TEMPERATURE, WEIGHT, ClozeNoiser, Sampling
from fwk_plugins.electra.corruption import kept, replaced


@register("noiser", "masked_lm")
class MaskedLMNoiser(ClozeNoiser):
    """Samples of a small masked LM at the positions that the source view chose and masked.

    It learns by likelihood, or, as a negative result of the paper has it, from fooling the discriminator (appendix F):

        r_t = -log D_t where x~_t = x_t, else -log(1 - D_t)                        D_t = P(original), without gradient
        L   = - sum over R of (r_t - b_t) log q(x~_t)  + cross-entropy of exp(-b_t) against exp(-r_t)         over |R|
        b_t = -log sigmoid(v . h_t)                                                h_t without gradient

    The case distinction inside the printed sum over R is a misprint: a sample may be the true token.
    """

    roles = ("masked_lm",)
    chooses = False
    reads_positions = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        sampling: Sampling = SAMPLING
        temperature: float = TEMPERATURE
        never_true: bool = option(False, "never draw the original token")
        unchanged: float = option(
            0.0,
            "share of the sequences that are left as they are, for detecting corrupted sequences",
            low=0,
            high=1,
        )
        learns: Literal["likelihood", "adversarial"] = option(
            "likelihood",
            "from the original tokens, or by REINFORCE from the discriminator's errors",
        )
        critic: str | None = option(
            None, "criterion whose errors are the reward (default: the one that reports them)"
        )
        weight: float = WEIGHT
        output_bias: OutputBias = OUTPUT_BIAS

        def __post_init__(self):
            if self.learns == "adversarial" and (
                self.temperature != 1
                or self.never_true
                or self.unchanged
                or self.sampling == "run_again"
            ):
                raise ValueError(
                    "learns: adversarial differentiates the distribution that was sampled: temperature 1, "
                    "never_true false, unchanged 0, and sampling in one run"
                )

    def __init__(self, config: Config, build: BuildContext):
        super().__init__(config, build)
        if config.learns == "adversarial":
            self.baseline = nn.Linear(self.network.width, 1)
            nn.init.zeros_(self.baseline.weight)
            nn.init.zeros_(self.baseline.bias)

    @classmethod
    def flops(cls, config: Config, network: tuple[Transformer, ...], shape: SequenceShape) -> float:
        runs = 1.5 if config.sampling == "run_again" else 1  # the second one has no backward pass
        return runs * (network[0].forward(shape) + network[0].softmax(shape))

    def apply(self, source: View, key: Key, context: Context, prepared: View | None = None) -> View:
        if prepared is not None and self.config.learns == "adversarial":
            raise ConfigError(
                f"views.{self.view}.prepare",
                "learns: adversarial differentiates the distribution that was sampled, and "
                "prepared samples are those of another run; leave it out",
            )
        learned, sampled, features = self.read(source, context, at=source)
        target = source.at_positions(source.target)  # [B, K]
        if prepared is None:
            uniform = key.child("sample").uniform(source.positions).flatten()
            drawn = sampled.sample(
                uniform,
                self.config.temperature,
                target.flatten() if self.config.never_true else None,
            )
            view = replaced(source, drawn.view_as(target), kept(key, self.config.unchanged, target))
        else:
            view = prepared
        return view.replace(extra={"softmax": learned, "features": features.detach()})

    def log_probs(
        self, text: View, views: Mapping[str, View], options: Any, context: Context
    ) -> Tensor:
        if self.config.never_true or self.config.unchanged:
            raise ConfigError(
                f"views.{self.view}",
                "never_true and unchanged change what is drawn from what the network says; without "
                "them it could score",
            )
        return masked_log_probs(
            self.head, text, self.vocabulary.mask, context, self.config.temperature
        )

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        count = count_chosen(views[self.source])
        return (
            {"policy": count, "baseline": count}
            if self.config.learns == "adversarial"
            else {"masked_lm": count}
        )

    def losses(
        self,
        views: Mapping[str, View],
        outcomes: Mapping[str, Mapping[str, Tensor]],
        context: Context,
    ) -> Output:
        view = views[self.view]
        softmax: Softmax = view.extra["softmax"]
        target, drawn = (view.at_positions(ids) for ids in (view.target, view.tokens))  # [B, K]
        statistics = {
            "right": ((softmax.best.view_as(target) == target) & view.valid).sum(),
            "positions": view.valid.sum(),
            "replaced": view.changed.sum(),
            "tokens": view.content.sum(),
        }
        if self.config.learns == "likelihood":
            losses = softmax.losses(target.flatten()).view_as(target)
            return Output(
                terms={
                    "masked_lm": LossTerm(
                        losses.masked_fill(~view.valid, 0.0).sum(), weight=self.config.weight
                    )
                },
                statistics=statistics,
            )
        original = view.at_positions(self._critic(outcomes)).detach()  # [B, K], D
        reward = -torch.where(drawn == target, original, 1 - original).clamp(min=1e-6).log()
        logit = self.baseline(view.extra["features"]).view_as(reward)
        advantage = (reward + F.logsigmoid(logit.detach())).masked_fill(~view.valid, 0.0)
        policy = (advantage * softmax.losses(drawn.flatten()).view_as(reward)).sum()
        fit = F.binary_cross_entropy_with_logits(logit, (-reward).exp(), reduction="none")
        statistics |= {"reward": reward.masked_fill(~view.valid, 0.0).sum()}
        return Output(
            terms={
                "policy": LossTerm(policy, weight=self.config.weight),
                "baseline": LossTerm(fit.masked_fill(~view.valid, 0.0).sum()),
            },
            statistics=statistics,
        )

    def _critic(self, outcomes: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
        """P(original) [B, T], as a criterion reports it."""
        known = {
            label: outcome["original"]
            for label, outcome in outcomes.items()
            if "original" in outcome
        }
        if self.config.critic is None and len(known) == 1:
            return next(iter(known.values()))
        if self.config.critic not in known:
            said = (
                f"criterion '{self.config.critic}' does not"
                if self.config.critic
                else f"{len(known) or 'no'} criteria do"
            )
            raise ConfigError(
                f"views.{self.view}.critic",
                f"expected one criterion that reports P(original), and {said}"
                f"{did_you_mean(self.config.critic or '', known)}",
            )
        return known[self.config.critic]

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        found = {
            "accuracy": float(sums["right"] / sums["positions"].clamp(min=1)),
            "replaced": float(sums["replaced"] / sums["tokens"].clamp(min=1)),
        }
        return found | (
            {"reward": float(sums["reward"] / sums["positions"].clamp(min=1))}
            if "reward" in sums
            else {}
        )
