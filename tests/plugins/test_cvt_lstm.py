"""LSTMs in half precision, on devices that have them and on those that do not."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys

import pytest
import torch
from support.cases import TREEBANK
from torch import nn

from fwk_plugins.cvt.models import bilstm

CPU = torch.device("cpu")
REMARK = "LSTMs run in float32"


@pytest.fixture(autouse=True)
def untried():
    """Every test tries the device anew."""
    bilstm.has_lstm.cache_clear()
    yield
    bilstm.has_lstm.cache_clear()


def missing_primitive(*arguments):
    raise RuntimeError("could not create a primitive descriptor for the LSTM forward propagation")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_without_the_primitive_an_lstm_runs_in_float32_and_one_warning_is_logged(
    monkeypatch, caplog, dtype
):
    monkeypatch.setattr(bilstm, "_try_lstm", missing_primitive)
    lstm, x = nn.LSTM(3, 4, batch_first=True), torch.randn(2, 5, 3)
    with caplog.at_level(logging.WARNING, "fwk"), torch.autocast("cpu", dtype):
        outputs = [bilstm.run_lstm(lstm, x) for _ in range(3)]
    assert outputs[0].dtype == torch.float32 and torch.equal(outputs[0], lstm(x)[0])
    assert [REMARK in record.getMessage() for record in caplog.records] == [True]


def test_with_the_primitive_an_lstm_runs_in_half_precision(monkeypatch, caplog):
    monkeypatch.setattr(bilstm, "_try_lstm", lambda *arguments: None)
    lstm = nn.LSTM(3, 4, batch_first=True, proj_size=2)  # this one torch runs anywhere
    with torch.autocast("cpu", torch.bfloat16):
        assert bilstm.run_lstm(lstm, torch.randn(2, 5, 3)).dtype == torch.bfloat16
    assert not caplog.records


def test_outside_of_autocast_no_primitive_is_tried(monkeypatch):
    monkeypatch.setattr(bilstm, "_try_lstm", missing_primitive)
    bilstm.run_lstm(nn.LSTM(3, 4, batch_first=True), torch.randn(2, 5, 3))
    assert bilstm.has_lstm.cache_info().currsize == 0


def test_trying_draws_no_random_number_and_saves_no_tensor_of_the_surrounding_graph():
    before, packed = torch.get_rng_state(), []
    with torch.autograd.graph.saved_tensors_hooks(packed.append, lambda tensor: tensor):
        for dtype in (torch.bfloat16, torch.float16):
            bilstm.has_lstm(CPU, dtype)
    assert torch.equal(torch.get_rng_state(), before) and not packed


def test_running_out_of_memory_is_not_a_missing_primitive(monkeypatch):
    def exhausted(*arguments):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(bilstm, "_try_lstm", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        bilstm.has_lstm(CPU, torch.bfloat16)


@pytest.mark.slow
def test_a_training_in_bfloat16_on_a_cpu_without_avx512_ends_well_and_says_once_what_is_slower(
    tmp_path,
):
    """oneDNN leaves out the instructions of newer processors where this variable is set."""
    command = [
        *(sys.executable, "-m", "fwk.cli.train", "--run", str(tmp_path / "run")),
        *("task.name=sentences", f"task.data.tiny.path={TREEBANK['path']}"),
        *("task.data.tiny.labels.pos=upos", "task.data.tiny.fraction=0.5", "task.fewest=1"),
        *("criterion.pos.name=cvt_tagging", "criterion.pos.label=pos", "model.name=cnn_bilstm"),
        *("model.width=6", "model.words=8", "model.characters=4", "model.filters=3"),
        *("train.precision=bf16", "train.updates=2", "train.batch=4", "train.validate_every=0"),
        *("train.activation_checkpointing=true", "train.device=cpu", "train.workers=0"),
    ]
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert run.returncode == 0, run.stderr
    if platform.machine() in ("x86_64", "AMD64"):
        assert run.stderr.count(REMARK) == 1 and "fwk: torch has no bfloat16" in run.stderr
