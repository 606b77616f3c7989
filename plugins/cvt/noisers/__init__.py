"""Noise for consistency training."""

from fwk_plugins.cvt.noisers import word_dropout  # noqa: F401
