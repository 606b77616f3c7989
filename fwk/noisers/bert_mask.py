"""BERT's masking (Devlin et al. 2019, section 3.1): of the chosen positions 80% become [MASK], 10% a random token,
10% stay. Deviation: exactly ⌈ratio·n⌉ of a sequence's n ordinary tokens are chosen, instead of each with probability
`ratio`; the split into mask, random and kept is drawn per position.
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
    """Chooses ⌈ratio·n⌉ ordinary tokens per sequence and replaces them by [MASK], a random token, or nothing."""

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
        if self.vocabulary is None or self.vocabulary.mask < 0:
            raise ConfigError(
                f"views.{build.name}", "'bert_mask' needs a tokenizer with a [MASK] token"
            )
        ordinary = torch.ones(self.vocabulary.size, dtype=torch.bool)
        ordinary[list(self.vocabulary.special)] = False
        self.ordinary = ordinary.nonzero().squeeze(1)  # ids a random token may have

    def apply(self, source: View, key: Key, context: Context | None = None) -> View:
        tokens = source.tokens  # [B, T]
        positions, valid = choose(key.child("choice"), source.ordinary, self.config.ratio)  # [B, K]
        self.ordinary = self.ordinary.to(tokens.device)
        noised = corrupt(
            tokens,
            positions,
            valid,
            key,
            self.vocabulary.mask,
            self.ordinary,
            self.config.mask,
            self.config.random,
        )
        return source.replace(
            inputs={**source.inputs, "tokens": noised},
            target=tokens,
            positions=positions,
            valid=valid,
            changed=noised != tokens,
        )


def corrupt(
    tokens: Tensor,
    positions: Tensor,
    valid: Tensor,
    key: Key,
    mask_id: int,
    ordinary: Tensor,
    mask: float,
    random: float,
) -> Tensor:
    """Tokens [B, T] with those at positions [B, K] (where valid) replaced by [MASK], a random id of `ordinary`, or
    left, in the shares `mask`, `random` and the rest.
    """
    positions = torch.where(
        valid, positions, positions[:, :1]
    )  # padding slots, which come last, repeat the first one
    fate = key.child("fate").below(positions, THOUSANDTHS)  # [B, K]
    drawn = ordinary[key.child("token").below(positions, len(ordinary))]  # [B, K]
    old = tokens.gather(1, positions)  # [B, K]
    masked = round(mask * THOUSANDTHS)
    new = torch.where(
        fate < masked, mask_id, torch.where(fate < masked + round(random * THOUSANDTHS), drawn, old)
    )
    return tokens.scatter(
        1, positions, torch.where(valid[:, :1], new, old)
    )  # a row may have none to repeat
