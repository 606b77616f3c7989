"""Where built things are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$FWK_CACHE, else $XDG_CACHE_HOME/fwk, else ~/.cache/fwk. Not created here."""
    if chosen := os.environ.get("FWK_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fwk"
