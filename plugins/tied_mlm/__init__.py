"""Tied masked language modelling: the Semantic-Augment objective."""
