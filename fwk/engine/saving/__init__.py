"""Checkpoints: their files, their content and the background writer."""
