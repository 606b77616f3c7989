"""Noise distributions."""

from fwk_plugins.electra.noisers import frequency_mask, masked_lm, two_tower, uniform, unigram  # noqa: F401
