"""Sentences of words."""
