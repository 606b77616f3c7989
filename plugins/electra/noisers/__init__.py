"""Noise distributions: generators, cloze models, and distributions without a network."""
