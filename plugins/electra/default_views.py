"""The views that this plugin's criteria read unless the config says otherwise."""

from __future__ import annotations

from fwk.contracts.plain import PlainDict

# samples of a generator at the positions that were masked
GENERATED: PlainDict = {"noiser": "masked_lm", "of": "masked", "network": {"name": "scaled"}}

# samples of a cloze model of two causal towers, which knows log q of every token
CLOZE: PlainDict = {
    "noiser": "two_tower",
    "of": "masked",
    "network": {"name": "scaled", "towers": True},
}
