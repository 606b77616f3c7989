"""Devices of the tests that need a GPU; some of them mean something on the CPU as well."""

from __future__ import annotations

import os

# read when a process first multiplies matrices on a GPU, which may be in any test
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest


@pytest.fixture(params=[pytest.param("cuda", marks=pytest.mark.gpu), "cpu"])
def device(request) -> str:
    """A GPU, and the CPU."""
    return request.param


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """fp32 means fp32: no TF32 in convolutions and LSTMs, where torch allows it."""
    import torch

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
