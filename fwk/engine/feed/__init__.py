"""Batches of views, from the task to the device."""
