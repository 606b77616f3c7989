"""Labelled examples: groups of named texts with labels, encoded once and read by number."""
