"""Noise distributions."""
