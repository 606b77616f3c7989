"""Electric: noise-contrastive estimation of an energy-based cloze model (Clark et al. 2020b).

The model gives every token of a sequence an energy E(x)_t, and p^(x_t | x without t) =
exp(-E(x)_t), which is not normalised. Of a sequence's n ordinary tokens, k positions R are chosen at
random, and their tokens are drawn anew from the noise distribution q. So a token is data with
probability (n - k)/n and noise with probability k/n, and by Bayes' rule

    P(noise | x_t, context) = k q / (k q + (n - k) p^)  =  sigma(z_t)
    z_t = E(x)_t + log q(x_t | context) + log(k / (n - k))

    L = - sum over R of log sigma(z_t) - sum over the others of log sigma(-z_t),  divided by n

x is the sequence with its noise, so one pass of the encoder gives every term. q is conditioned on the
original sequence, is that of the distribution that was sampled (temperature included), and carries no
gradient. The chosen positions are the noise whatever was drawn there, the true token included. A
noiser that never draws the true token would therefore break Bayes' rule, and so would a source view
that chooses by token, such as 'frequency_mask', which is refused. A token that q never draws is data, and has no loss.

The dissertation's D is P(data) in one equation and P(noise) in another; above, sigma is P(noise)
throughout. Its Algorithm 1 weighs the terms by n times an expectation over data and k times one over
noise. Here a position is either data or noise, so that its n is n - k here, and the expected gradients
agree. A weight of 50 belongs to the mean, as ELECTRA's does. Sequences without data or without noise,
such as those of one ordinary token, have nothing to compare and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwk import BuildContext, Context, Criterion, LossTerm, Output, Read, View, option, register
from fwk.contracts.sizes import SequenceShape, Transformer
from fwk.nn.masked_lm_head import count_chosen
from fwk_plugins.electra.default_views import CLOZE
from fwk_plugins.electra.heads import token_head
from fwk_plugins.electra.histogram import binary_metrics, histogram


def chosen_positions(view: View) -> Tensor:
    """Return where a view's positions are chosen, bool [B, T], whatever token was drawn there.

    Raises ConfigError where its noiser chooses none.
    """
    count_chosen(view)  # raises
    T = view.target.shape[1]
    columns = torch.where(view.valid, view.positions, T)  # invalid slots write to an extra column
    chosen = torch.zeros_like(F.pad(view.target, (0, 1)), dtype=torch.bool)
    return chosen.scatter(1, columns, True)[:, :T]


def counted_tokens(view: View) -> Tensor:
    """Return the ordinary tokens of sequences that have both data and noise, bool [B, T]."""
    tokens = view.ordinary
    k = (chosen_positions(view) & tokens).sum(1, keepdim=True)  # [B, 1]
    n = tokens.sum(1, keepdim=True)  # [B, 1]
    return tokens & (k > 0) & (k < n)


def odds_of_noise(energy: Tensor, log_q: Tensor, noise: Tensor, counted: Tensor) -> Tensor:
    """Return z, [B, T], in fp32 or wider. energy, log_q: [B, T]. noise, counted: bool [B, T]."""
    k, n = (noise & counted).sum(1, keepdim=True), counted.sum(1, keepdim=True)  # [B, 1]
    wide = torch.promote_types(energy.dtype, torch.float32)
    return energy.to(wide) + log_q.detach().to(wide) + (k.to(wide) / (n - k).clamp(min=1)).log()


@register("criterion", "noise_contrastive")
class NoiseContrastive(Criterion["NoiseContrastive.Config"]):
    """Tell data from noise by an energy and the noise's probability.

    The energy becomes -log p, up to a constant near 0.
    """

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

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        encoder = build.require_encoder()
        encoder.check_sees_itself(f"criterion.{build.name}")
        if config.head == "dense":
            self.head: nn.Sequential | nn.Linear = token_head(encoder.width)
        else:
            self.head = nn.Linear(encoder.width, 1)
            nn.init.normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    @classmethod
    def reads(cls, config: Config) -> dict[str, Read]:
        return {
            config.view: Read(CLOZE, positions=True, any_token=True, log_q=True),
            "masked": Read({"noiser": "bert_mask"}, encoded=False),  # only its positions are used
        }

    @classmethod
    def flops(cls, config: Config, encoder: tuple[Transformer, ...], shape: SequenceShape) -> float:
        if config.head == "dense":
            return encoder[0].binary(shape)
        return 2.0 * encoder[0].width * shape.length

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        return {"contrast": counted_tokens(views[self.config.view]).sum()}

    def energies(self, features: Tensor) -> Tensor:
        """Return E, -log p^ of each token, [B, T], in fp32 or wider. features: [B, T, D].

        The last layer runs in wide numbers: at the size of an energy, the numbers of bf16 are too far
        apart.
        """
        if isinstance(self.head, nn.Linear):
            last = self.head
        else:
            dense, gelu, output = self.head
            features = gelu(dense(features))
            last = cast(nn.Linear, output)
        with torch.autocast(features.device.type, enabled=False):
            wide = torch.promote_types(features.dtype, torch.float32)
            return F.linear(features.to(wide), last.weight.to(wide), last.bias.to(wide)).squeeze(-1)

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        view = views[self.config.view]
        counted, noise = counted_tokens(view), chosen_positions(view)  # [B, T]
        energy = self.energies(view.encoded.features)  # [B, T]
        z = torch.where(counted, odds_of_noise(energy, view.log_q, noise, counted), 0.0)
        # z is minus infinity for a token that q never draws: it is certainly data, and its loss is 0
        losses = F.softplus(torch.where(noise, -z, z))
        total = losses.masked_fill(~counted, 0.0).sum()
        data = counted & ~noise
        return Output(
            terms={"contrast": LossTerm(total, weight=self.config.loss_weight)},
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
        # a log-probability to the extent that training has made the energies normalised
        return -self.energies(context.encode(text).features)

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        # The mean of -log p^ over data tokens, with the noise of the other positions in the context.
        # It is a pseudo-likelihood to the extent that p^ is normalised.
        energy = float(sums["energy"] / sums["data"].clamp(min=1))
        return {**binary_metrics(sums["histogram"]), "energy": energy}
