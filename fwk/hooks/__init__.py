"""Hooks: the terminal, log files, TensorBoard and the closing summary."""
