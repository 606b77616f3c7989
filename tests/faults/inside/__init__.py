"""Faults inside a training process: a user directory for `fwk-train`, and callbacks for Hugging Face `Trainer`."""
