"""The views that this plugin's criteria read unless the config says otherwise."""

from __future__ import annotations

from typing import Any

# samples of a generator at the positions that were masked
GENERATED: dict[str, Any] = {"noiser": "masked_lm", "of": "masked", "network": {"name": "scaled"}}

# samples of a cloze model of two causal towers, which knows log q of every token
CLOZE: dict[str, Any] = {
    "noiser": "two_tower",
    "of": "masked",
    "network": {"name": "scaled", "towers": True},
}
