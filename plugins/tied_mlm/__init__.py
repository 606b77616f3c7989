"""Tied masked language modelling: the Semantic-Augment objective."""

from fwk_plugins.tied_mlm import semantic_augment  # noqa: F401
