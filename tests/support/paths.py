"""Folders that tests read."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
FIXTURES = TESTS / "fixtures"
OBJECTIVES = TESTS / "support" / "objectives"  # a user directory: small objectives of every shape
RANKS = TESTS / "support" / "ranks"  # programs that run under torchrun
SHARED = ROOT.parent / "shared" / "data"  # real data sets; absent in most places
