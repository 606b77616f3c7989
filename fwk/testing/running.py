"""Trainers, gradients and short runs for tests."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from torch import Tensor

from fwk.components.discovery import load_plugins
from fwk.config.resolve import from_mapping
from fwk.config.run_config import RunConfig
from fwk.engine.feed.loader import FeedSettings, train_views
from fwk.engine.ranks.world import World
from fwk.engine.run import Run
from fwk.engine.saving import checkpoint
from fwk.engine.signals import StopRequest
from fwk.engine.trainer import Trainer
from fwk.engine.update import MicroBatch, Update, Views
from fwk.runs import start
from fwk.testing.config import merge_settings


@contextmanager
def trainer_of(config: RunConfig, world: World | None = None) -> Iterator[Trainer]:
    """Yield a trainer that is about to make its first update; the run's folder is deleted afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        hooks = load_plugins(config.user_dirs)
        run = start.build_run(config, Path(folder), hooks, world or World())
        trainer = Trainer(run, StopRequest())
        trainer.enter_phase(run.hooks.hook.fwk_phase(run=run))
        yield trainer


def batches_of(run: Run, start_update: int = 0) -> Iterator[list[Views]]:
    """Iterate over the static views of each update's micro-batches, from the update after `start_update` on.

    Every micro-batch is made on its own; `Trainer.updates` makes several in one call where rows allow it.
    """
    train = run.config.train
    return train_views(
        run.task,
        run.order,
        partial(run.module.static_of_all_phases, split="train"),
        FeedSettings(
            batch=train.batch,
            micro_batch=train.micro_batch,
            rank=run.rank,
            world_size=run.world_size,
            workers=train.workers,
            device=run.device,
            user_dirs=run.config.user_dirs,
        ),
        start_update=start_update,
    )


def differentiate_once(trainer: Trainer) -> Update:
    """Fill `.grad` of every parameter for the trainer's next update, without stepping the optimizer."""
    run = trainer.run
    batches = next(batches_of(run, run.update))
    update = Update(number=run.update + 1, progress=run.progress, micro_batches=len(batches))
    micros = begin_update(trainer, batches, update)
    trainer.differentiate(micros, update)
    return update


def begin_update(trainer: Trainer, batches: Sequence[Views], update: Update) -> list[MicroBatch]:
    """Return the micro-batches of an update, and set its counts: all that precedes its first backward pass."""
    with trainer.run.precision.autocast():
        micros = trainer.run.module.ready(batches, update)
    totals = trainer.sum_over_ranks(trainer.sum_counts(micros, update), micros)
    update.take_counts(trainer.take_totals(totals), totals.sequences)
    return micros


def gradients(config: RunConfig, world: World | None = None) -> dict[str, Tensor | None]:
    """Return the gradient of the first update by parameter name; None where no loss term reaches."""
    with trainer_of(config, world) as trainer:
        differentiate_once(trainer)
        return {
            name: None if parameter.grad is None else parameter.grad.clone()
            for name, parameter in trainer.run.module.named_parameters()
            if name != "anchor"
        }


def difference(a: Mapping[str, Tensor | None], b: Mapping[str, Tensor | None]) -> float:
    """Return the largest |a - b| over all names, divided by the largest |a|.

    Infinite where a name, or its gradient, exists on one side only. Not divided where all of `a` is zero.
    """
    if a.keys() != b.keys():
        return float("inf")
    scale = worst = 0.0
    for name, left in a.items():
        right = b[name]
        if left is None and right is None:
            continue
        if left is None or right is None:
            return float("inf")
        scale = max(scale, float(left.abs().max()))
        worst = max(worst, float((left - right).abs().max()))
    return worst / scale if scale else worst


def train_briefly(config: RunConfig, folder: Path, updates: int | None = None) -> dict[str, Tensor]:
    """Train in `folder`, or resume the run in it, up to `updates`; return the weights of its last checkpoint."""
    changes: dict[str, Any] = {"run": str(folder)}
    if updates is not None:
        changes["train"] = {"updates": updates}
    finished = start.train(from_mapping(merge_settings(config.to_mapping(), changes)))
    tensors, _ = checkpoint.read_checkpoint(checkpoint.find_checkpoint(finished.folder))
    return tensors["model"]


@contextmanager
def stopped_at(update: int) -> Iterator[None]:
    """Stop every run inside the block, as a signal would, once it has done `update` updates."""
    original = Trainer.step

    def step(self: Trainer, batches: Any) -> bool:  # whatever the trainer's own method takes
        if self.run.update >= update:
            self.stop.signal = signal.SIGTERM
        return original(self, batches)

    with mock.patch.object(Trainer, "step", step):
        yield
