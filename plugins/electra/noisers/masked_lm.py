"""The generator of ELECTRA: a small masked LM, whose loss is its own (Clark et al. 2020, section 2).

It reads the source view, and its samples replace the tokens that the source view chose and masked.
"""

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
from fwk.nn.masked_lm_head import count_chosen, masked_log_probs
from fwk.nn.softmax import Softmax
from fwk_plugins.electra.cloze_noiser import ClozeNoiser, ClozeOptions, require_network
from fwk_plugins.electra.corruption import choose_unchanged, replace_chosen

LEAST_PROBABILITY = 1e-6  # of the discriminator, in a reward: caps it at 13.8 nats


@register("noiser", "masked_lm")
class MaskedLMNoiser(ClozeNoiser["MaskedLMNoiser.Config"]):
    """Samples of a small masked LM at the positions that the source view chose and masked.

    It learns by likelihood, or, in a negative result of the paper, by fooling the discriminator
    (appendix F):

        L   = - sum over R of (r_t - b_t) log q(x~_t)
              + cross-entropy of exp(-b_t) against exp(-r_t)                          over |R|
        r_t = -log D_t where x~_t = x_t, else -log(1 - D_t)
        D_t = P(original), without gradient
        b_t = -log sigmoid(v . h_t), h_t without gradient

    The case distinction inside the printed sum over R is a misprint: a sample may be the true token. Deviation: a
    reward is at most -log 1e-6 = 13.8 nats, so that a discriminator that is certain, and wrong, gives no infinite
    gradient.
    """

    roles = ("masked_lm",)
    chooses = False
    reads_positions = True

    @dataclass(frozen=True, kw_only=True)
    class Config(ClozeOptions):
        never_true: bool = option(False, "never draw the original token")
        unchanged: float = option(
            0.0,
            "share of the sequences that keep their tokens, for detecting corrupted sequences",
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

        def __post_init__(self) -> None:
            changed = self.temperature != 1 or self.never_true or self.unchanged
            if self.learns == "adversarial" and (changed or self.sampling == "run_again"):
                raise ValueError(
                    "learns: adversarial differentiates the distribution that was sampled; it needs "
                    "temperature 1, never_true false, unchanged 0, and sampling in one run"
                )

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        self.mask = build.require_vocabulary().mask
        if config.learns == "adversarial":
            self.baseline = nn.Linear(require_network(build).width, 1)
            nn.init.zeros_(self.baseline.weight)
            nn.init.zeros_(self.baseline.bias)

    @classmethod
    def flops(cls, config: Config, network: tuple[Transformer, ...], shape: SequenceShape) -> float:
        runs = 1.5 if config.sampling == "run_again" else 1  # the second run has no backward pass
        return runs * (network[0].forward(shape) + network[0].softmax(shape))

    def apply(  # type: ignore[override]  # as `LearnedNoiser.apply`
        self, source: View, key: Key, context: Context, prepared: View | None = None
    ) -> View:
        if prepared is not None and self.config.learns == "adversarial":
            raise ConfigError(
                f"views.{self.view}.prepare",
                "learns: adversarial differentiates the distribution that was sampled, and prepared "
                "samples come from another run; leave prepare out",
            )
        learned, sampled, features = self.distributions(source, context, at=source)
        view = prepared if prepared is not None else self._sample(source, key, sampled)
        return view.replace(extra={"softmax": learned, "features": features.detach()})

    def _sample(self, source: View, key: Key, distribution: Softmax) -> View:
        """Return the source view with keyed samples at its chosen positions."""
        target = source.at_positions(source.target)  # [B, K]
        drawn = distribution.sample(
            key.child("sample").uniform(source.positions).flatten(),
            self.config.temperature,
            target.flatten() if self.config.never_true else None,
        )
        unchanged = choose_unchanged(key, self.config.unchanged, target.device)
        return replace_chosen(source, drawn.view_as(target), unchanged)

    def log_probs(
        self, text: View, views: Mapping[str, View], options: Any, context: Context
    ) -> Tensor:
        if self.config.never_true or self.config.unchanged:
            raise ConfigError(
                f"views.{self.view}",
                "cannot score with never_true or unchanged, as samples then do not follow the "
                "network's distribution; leave both out",
            )
        return masked_log_probs(self.head, text, self.mask, context, self.config.temperature)

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        count = count_chosen(views[self.source])
        if self.config.learns == "adversarial":
            return {"policy": count, "baseline": count}
        return {"masked_lm": count}

    def losses(
        self,
        views: Mapping[str, View],
        outcomes: Mapping[str, Mapping[str, Tensor]],
        context: Context,
    ) -> Output:
        view = views[self.view]
        softmax: Softmax = view.extra["softmax"]
        target = view.at_positions(view.target)  # [B, K]
        statistics = {
            "right": ((softmax.best.view_as(target) == target) & view.valid).sum(),
            "positions": view.valid.sum(),
            "replaced": view.changed.sum(),
            "tokens": view.content.sum(),
        }
        if self.config.learns == "adversarial":
            terms, reward = self._adversarial(view, softmax, self._critic(outcomes))
            return Output(terms=terms, statistics={**statistics, "reward": reward})

        losses = softmax.losses(target.flatten()).view_as(target)
        total = losses.masked_fill(~view.valid, 0.0).sum()
        return Output(
            terms={"masked_lm": LossTerm(total, weight=self.config.weight)}, statistics=statistics
        )

    def _adversarial(
        self, view: View, softmax: Softmax, probability: Tensor
    ) -> tuple[dict[str, LossTerm], Tensor]:
        """Return the loss terms of REINFORCE with a learned baseline, and the sum of the rewards.

        probability: [B, T], P(original) of the discriminator.
        """
        target, drawn = view.at_positions(view.target), view.at_positions(view.tokens)  # [B, K]
        original = view.at_positions(probability).detach()  # [B, K], D
        judged = torch.where(drawn == target, original, 1 - original)  # P(what the token is)
        reward = -judged.clamp(min=LEAST_PROBABILITY).log()

        logit = self.baseline(view.extra["features"]).view_as(reward)
        baseline = -F.logsigmoid(logit.detach())
        advantage = (reward - baseline).masked_fill(~view.valid, 0.0)
        policy = (advantage * softmax.losses(drawn.flatten()).view_as(reward)).sum()
        fit = F.binary_cross_entropy_with_logits(logit, (-reward).exp(), reduction="none")
        terms = {
            "policy": LossTerm(policy, weight=self.config.weight),
            "baseline": LossTerm(fit.masked_fill(~view.valid, 0.0).sum()),
        }
        return terms, reward.masked_fill(~view.valid, 0.0).sum()

    def _critic(self, outcomes: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
        """Return P(original), [B, T], as a criterion reports it.

        Raises ConfigError where `critic` does not determine which criterion that is.
        """
        reported = {
            label: outcome["original"]
            for label, outcome in outcomes.items()
            if "original" in outcome
        }
        critic = self.config.critic
        if critic is None and len(reported) == 1:
            return next(iter(reported.values()))
        if critic is None or critic not in reported:
            fact = f"{len(reported) or 'no'} criteria do"
            if critic is not None:
                fact = f"criterion '{critic}' does not"
            raise ConfigError(
                f"views.{self.view}.critic",
                f"expected one criterion that reports P(original), and {fact}"
                f"{did_you_mean(critic or '', reported)}",
            )
        return reported[critic]

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        positions = sums["positions"].clamp(min=1)
        values = {
            "accuracy": float(sums["right"] / positions),
            "replaced": float(sums["replaced"] / sums["tokens"].clamp(min=1)),
        }
        if "reward" in sums:
            values["reward"] = float(sums["reward"] / positions)
        return values
