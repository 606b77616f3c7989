"""The logger of this plugin: a child of `fwk`, so that commands show it, and silent on every rank but the first."""

from __future__ import annotations

import logging
import os

logger = logging.getLogger("fwk.plugins.cvt")
logger.addFilter(lambda record: os.environ.get("RANK", "0") == "0")
