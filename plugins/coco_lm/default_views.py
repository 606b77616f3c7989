"""The view that both criteria of COCO-LM read unless the config says otherwise."""

from __future__ import annotations

from typing import Any

# Samples of a shallow network of the encoder's full width replace the masked tokens. The network
# runs once, without dropout, both for its samples and for its own loss.
AUXILIARY: dict[str, Any] = {
    "noiser": "masked_lm",
    "of": "masked",
    "sampling": "without_dropout",
    "network": {"name": "scaled", "width": 1.0, "layers": 1 / 3},
}
