"""Random tokens at the chosen positions, every ordinary token with equal probability."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fwk import BuildContext, Context, Key, Noiser, View, Vocabulary, register
from fwk.errors import ConfigError
from fwk_plugins.electra.corruption import RATIO, ensure_positions, replace_chosen


@register("noiser", "uniform")
class Uniform(Noiser["Uniform.Config"]):
    """Any ordinary token with equal probability."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        ratio: float = RATIO

    by_row = True
    chooses = True
    knows_log_q = True

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        if build.vocabulary is None:
            raise ConfigError(
                f"views.{build.name}", "this noiser draws tokens, and the task has no vocabulary"
            )
        ordinary = torch.ones(build.vocabulary.size, dtype=torch.bool)
        ordinary[list(build.vocabulary.special)] = False
        # A lottery: tickets are integers, so that every device draws the same tokens. Token x has
        # the tickets ticket_ends[x - 1] up to, but not including, ticket_ends[x].
        tickets = torch.where(ordinary, self.tickets(build.vocabulary).to(torch.int64), 0)  # [V]
        self.ticket_ends = tickets.cumsum(0)
        self.total = int(self.ticket_ends[-1])
        # float64 [V], -inf for a token that is never drawn; a run in fp64 needs all digits
        self.log_q = tickets.double().log() - tickets.sum().double().log()

    def tickets(self, vocabulary: Vocabulary) -> Tensor:
        """Return how often each token occurs in the lottery, [V]. Special tokens are left out later."""
        return torch.ones(vocabulary.size)

    def log_probs(
        self, text: View, views: Mapping[str, View], options: Any, context: Context
    ) -> Tensor:
        return self.log_q.to(text.tokens.device)[text.tokens]

    def apply(self, source: View, key: Key, context: Context | None = None) -> View:
        source = ensure_positions(source, key, self.config.ratio)
        device = source.draws.device
        self.ticket_ends, self.log_q = self.ticket_ends.to(device), self.log_q.to(device)
        ticket = key.child("token").below(source.positions, self.total)  # [B, K]
        drawn = torch.searchsorted(self.ticket_ends, ticket, right=True)
        view = replace_chosen(source, drawn)
        return view.replace(log_q=self.log_q[view.tokens])
