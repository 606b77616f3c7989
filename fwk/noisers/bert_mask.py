"""BERT's masking (Devlin et al. 2019, section 3.1).

Of the chosen positions 80% become [MASK], 10% a random token, and 10% stay as they are. Deviation: exactly
⌈ratio·n⌉ of a sequence's n ordinary tokens are chosen, instead of each with probability `ratio`; the split into
masked, random and unchanged is drawn per position.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fwk.components.registry import register
from fwk.contracts.context import BuildContext, Context
from fwk.contracts.keyed import THOUSANDTHS, Key, choose
from fwk.contracts.noiser import Noiser
from fwk.contracts.options import option
from fwk.contracts.views import View
from fwk.errors import ConfigError


@register("noiser", "bert_mask")
class BertMask(Noiser["BertMask.Config"]):
    """Replaces chosen tokens by [MASK] or a random token, or leaves them as they are (BERT)."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        ratio: float = option(
            0.15, "share of the ordinary tokens that is chosen (BERT: 0.15)", low=0, high=1
        )
        mask: float = option(
            0.8, "share of the chosen that becomes [MASK] (BERT: 0.8)", low=0, high=1
        )
        random: float = option(
            0.1, "share of the chosen that becomes a random token (BERT: 0.1)", low=0, high=1
        )

        def __post_init__(self) -> None:
            if self.mask + self.random > 1 + 1e-9:
                raise ValueError(f"mask {self.mask} and random {self.random} add up to more than 1")

    by_row = True
    chooses = True

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        vocabulary = build.vocabulary
        if vocabulary is None or vocabulary.mask < 0:
            raise ConfigError(
                f"views.{build.name}", "'bert_mask' needs a tokenizer with a [MASK] token"
            )
        self.mask = vocabulary.mask
        ordinary = torch.ones(vocabulary.size, dtype=torch.bool)
        ordinary[list(vocabulary.special)] = False
        self.ordinary = ordinary.nonzero().squeeze(1)  # ids that a random token may have

    def apply(self, source: View, key: Key, context: Context | None = None) -> View:
        """Return the masked view, with its chosen positions."""
        tokens = source.tokens  # [B, T]
        positions, valid = choose(key.child("choice"), source.ordinary, self.config.ratio)  # [B, K]
        self.ordinary = self.ordinary.to(tokens.device)
        shares = self.config.mask, self.config.random
        noised = corrupt(tokens, positions, valid, key, self.mask, self.ordinary, shares)
        return source.replace(
            inputs={**source.inputs, "tokens": noised},
            positions=positions,
            valid=valid,
            changed=noised
            != source.target,  # the original tokens, which the source may have changed
        )


def corrupt(
    tokens: Tensor,
    positions: Tensor,
    valid: Tensor,
    key: Key,
    mask: int,
    ordinary: Tensor,
    shares: tuple[float, float],
) -> Tensor:
    """Return the tokens, int64 [B, T], with those at the valid positions [B, K] masked, replaced or left.

    mask: the id of [MASK]. ordinary: the ids from which random tokens are drawn. shares: of [MASK] and of
    random tokens; the rest is left.
    """
    # padding slots, which come last, repeat the first position
    positions = torch.where(valid, positions, positions[:, :1])
    fate = key.child("fate").below(positions, THOUSANDTHS)  # [B, K]
    drawn = ordinary[key.child("token").below(positions, len(ordinary))]  # [B, K]
    old = tokens.gather(1, positions)  # [B, K]
    masked, random = (round(share * THOUSANDTHS) for share in shares)
    replaced = torch.where(fate < masked + random, drawn, old)
    new = torch.where(fate < masked, mask, replaced)
    # rows without a chosen position have no first position to repeat
    return tokens.scatter(1, positions, torch.where(valid[:, :1], new, old))
