"""Compiled training on a GPU: the eager gradients, and a resume that is bit-identical.

Compilation takes long, so that these tests are the first of their folder: several processes share them.
"""

from __future__ import annotations

import pytest
import torch
from support.cases import config_of
from support.runs import config_in, lines

from fwk.engine.ranks.world import World
from fwk.engine.speed import compiling
from fwk.testing import difference, gradients, stopped_at, train_briefly

GPU = "cuda"
DROPOUT = {"model": {"dropout": 0.1, "attention_dropout": 0.1}}


@pytest.mark.gpu
@pytest.mark.parametrize(
    "name", ["masked_lm", "semantic_augment", "replaced_token_detection", "sequence_contrastive"]
)
def test_compiled_gradients_are_the_eager_ones(name):
    """In fp64, where generated kernels differ from torch's by the order of additions alone."""
    world = World(device=torch.device(GPU))
    torch._dynamo.reset()
    eager = gradients(config_of(name), world)
    compiled = gradients(config_of(name, {"train": {"compile": True}}), world)
    assert compiling.count_graphs() > 0
    assert difference(eager, compiled) < 1e-10


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["bf16", "fp16"])
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "eager"])
def test_a_resumed_run_in_half_precision_is_bit_identical(name, compiled, tmp_path):
    changes = {"train": {"device": GPU, "precision": name, "compile": compiled}, **DROPOUT}
    whole = train_briefly(config_in(tmp_path / "whole", changes), tmp_path / "whole")
    with stopped_at(3):
        train_briefly(config_in(tmp_path / "parts", changes), tmp_path / "parts")
    resumed = train_briefly(config_in(tmp_path / "parts", changes), tmp_path / "parts")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    logs = [
        [line for line in lines(tmp_path / run) if "event" not in line]
        for run in ("whole", "parts")
    ]
    assert logs[0] == logs[1]
