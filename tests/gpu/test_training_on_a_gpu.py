"""Training on a GPU keeps the promises that the CPU's tests hold: resume, overflows, ranks, saving.

Those that are parametrized with the fixture `device` run on the CPU, too.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from support.cases import REGISTERED, config_of
from support.commands import torchrun
from support.paths import ROOT
from support.runs import config_in, lines

from fwk import testing
from fwk.config.identity import to_yaml
from fwk.engine import precision
from fwk.engine.feed.joined import JoinedViews
from fwk.engine.ranks.world import World
from fwk.engine.saving import checkpoint
from fwk.testing import difference, gradients, merge_settings, tiny_config, train_briefly

GPU = "cuda"
DROPOUT = {"model": {"dropout": 0.1, "attention_dropout": 0.1}}


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.gpu
@pytest.mark.parametrize("name", [*REGISTERED, "several objectives at once", "change of phase"])
def test_a_resumed_run_is_bit_identical(name):
    assert testing.rule_resume(config_of(name, {"train": {"device": GPU}})) == ""


def test_an_fp16_update_that_overflows_is_skipped_and_the_scale_comes_down(
    device, tmp_path, monkeypatch
):
    """At 2^40 the gradients of activations exceed 65504, the largest number of the format."""
    monkeypatch.setattr(precision, "FIRST_SCALE", 2.0**40)
    train = {"device": device, "precision": "fp16", "updates": 24, "log_every": 1}
    apart = {"save_every": 0, "validate_every": 0}
    config = config_in(tmp_path / "run", {"train": {**train, **apart}})
    weights = train_briefly(config, tmp_path / "run")
    logged = [
        line for line in lines(tmp_path / "run") if line["split"] == "train" and "loss" in line
    ]
    losses = [line["loss"] for line in logged]
    scales = [line["loss_scale"] for line in logged]
    first = next(number for number, loss in enumerate(losses) if loss is not None)
    assert 0 < first < len(losses) - 1
    assert all(b == a / 2 for a, b in itertools.pairwise(scales[:first]))
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["masked_lm", "replaced_token_detection"])
def test_recomputed_activations_give_the_same_gradient_to_the_bit_with_dropout(name):
    world = World(device=torch.device(GPU))
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        kept, recomputed = (
            gradients(
                config_of(
                    name,
                    {**DROPOUT, "train": {"precision": "fp32", "activation_checkpointing": again}},
                ),
                world,
            )
            for again in (False, True)
        )
    finally:
        torch.use_deterministic_algorithms(False)
    assert difference(kept, recomputed) == 0


@pytest.mark.gpu
def test_one_rank_with_nccl_trains_what_one_process_trains(tmp_path):
    changes = {"train": {"device": GPU}}
    alone = train_briefly(config_in(tmp_path / "alone", changes), tmp_path / "alone")
    (tmp_path / "config.yaml").write_text(to_yaml(config_in(tmp_path / "rank", changes)))
    words = ["-m", "fwk.cli.train", "--config", str(tmp_path / "config.yaml")]
    done = torchrun(*words, ranks=1, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    tensors, _ = checkpoint.read_checkpoint(checkpoint.find_checkpoint(tmp_path / "rank"))
    assert equal(alone, tensors["model"])


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_from_pinned_memory(workers, monkeypatch):
    pinned = []
    to = JoinedViews.to

    def noted(self, device):
        pinned.extend(view.tokens.is_pinned() for view in self.views.values())
        return to(self, device)

    monkeypatch.setattr(JoinedViews, "to", noted)
    config = config_of("masked_lm", {"train": {"precision": "fp32", "workers": workers}})
    with testing.trainer_of(config, World(device=torch.device(GPU))) as trainer:
        updates = trainer.updates()
        for _ in range(3):
            trainer.step(next(updates))
        updates.close()
    assert pinned and all(pinned)


def test_a_checkpoint_written_in_the_background_is_that_of_its_update(device, tmp_path):
    """Updates go on while the copy in host memory is written."""
    saved = []
    for in_background in (False, True):
        run = tmp_path / f"run-{in_background}"
        train = {"device": device, "async_save": in_background, "save_every": 1, "keep_last": 9}
        train_briefly(config_in(run, {"train": train}), run)
        folders = checkpoint.list_checkpoints(run)
        saved.append({path.name: checkpoint.read_checkpoint(path)[0] for path in folders})
    assert saved[0].keys() == saved[1].keys() and len(saved[0]) == 6
    for name, groups in saved[0].items():
        assert all(equal(group, saved[1][name][file]) for file, group in groups.items())


@pytest.mark.gpu
def test_a_run_goes_on_on_the_other_device(tmp_path):
    """A checkpoint has no device: what one trained, the other continues."""
    for number, device in enumerate(("cpu", GPU, "cpu"), start=1):
        changes = {"train": {"device": device, "updates": 2 * number}}
        weights = train_briefly(
            tiny_config(merge_settings({"criterion": {"masked_lm": {}}}, changes)),
            tmp_path / "run",
            2 * number,
        )
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())
