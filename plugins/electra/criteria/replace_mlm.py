"""Replace MLM: masked LM on text in which a generator's samples stand instead of [MASK] (Clark et al. 2020, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fwk import Criterion, option, register
from fwk.criteria.masked_lm import MaskedLM
from fwk_plugins.electra.heads import GENERATED


@register("criterion", "replace_mlm")
class ReplaceMLM(MaskedLM):
    """Cross-entropy of the original tokens at the chosen positions of a corrupted view."""

    @dataclass(frozen=True, kw_only=True)
    class Config(MaskedLM.Config):
        view: str = option("corrupted", "the view whose chosen positions are predicted")

    @classmethod
    def views(cls, config: Config) -> dict[str, dict[str, Any]]:
        return {config.view: GENERATED, "masked": {"noiser": "bert_mask"}}

    @classmethod
    def encoded(cls, config: Config) -> tuple[str, ...]:
        return (config.view,)

    log_probs = (
        Criterion.log_probs
    )  # it never reads [MASK], so there is no telling a token from the others alone
