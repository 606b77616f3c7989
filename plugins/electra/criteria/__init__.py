"""Objectives on corrupted views."""
