"""Causal language modelling, for scoring text beside the cloze models."""

from fwk_plugins.causal_lm import causal_lm  # noqa: F401
