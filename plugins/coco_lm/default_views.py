"""The view that both criteria of COCO-LM read unless the config says otherwise."""

from __future__ import annotations

from fwk.contracts.plain import PlainDict

# Samples of a shallow network of the encoder's full width replace the masked tokens. The network
# runs once, without dropout, both for its samples and for its own loss.
AUXILIARY: PlainDict = {
    "noiser": "masked_lm",
    "of": "masked",
    "sampling": "without_dropout",
    "network": {"name": "scaled", "width": 1.0, "layers": 1 / 3},
}
