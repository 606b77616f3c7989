"""Optimizers, their parameter groups, and learning-rate schedules: one file per registered thing."""
