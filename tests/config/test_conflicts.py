"""Two criteria that define one view differently are refused with the keys and both values."""

from __future__ import annotations

import pytest

from fwk.components.discovery import load_plugins
from fwk.errors import ConfigError
from fwk.testing import tiny_config

load_plugins()
DETECTION = {"corruption_detection": {}, "replaced_token_detection": {}}
NETWORKS = {"corrective_lm": {}, "replaced_token_detection": {}}
NOISERS = {"noise_contrastive": {}, "replaced_token_detection": {}}


@pytest.mark.parametrize(
    ("criteria", "parts"),
    [
        (
            DETECTION,
            ["unchanged is 0.2 for 'corruption_detection' and 0.0 for 'replaced_token_detection'"],
        ),
        (
            NETWORKS,
            [
                "network.width is 1.0 for 'corrective_lm' and 0.25 for 'replaced_token_detection'",
                "sampling is without_dropout for 'corrective_lm' and with_dropout for",
                "state views.corrupted.network.width=... views.corrupted.network.layers=...",
            ],
        ),
        (NOISERS, ["noiser is two_tower for 'noise_contrastive' and masked_lm for"]),
    ],
)
def test_every_key_that_differs_is_named_with_both_values(criteria, parts):
    with pytest.raises(ConfigError) as refused:
        _ = tiny_config({"criterion": criteria}).views_by_name
    message = str(refused.value)
    assert message.startswith(f"views.corrupted: criteria '{next(iter(criteria))}' and '")
    assert all(part in message for part in parts), message


def test_stating_the_keys_that_differ_is_enough():
    views = {"corrupted": {"unchanged": 0.1}}
    config = tiny_config({"criterion": DETECTION, "views": views})
    assert config.views_by_name["corrupted"].component.values["unchanged"] == 0.1
