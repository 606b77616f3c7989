"""Taggers and parsers that are trained on several views of a sentence."""
