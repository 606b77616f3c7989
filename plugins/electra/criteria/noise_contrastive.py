"""Electric: noise-contrastive estimation of an energy-based cloze model (Clark et al. 2020b).

The model gives every token of a sequence an energy E(x)_t; p^(x_t | x without t) = exp(-E(x)_t), which is not normalised.
Of a sequence's n ordinary tokens, k positions R are chosen at random and their tokens drawn anew from the noise
distribution q. So a token is data with chance (n - k)/n and noise with chance k/n, and by Bayes' rule

    P(noise | x_t, context) = k q / (k q + (n - k) p^)  =  sigma(z_t)
    z_t = E(x)_t + log q(x_t | context) + log(k / (n - k))

    L = - sum over R of log sigma(z_t) - sum over the others of log sigma(-z_t),  divided by n

x is the sequence with its noise, so one pass of the encoder gives every term; q is conditioned on the original sequence, is
that of the distribution that was sampled (temperature included), and carries no gradient. The chosen positions are the
noise whatever was drawn there, the true token included, so a noiser that never draws it would break Bayes' rule, and so would a
source view that chooses by token, such as 'frequency_mask'. A token that q never draws is data, and has no loss.

The dissertation's D is P(data) in one equation and P(noise) in another; above, sigma is P(noise) throughout. Its Algorithm 1
weighs the terms n times an expectation over data and k times one over noise; here a position is one or the other, so n there
is n - k here, and the expected gradients agree. A weight of 50 belongs to the mean, as ELECTRA's does. Sequences without data or
without noise, such as those of one ordinary token, have nothing to compare and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwk import BuildContext, Context, Criterion, LossTerm, Output, View, option, register
from fwk.contracts.sizes import SequenceShape, Transformer
from fwk.nn.masked_lm_head import count_chosen
from fwk_plugins.electra.heads import CLOZE, token_head
from fwk_plugins.electra.histogram import binary_metrics, histogram


def chosen_positions(view: View) -> Tensor:
    """bool [B, T]: the chosen positions of a view, whatever stands there. ConfigError when there are none at all."""
    count_chosen(view)
    T = view.target.shape[1]
    where = torch.where(view.valid, view.positions, T)
    return torch.zeros_like(F.pad(view.target, (0, 1)), dtype=torch.bool).scatter(1, where, True)[
        :, :T
    ]


def odds_of_noise(energy: Tensor, log_q: Tensor, noise: Tensor, counted: Tensor) -> Tensor:
    """z [B, T] in fp32 or wider: energy and log_q [B, T], bool noise and bool counted [B, T]."""
    k, n = (noise & counted).sum(1, keepdim=True), counted.sum(1, keepdim=True)  # [B, 1]
    wide = torch.promote_types(energy.dtype, torch.float32)
    return energy.to(wide) + log_q.detach().to(wide) + (k.to(wide) / (n - k).clamp(min=1)).log()


@register("criterion", "noise_contrastive")
class NoiseContrastive(Criterion):
    """Tell data from noise by an energy and the noise's probability: the energy becomes -log p, up to a constant near 0."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        view: str = option(
            "corrupted",
            "the view whose tokens are judged; its noiser must know log q of every token",
        )
        loss_weight: float = option(50.0, "weight of the mean (Electric: 50)", low=0)
        head: Literal["linear", "dense"] = option(
            "linear",
            "energy: a linear map of the features (the paper's text), or dense, "
            "GELU, dense (the released code)",
        )

    def __init__(self, config: Config, build: BuildContext):
        super().__init__(config, build)
        build.encoder.check_sees_itself(f"criterion.{build.name}")
        if config.head == "dense":
            self.head: nn.Module = token_head(build.encoder.width)
        else:
            self.head = nn.Linear(build.encoder.width, 1)
            nn.init.normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    @classmethod
    def views(cls, config: Config) -> dict[str, dict[str, Any]]:
        return {config.view: CLOZE, "masked": {"noiser": "bert_mask"}}

    @classmethod
    def encoded(cls, config: Config) -> tuple[str, ...]:
        return (config.view,)  # of the masked view only the chosen positions are used

    def _counted(self, view: View) -> Tensor:
        """bool [B, T]: ordinary tokens of sequences that have data and noise."""
        tokens = view.ordinary
        k, n = (chosen_positions(view) & tokens).sum(1, keepdim=True), tokens.sum(1, keepdim=True)
        return tokens & (k > 0) & (k < n)

    @classmethod
    def needs_log_q(cls, config: Config) -> tuple[str, ...]:
        return (config.view,)

    @classmethod
    def needs_positions(cls, config: Config) -> tuple[str, ...]:
        return (config.view,)

    @classmethod
    def flops(cls, config: Config, encoder: tuple[Transformer, ...], shape: SequenceShape) -> float:
        return (
            encoder[0].binary(shape)
            if config.head == "dense"
            else 2.0 * encoder[0].width * shape.length
        )

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        return {"contrast": self._counted(views[self.config.view]).sum()}

    def energies(self, features: Tensor) -> Tensor:
        """features [B, T, D] -> E [B, T], -log p^ of each token, in fp32 or wider: narrow numbers are too far apart at its size."""
        *first, last = self.head if self.config.head == "dense" else (self.head,)
        for layer in first:
            features = layer(features)
        with torch.autocast(features.device.type, enabled=False):
            wide = torch.promote_types(features.dtype, torch.float32)
            return F.linear(features.to(wide), last.weight.to(wide), last.bias.to(wide)).squeeze(-1)

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        view = views[self.config.view]
        counted, noise = self._counted(view), chosen_positions(view)
        energy = self.energies(view.encoded.features)
        z = torch.where(counted, odds_of_noise(energy, view.log_q, noise, counted), 0.0)
        losses = F.softplus(
            torch.where(noise, -z, z)
        )  # 0 at minus infinity, where it is certain that q did not draw a token
        data = counted & ~noise
        return Output(
            terms={
                "contrast": LossTerm(
                    losses.masked_fill(~counted, 0.0).sum(), weight=self.config.loss_weight
                )
            },
            statistics={
                "histogram": histogram(z, noise, counted),
                "data": data.sum(),
                "energy": energy.detach().masked_fill(~data, 0.0).sum(dtype=torch.float64),
            },
            outcomes={"original": torch.sigmoid(-z.detach())},
        )

    def log_probs(
        self, text: View, views: Mapping[str, View], options: Any, context: Context
    ) -> Tensor:
        return -self.energies(
            context.encode(text).features
        )  # normalised as well as training made it

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        # of data, -log p^ under the one-pass reading: a pseudo-likelihood to the extent that p^ is normalised
        energy = float(sums["energy"] / sums["data"].clamp(min=1))
        return {**binary_metrics(sums["histogram"]), "energy": energy}
