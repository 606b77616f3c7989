"""Training from a config: opens the run's folder, builds or resumes the run, trains, and closes everything in order."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pluggy import PluginManager

from fwk.components.discovery import load_plugins
from fwk.config.identity import shared_by_ranks, to_yaml
from fwk.config.run_config import RunConfig
from fwk.config.user_paths import with_absolute_paths
from fwk.engine.failures.explanations import explaining_errors
from fwk.engine.ranks.joining import process_group
from fwk.engine.ranks.world import World
from fwk.engine.run import Run
from fwk.engine.saving import checkpoint
from fwk.engine.saving.replacement import set_aside
from fwk.engine.saving.state import model_tensors
from fwk.engine.saving.tensor_file import byte_size
from fwk.engine.signals import StopRequest
from fwk.engine.trainer import Trainer
from fwk.errors import CheckpointError, RunError
from fwk.files.kinds import RUN
from fwk.files.replacing import mark, write_atomically
from fwk.runs.building import build_run
from fwk.runs.folder import describe_run, folder_of, locked_folder
from fwk.runs.origin import Origin, find_origin, require_same_origin
from fwk.version import __version__

LIMITS = ("updates", "epochs", "tokens", "minutes")  # keys of `train.` that end a run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """What `fwk.train` returns."""

    folder: Path  # of the run
    status: Literal["finished", "stopped"]
    exit_status: int  # of the command
    update: int  # updates done
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)  # last evaluation, by split


def train(
    config: RunConfig,
    *,
    overwrite: bool = False,
    allow_broken_plugins: bool = False,
    origin: Origin | None = None,
) -> Finished:
    """Train as `config` describes, or resume the run in its folder.

    origin: of the run, where the caller knows it already.
    """
    with_absolute_paths(
        config
    )  # raises before anything is made, where config.yaml could not hold them
    folder = folder_of(config)
    origin = origin or find_origin(config, overwrite)
    config = origin.config
    hooks = load_plugins(config.user_dirs, allow_broken=allow_broken_plugins)
    settings = config.train
    if settings.threads:
        torch.set_num_threads(settings.threads)
    stop = StopRequest()
    with (
        stop.listening(),
        process_group(settings.device, settings.timeout) as world,
        _deterministic_kernels(settings.deterministic, world),
    ):
        locked = locked_folder(folder, config, overwrite) if world.main else nullcontext()
        with explaining_errors(), locked:
            if world.main and not overwrite:
                require_same_origin(folder, origin)
            _compare_configs(world, config, origin.facts())
            return _train(origin, folder, hooks, world, stop, overwrite)


def _train(
    origin: Origin,
    folder: Path,
    hooks: PluginManager,
    world: World,
    stop: StopRequest,
    overwrite: bool,
) -> Finished:
    saved = None if overwrite else checkpoint.saved_weights(folder)
    run = build_run(origin.config, folder, hooks, world, saved=saved, sources=origin.sources)
    origin.release()
    trainer = Trainer(run, stop)
    if saved is None:
        _check_best_metric(trainer)
    if world.main and overwrite:
        _require_space(run)
        set_aside(folder)  # only now that the new run is known to be possible
    resumes = _resume(trainer)
    if world.main:
        _write_description(run, origin, is_new=not resumes)
    status = _fit(trainer)
    exit_status = 0 if status == "finished" else stop.exit_status
    return Finished(folder, status, exit_status, run.update, run.last_metrics)


def _check_best_metric(trainer: Trainer) -> None:
    """Raise ConfigError where a new run has no metric `train.best_metric`, before anything is written."""
    with trainer.run.world.failing_together(), explaining_errors(trainer):
        trainer.bookkeeping.selection.check()


def _resume(trainer: Trainer) -> bool:
    """Restore the newest intact checkpoint; return False where the run has no such checkpoint."""
    run = trainer.run
    latest = _choose_checkpoint(run)
    if latest is None:
        return False
    trainer.restore(latest)
    if run.world.main:
        trainer.bookkeeping.prune_checkpoints(latest)
        if run.done:
            logger.info(
                "%s is finished at update %s: nothing to do; a longer run (%s) would resume from it",
                run.folder,
                run.update,
                _longer_limits(run),
            )
    return True


def _choose_checkpoint(run: Run) -> Path | None:
    """Return the checkpoint to resume from, which rank 0 chooses, so that all ranks take the same."""
    name, failure, world = None, None, run.world
    if world.main:
        try:
            latest, problems = checkpoint.newest_intact(run.folder, run.module)
            name = latest.name if latest else None
            for problem in problems:
                logger.warning("skipped a checkpoint: %s", problem)
        except CheckpointError as error:
            failure = error
    name, failed = world.gather_objects([name, failure is not None])[0]
    if failed:
        raise failure or CheckpointError(f"no checkpoint of {run.folder} is intact")
    return run.folder / "checkpoints" / name if name else None


def _longer_limits(run: Run) -> str:
    """Return the limits that the run has reached, as keys to raise, with what it has done where that is more."""
    done = {
        "updates": run.update,
        "epochs": run.epoch,
        "tokens": run.tokens,
        "minutes": run.agreed_seconds / 60,
    }
    limits = {name: getattr(run.config.train, name) for name in LIMITS}
    longer = [
        f"train.{name} above {_shown_limit(max(limit, done[name]))}"
        for name, limit in limits.items()
        if limit is not None and done[name] >= limit
    ]
    if run.out_of_patience and run.waiting is not None:
        longer.append(f"train.patience above {run.waiting[1]}, or 0")
    return ", ".join(longer)


def _shown_limit(value: float) -> str:
    """Return a number for a message, fractions rounded up to hundredths."""
    return str(value) if isinstance(value, int) else f"{math.ceil(100 * value) / 100:g}"


def _write_description(run: Run, origin: Origin, is_new: bool) -> None:
    """Write the files that describe the run, once nothing refuses this start any more."""
    _require_space(run)
    mark(run.folder, RUN)
    config = replace(with_absolute_paths(run.config), run=os.path.abspath(run.folder))
    config = origin.described(config, run.folder)
    if is_new:
        origin.write(run.folder)
    write_atomically(run.folder / "config.yaml", to_yaml(config).encode())
    if is_new:
        describe_run(run)
        optimizer = run.config.optimizer
        advice = optimizer.cls.advice(optimizer.config, run.module.networks["main"].width)
        if advice:
            logger.warning("%s", advice)


def _require_space(run: Run) -> None:
    checkpoint.require_free_space(run.folder, byte_size(model_tensors(run.module)))


def _fit(trainer: Trainer) -> Literal["finished", "stopped"]:
    """Train until the run is finished or stopped, and return which. The hooks of the end are called in any case."""
    run, bookkeeping = trainer.run, trainer.bookkeeping
    status = "failed"
    try:
        with run.world.failing_together(), explaining_errors(trainer):
            status = trainer.train()
            if status == "finished":
                bookkeeping.save()
            bookkeeping.finish_saving()
            run.world.enter("the end")
        bookkeeping.log_end(status, trainer.learned)
        bookkeeping.raise_log_failure()
    except BaseException as error:
        run.hooks.hook.fwk_exception(run=run, error=error)
        if not isinstance(error, KeyboardInterrupt):  # the second Ctrl-C does not wait
            bookkeeping.saver.abandon()
        raise
    finally:
        run.hooks.hook.fwk_run_end(run=run, status=status)
    return "finished" if status == "finished" else "stopped"


def _compare_configs(world: World, config: RunConfig, weights: Mapping[str, str]) -> None:
    """Raise RunError where ranks were started with different configs, weights or software.

    weights: fingerprints of what the run starts from.
    Rank 0 has opened the folder once this returns.
    """
    versions = {"fwk": __version__, "torch": str(torch.__version__)}
    shared = {**versions, **shared_by_ranks(config), **weights}
    facts = {key: str(value) for key, value in shared.items()}
    first, *others = world.gather_objects(facts)
    for rank, other in enumerate(others, start=1):
        different = [
            f"{key} is {other.get(key, 'absent')} instead of {first.get(key, 'absent')}"
            for key in sorted(first.keys() | other.keys())
            if first.get(key) != other.get(key)
        ]
        if different:
            raise RunError(
                f"rank {rank} was started with other settings than rank 0: {'; '.join(different[:8])}"
            )


@contextmanager
def _deterministic_kernels(enabled: bool, world: World) -> Iterator[None]:
    """Use deterministic kernels inside where `enabled`; restore torch's settings at the end."""
    algorithms = torch.are_deterministic_algorithms_enabled()
    warns_only = torch.is_deterministic_algorithms_warn_only_enabled()
    deterministic: Any = torch.utils.deterministic  # torch's types lack its attribute
    fills_memory = deterministic.fill_uninitialized_memory
    benchmark = torch.backends.cudnn.benchmark
    if enabled and world.device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    if enabled:
        torch.use_deterministic_algorithms(True, warn_only=True)
        # filling fresh memory with NaN finds bugs and costs a pass over it; results do not depend on it
        deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(algorithms, warn_only=warns_only)
        deterministic.fill_uninitialized_memory = fills_memory
        torch.backends.cudnn.benchmark = benchmark
