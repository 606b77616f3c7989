"""Frequency-aware masking (a negative result of Clark et al. 2020, appendix F)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from fwk import BuildContext, Context, Key, Noiser, View, exact_share, option, register
from fwk.errors import ConfigError


@register("noiser", "frequency_mask")
class FrequencyMask(Noiser):
    """[MASK] at ⌈ratio·n⌉ positions, rarer tokens before frequent ones.

    A negative result of Clark et al. 2020, appendix F. Positions are drawn one after another without replacement, each with
    a chance proportional to its number of tickets: 1 for the most frequent token, one more for each halving of the
    frequency up to `tickets`.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        ratio: float = option(0.15, "share of the ordinary tokens that is chosen", low=0, high=1)
        tickets: int = option(
            8,
            "how many times as likely the rarest tokens are chosen as the most frequent one",
            low=1,
            high=64,
        )

    by_row = True
    chooses = True

    def __init__(self, config: Config, build: BuildContext):
        super().__init__(config, build)
        if self.vocabulary is None or self.vocabulary.mask < 0:
            raise ConfigError(
                f"views.{build.name}", "'frequency_mask' needs a tokenizer with a [MASK] token"
            )
        if self.vocabulary.counts is None:
            raise ConfigError(
                f"views.{build.name}",
                "'frequency_mask' needs the tokens' frequencies, which this task does not know",
            )
        counts = self.vocabulary.counts
        halvings = (counts.max().clamp(min=1) / counts.clamp(min=1)).log2().floor().to(torch.int64)
        self.tickets = (1 + halvings).clamp(max=config.tickets)  # int64 [V]

    def apply(self, source: View, key: Key, context: Context | None = None) -> View:
        tokens = source.tokens
        B, T = tokens.shape
        self.tickets = self.tickets.to(tokens.device)
        tickets = self.tickets[tokens]  # [B, T]
        # the smallest of w uniform numbers is below u with chance 1 - (1 - u)^w: the order of such minima is that of
        # drawing without replacement in proportion to w
        rank = key.child("ticket/0").bits(T)
        for number in range(1, self.config.tickets):
            other = key.child(f"ticket/{number}").bits(T)
            rank = torch.where(number < tickets, torch.minimum(rank, other), rank)
        usable = source.ordinary
        rank = torch.where(usable, rank, torch.iinfo(torch.int64).max)
        K = int(exact_share(self.config.ratio, T))
        order = rank.argsort(dim=1, stable=True)[:, :K]
        valid = torch.arange(K, device=tokens.device) < exact_share(
            self.config.ratio, usable.sum(1, keepdim=True)
        )
        positions = torch.where(valid, order, T).sort(1).values
        noised = F.pad(tokens, (0, 1)).scatter(1, positions, self.vocabulary.mask)[:, :T]
        return source.replace(
            inputs={**source.inputs, "tokens": noised},
            target=tokens,
            changed=noised != tokens,
            positions=torch.where(valid, positions, 0),
            valid=valid,
        )
