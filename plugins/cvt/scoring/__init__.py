"""Scores of predictions, and the files in which predictions are written."""
