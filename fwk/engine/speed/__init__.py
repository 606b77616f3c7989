"""Compilation and activation checkpointing."""
