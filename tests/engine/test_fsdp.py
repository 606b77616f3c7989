"""Objectives work with sharded weights (torch.distributed.fsdp.fully_shard), for which the engine has no option."""

from __future__ import annotations

import json

import pytest
from support.commands import torchrun
from support.paths import RANKS


@pytest.mark.slow
def test_gradients_of_sharded_weights_equal_those_of_one_process(tmp_path):
    pytest.importorskip("torch.distributed.fsdp", reason="this torch has no fully_shard")
    out = tmp_path / "out.json"
    done = torchrun(str(RANKS / "fsdp_ranks.py"), str(out), ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(out.read_text())
    assert len(results) >= 5
    for name, seen in results.items():
        assert seen["difference"] < 1e-10, name  # as for any split over ranks, in fp64
        assert seen["held"] < 0.55, name  # of the weights, between two forward passes
