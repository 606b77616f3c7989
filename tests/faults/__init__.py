"""The fault matrix: `python tests/faults/run.py`."""
