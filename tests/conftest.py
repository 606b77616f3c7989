"""Shared by all tests: one thread (two cores carry several test processes), and where the real data lies, if it does."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the folder of real data sets is absent")
    return SHARED


@pytest.fixture(autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)
