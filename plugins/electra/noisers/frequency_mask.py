"""Frequency-aware masking, a negative result of Clark et al. 2020 (appendix F)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fwk import BuildContext, Context, Key, Noiser, View, exact_share, option, register
from fwk.errors import ConfigError


@register("noiser", "frequency_mask")
class FrequencyMask(Noiser["FrequencyMask.Config"]):
    """[MASK] at ⌈ratio·n⌉ positions, rarer tokens before frequent ones.

    A negative result of Clark et al. 2020, appendix F. Positions are drawn one after another without
    replacement, each with a probability proportional to its number of tickets: 1 for the most
    frequent token, and one more for each halving of the frequency, up to `tickets`.
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
    chooses_by_token = True

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        vocabulary = build.vocabulary
        if vocabulary is None or vocabulary.mask < 0:
            raise ConfigError(
                f"views.{build.name}", "'frequency_mask' needs a tokenizer with a [MASK] token"
            )
        if vocabulary.counts is None:
            raise ConfigError(
                f"views.{build.name}",
                "'frequency_mask' needs the tokens' frequencies, which this task does not know",
            )
        self.mask = vocabulary.mask
        counts = vocabulary.counts
        halvings = (counts.max().clamp(min=1) / counts.clamp(min=1)).log2().floor().to(torch.int64)
        self.tickets = (1 + halvings).clamp(max=config.tickets)  # int64 [V]

    def apply(self, source: View, key: Key, context: Context | None = None) -> View:
        tokens = source.tokens
        T = tokens.shape[1]
        positions, valid = self._choose(source, key)  # [B, K]
        # slots without a choice write to an extra column, which is cut off
        columns = torch.where(valid, positions, T)
        noised = F.pad(tokens, (0, 1)).scatter(1, columns, self.mask)[:, :T]
        return source.replace(
            inputs={**source.inputs, "tokens": noised},
            changed=noised
            != source.target,  # the original tokens, which the source may have changed
            positions=positions,
            valid=valid,
        )

    def _choose(self, source: View, key: Key) -> tuple[Tensor, Tensor]:
        """Return the chosen positions in ascending order, int64 [B, K], and which of them are valid."""
        ratio, ordinary = self.config.ratio, source.ordinary  # bool [B, T]
        T = ordinary.shape[1]
        rank = torch.where(ordinary, self._rank(source.tokens, key), torch.iinfo(torch.int64).max)

        K = int(exact_share(ratio, T))
        order = rank.argsort(dim=1, stable=True)[:, :K]
        slots = torch.arange(K, device=order.device)
        valid = slots < exact_share(ratio, ordinary.sum(1, keepdim=True))  # [B, K]
        # invalid slots sort to the end, so `valid` stays true of the slots that it was true of
        positions = torch.where(valid, order, T).sort(1).values
        return torch.where(valid, positions, 0), valid

    def _rank(self, tokens: Tensor, key: Key) -> Tensor:
        """Return a random number for every position, int64 [B, T], whose order is that of the draw.

        The smallest of w uniform numbers is below u with probability 1 - (1 - u)^w. Sorting by such
        minima is drawing without replacement in proportion to w.
        """
        self.tickets = self.tickets.to(tokens.device)
        T = tokens.shape[1]
        tickets = self.tickets[tokens]  # [B, T]
        rank = key.child("ticket/0").bits(T)
        for number in range(1, self.config.tickets):
            other = key.child(f"ticket/{number}").bits(T)
            rank = torch.where(number < tickets, torch.minimum(rank, other), rank)
        return rank
