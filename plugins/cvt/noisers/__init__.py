"""Noise for consistency training."""
