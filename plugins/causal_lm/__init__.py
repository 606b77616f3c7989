"""Causal language modelling, for scoring text beside the cloze models."""
