"""Any ordinary token with equal probability, at the chosen positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fwk import BuildContext, Context, Key, Noiser, View, register
from fwk.errors import ConfigError
from fwk_plugins.electra.corruption import RATIO, replaced, with_positions


@register("noiser", "uniform")
class Uniform(Noiser):
    """Any ordinary token with equal probability."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        ratio: float = RATIO

    by_row = True
    chooses = True
    knows_log_q = True

    def __init__(self, config: Any, build: BuildContext):
        super().__init__(config, build)
        if self.vocabulary is None:
            raise ConfigError(
                f"views.{build.name}", "this noiser draws tokens, and the task has no vocabulary"
            )
        ordinary = torch.ones(self.vocabulary.size, dtype=torch.bool)
        ordinary[list(self.vocabulary.special)] = False
        # how many tickets each id has in the draw, as integers, so that every device draws the same
        self.tickets = torch.where(ordinary, self.weights().to(torch.int64), 0)  # [V]
        self.upto = self.tickets.cumsum(0)
        self.total = int(self.upto[-1])
        self.log_share = (
            self.tickets.double().log() - self.tickets.sum().double().log()
        ).float()  # -inf: never drawn

    def weights(self) -> Tensor:
        return torch.ones(self.vocabulary.size)

    def log_probs(
        self, text: View, views: Mapping[str, View], options: Any, context: Context
    ) -> Tensor:
        return self.log_share.to(text.tokens.device)[text.tokens]

    def apply(self, source: View, key: Key, context: Context | None = None) -> View:
        source = with_positions(source, key, self.config.ratio)
        device = source.draws.device
        self.upto, self.log_share = self.upto.to(device), self.log_share.to(device)
        ticket = key.child("token").below(source.positions, self.total)
        view = replaced(source, torch.searchsorted(self.upto, ticket, right=True))
        return view.replace(log_q=self.log_share[view.tokens])
