"""What goes wrong inside of a training process: a user directory for `fwk-train`, and callbacks for HF `Trainer`."""
