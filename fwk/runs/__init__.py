"""The life of a run: start, resume, evaluation and loading."""
