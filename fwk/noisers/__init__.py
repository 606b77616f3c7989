"""Noisers, one per file."""
