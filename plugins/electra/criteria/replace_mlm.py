"""Replace MLM: masked LM on text with a generator's samples in place of [MASK] (Clark et al. 2020, section 3.4).

L = - mean over chosen positions t of log p(x_t | x~)          x~: tokens of `view`, x: `view.target`
"""

from __future__ import annotations

from dataclasses import dataclass

from fwk import Criterion, Read, option, register
from fwk.criteria.masked_lm import MaskedLM
from fwk_plugins.electra.default_views import GENERATED


@register("criterion", "replace_mlm")
class ReplaceMLM(MaskedLM):
    """Cross-entropy of the original tokens at the chosen positions of a corrupted view."""

    @dataclass(frozen=True, kw_only=True)
    class Config(MaskedLM.Config):
        view: str = option("corrupted", "the view whose chosen positions are predicted")

    @classmethod
    def reads(cls, config: MaskedLM.Config) -> dict[str, Read]:
        return {
            config.view: Read(GENERATED, positions=True),
            "masked": Read({"noiser": "bert_mask"}, encoded=False),  # the generator's input
        }

    # It never reads [MASK], so it gives no probability of a token from the others alone.
    log_probs = Criterion.log_probs
