"""Studies with many runs, and their results."""
