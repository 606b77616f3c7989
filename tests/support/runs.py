"""A run of six updates that saves, validates and logs, and how what it wrote is compared."""

from __future__ import annotations

import json
from pathlib import Path

from fwk.config.run_config import RunConfig
from fwk.contracts.plain import PlainDict, PlainMapping
from fwk.testing import merge_settings, tiny_config

SIX_UPDATES: PlainDict = {
    "criterion": {"masked_lm": {}},
    "hooks": {"jsonl": {}},
    "model": {"dropout": 0.1},
    "train": {
        "updates": 6,
        "save_every": 2,
        "validate_every": 3,
        "log_every": 2,
        "precision": "fp32",
    },
}


def config_in(
    folder: Path, changes: PlainMapping | None = None, base: PlainMapping = SIX_UPDATES
) -> RunConfig:
    """Return the config of a run in `folder`: the nested mapping `changes` laid over `base`."""
    return tiny_config(merge_settings(base, {**(changes or {}), "run": str(folder)}))


def lines(run: Path) -> list[PlainDict]:
    """Return what metrics.jsonl says, without times."""
    text = (run / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k not in ("seconds", "tokens_per_second")}
        for line in text
    ]
