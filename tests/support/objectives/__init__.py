"""Objectives that exist for the tests only; see objectives.py."""
