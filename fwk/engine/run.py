"""The state of a run, which hooks see and checkpoints hold."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pluggy
import torch
from torch import Tensor, nn

from fwk.config.run_config import RunConfig
from fwk.contracts.phase import Phase
from fwk.contracts.schedule import Schedule
from fwk.contracts.task import Task
from fwk.data.order import Order
from fwk.engine.ema import Average
from fwk.engine.meters import Meters
from fwk.engine.module import ObjectiveModule
from fwk.engine.precision import Precision
from fwk.engine.ranks.world import World
from fwk.flops import Count

# the state of an optimizer by parameter name: tensors, and JSON-able values
OptimizerState = tuple[dict[str, Tensor], dict[str, Any]]


@dataclass(kw_only=True)
class Run:
    """A run in progress: its parts, and all state that a checkpoint holds.

    `fwk.contracts.hooks.RunView` lists what hooks may rely on.
    """

    config: RunConfig
    folder: Path
    task: Task
    order: Order
    module: ObjectiveModule
    world: World
    precision: Precision
    hooks: pluggy.PluginManager
    schedule: Schedule
    operations: Count | None = None  # FLOPs, where they could be counted
    average: Average | None = None  # of the weights, with train.ema
    resumed_from: Path | None = None  # the checkpoint that this start continues from

    # progress
    update: int = 0  # updates done
    skipped: int = 0  # updates in which fp16 overflowed; they consumed draws, without effect
    tokens: int = 0  # seen so far, without padding
    sequences: int = 0  # seen so far
    seconds_before: float = 0.0  # training time of earlier starts
    agreed_seconds: float = 0.0  # training time as rank 0 measured it, equal on all ranks

    # optimisation
    phase: Phase | None = None
    # None only until the first phase is entered, which precedes everything that uses it
    optimizer: torch.optim.Optimizer = None  # type: ignore[assignment]
    frozen_optimizer_state: OptimizerState = field(default_factory=lambda: ({}, {}))
    # applied updates and progress at which a phase restarted the schedule
    schedule_start: tuple[int, float] | None = None
    rate: float = 0.0  # learning rate of the last update
    grad_norm: float = 0.0  # of the last update, before clipping

    # results
    meters: Meters = field(default_factory=Meters)
    last_metrics: dict[str, dict[str, float]] = field(default_factory=dict)  # by split
    validation_pending: bool = False  # a request to stop interrupted the validation of this update
    best: list[tuple[float, int]] = field(default_factory=list)  # (metric, update), the best first
    # the last improvement of train.best_metric, and evaluations since
    waiting: tuple[float, int] | None = None
    milestones: list[int] = field(default_factory=list)  # updates that train.keep_at keeps for good

    _started: float = field(default_factory=time.monotonic)

    @property
    def rank(self) -> int:
        """The number of this process."""
        return self.world.rank

    @property
    def world_size(self) -> int:
        """The number of processes."""
        return self.world.size

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.world.device

    @property
    def seconds(self) -> float:
        """Training time over all starts of the run."""
        return self.seconds_before + time.monotonic() - self._started

    @property
    def trainable(self) -> list[nn.Parameter]:
        """The parameters that the optimizer steps, in the module's order."""
        return [parameter for _, parameter in self.named_trainable()]

    def named_trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Return the parameters that the optimizer steps, with their names."""
        return [
            (name, parameter)
            for name, parameter in self.module.named_parameters()
            if parameter.requires_grad and name != "anchor"
        ]

    # -- how much is done --------------------------------------------------------------------------------------------

    @property
    def total_updates(self) -> int | None:
        """The number of updates of the whole run; None where neither train.updates nor train.epochs limits it."""
        train = self.config.train
        limits = []
        if train.updates is not None:
            limits.append(train.updates)
        if train.epochs is not None:
            limits.append(math.ceil(train.epochs * len(self.order) / train.batch))
        return min(limits) if limits else None

    @property
    def epoch(self) -> float:
        """Passes over the training data so far."""
        return self.order.epoch_of(self.update * self.config.train.batch)

    @property
    def progress(self) -> float:
        """The share of the run that is done, in [0, 1], by the limit that is reached first; equal on all ranks."""
        return self._progress(self.update)

    @property
    def done(self) -> bool:
        """Whether a limit of the run is reached, or it has stopped to improve."""
        return self.progress >= 1.0 or self.out_of_patience

    @property
    def out_of_patience(self) -> bool:
        """Whether as many evaluations as train.patience brought no improvement."""
        patience = self.config.train.patience
        return bool(patience) and self.waiting is not None and self.waiting[1] >= patience

    def is_due(self, every: int | None, epochs: float | None) -> bool:
        """Return whether something is due at this update that is done every so many updates or, if given, epochs.

        With epochs it is the first update at which another such share of the training data has been seen.
        """
        if epochs is None:
            return bool(every) and self.update % (every or 1) == 0
        updates = epochs * len(self.order) / self.config.train.batch  # perhaps not whole
        done, before = (math.floor(u / updates + 1e-9) for u in (self.update, self.update - 1))
        return done > before

    def learning_rate_factor(self) -> float:
        """Return the schedule's factor for the next update.

        The schedule counts the updates that had an effect, so that a skipped one does not move it.
        """
        applied = self.update - self.skipped
        total, progress = self.total_updates, self._progress(applied)
        if self.schedule_start is not None:  # a phase restarted the schedule
            start, share = self.schedule_start
            applied -= start
            total = None if total is None else total - start
            progress = (progress - share) / (1 - share) if share < 1 else 1.0
        return self.schedule.factor(applied + 1, total, progress)

    def restart_schedule(self) -> None:
        """Run the schedule anew over what is left of the run."""
        applied = self.update - self.skipped
        self.schedule_start = (applied, self._progress(applied))

    def _progress(self, updates: int) -> float:
        train, total = self.config.train, self.total_updates
        shares = [0.0]
        if total is not None:
            shares.append(updates / total if total else 1.0)
        if train.tokens is not None:
            shares.append(self.tokens / train.tokens)
        if train.minutes is not None:
            shares.append(self.agreed_seconds / (60 * train.minutes))
        return min(1.0, max(shares))
