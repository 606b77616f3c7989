"""A resolved config -> a run: opens the folder, builds or resumes, trains, and leaves everything in order."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fwk.components.discovery import load_plugins
from fwk.components.discovery import provenance as plugin_provenance
from fwk.config.identity import differences, shared_by_ranks, to_yaml
from fwk.config.identity import identity as config_identity
from fwk.config.resolve import read as read_config
from fwk.config.run_config import RunConfig
from fwk.contracts.task import Task
from fwk.data.order import Order
from fwk.engine.build import build_module
from fwk.engine.ema import Average
from fwk.engine.failures.explanations import explaining_errors
from fwk.engine.feed.draws import count_micro_batches
from fwk.engine.precision import Precision
from fwk.engine.ranks.joining import process_group
from fwk.engine.ranks.world import World
from fwk.engine.run import Run
from fwk.engine.saving import checkpoint
from fwk.engine.saving.state import model_tensors
from fwk.engine.saving.tensor_file import byte_size
from fwk.engine.signals import StopRequest
from fwk.engine.speed.compiling import CompileCounter, compile_networks
from fwk.engine.speed.recompute import recompute_layers
from fwk.engine.trainer import Trainer
from fwk.errors import CheckpointError, RunError, UserError
from fwk.flops import count as count_operations
from fwk.runs.environment import describe_environment
from fwk.runs.lock import LOCK, folder_lock
from fwk.version import __version__


@dataclass(frozen=True)
class Finished:
    """What `fwk.train` returns. folder: the run's. status: "finished" or "stopped". exit_status: of the command.
    metrics: of the last evaluation by split."""

    folder: Path
    status: str
    exit_status: int
    update: int
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)


def default_folder(config: RunConfig) -> Path:
    """runs/TASK-CRITERIA-HASH: the same command finds its run again, another config gets another folder."""
    criteria = "+".join(config.criterion)
    return Path("runs") / f"{config.task.name}-{criteria}-{config_identity(config)}"


def train(
    config: RunConfig, *, overwrite: bool = False, allow_broken_plugins: bool = False
) -> Finished:
    """Train as `config` describes, or resume the run in its folder."""
    hooks = load_plugins(config.user_dirs, allow_broken=allow_broken_plugins)
    folder = Path(config.run) if config.run else default_folder(config)
    settings = config.train
    if settings.threads:
        torch.set_num_threads(settings.threads)
    stop = StopRequest()
    with (
        stop.listening(),
        process_group(settings.device, settings.timeout) as world,
        _determinism(settings.deterministic, world),
    ):
        new = world.main and not os.path.exists(
            folder
        )  # which a name that cannot be does not trouble
        try:
            with explaining_errors(), folder_lock(folder) if world.main else nullcontext():
                if world.main:
                    _open_folder(folder, config, overwrite)
                _agree_on_start(world, config)
                return _train(config, folder, hooks, world, stop)
        except UserError:
            if new and os.path.isdir(folder) and not checkpoint.list_checkpoints(folder):
                shutil.rmtree(folder)  # a command that was wrong leaves nothing behind
            raise


def _train(
    config: RunConfig, folder: Path, hooks: Any, world: World, stop: StopRequest
) -> Finished:
    run = build_run(config, folder, hooks, world)
    trainer = Trainer(run, stop)
    latest = _newest(folder, run)
    if latest is not None:
        trainer.restore(latest)
        if world.main:
            trainer.bookkeeping.prune_checkpoints(latest)
            if run.done:
                print(
                    f"fwk: {folder} is finished at update {run.update}: nothing to do; a longer run "
                    f"({_longer(config)}) goes on from there",
                    file=sys.stderr,
                )
    if world.main:
        checkpoint.require_free_space(folder, byte_size(model_tensors(run.module)))
        _write(folder / "config.yaml", to_yaml(config))  # nothing refuses this start any more
    if world.main and latest is None:
        _describe(run)
        optimizer = config.optimizer
        if advice := optimizer.cls.advice(optimizer.config, run.module.networks["main"].width):
            print(f"fwk: {advice}", file=sys.stderr)
    status = "failed"
    try:
        with world.failing_together(), explaining_errors(trainer):
            status = trainer.train()
            if status == "finished":
                trainer.bookkeeping.save()
            trainer.bookkeeping.finish_saving()
            world.enter("the end")
        if status == "finished":
            trainer.bookkeeping.log_record(
                {
                    "event": "finished",
                    "split": "train",
                    "update": run.update,
                    "seconds": round(run.seconds, 3),
                }
            )
        elif world.main:
            trainer.bookkeeping.log_record(
                {
                    "event": "stopped",
                    "split": "train",
                    "update": run.update,
                    "seconds": round(run.seconds, 3),
                }
            )
        trainer.bookkeeping.raise_log_failure()
    except BaseException as error:
        hooks.hook.fwk_exception(run=run, error=error)
        if not isinstance(error, KeyboardInterrupt):  # the second Ctrl-C does not wait
            trainer.bookkeeping.saver.abandon()
        raise
    finally:
        hooks.hook.fwk_run_end(run=run, status=status)
    return Finished(
        folder,
        status,
        0 if status == "finished" else stop.exit_status,
        run.update,
        run.last_metrics,
    )


def build_run(
    config: RunConfig, folder: Path, hooks: Any, world: World, task: Task | None = None
) -> Run:
    task = task or config.task.cls(config.task.config, config.seed)
    if "train" not in task.splits():
        raise UserError(
            f"task: '{config.task.name}' has no split 'train'; it has {', '.join(task.splits())}"
        )
    sizes = {name: len(source) for name, source in task.sources("train").items()}
    order = Order(
        config.seed,
        sizes,
        task.mixture(),
        group=config.train.batch if task.one_source_per_update() else 1,
    )
    precision = Precision(
        config.train.precision, world.device, growth_interval=config.train.scale_growth_interval
    )
    module = build_module(config, task).to(device=world.device, dtype=precision.dtype)
    module.world = world
    if config.train.activation_checkpointing:
        recompute_layers(module.networks)
    if config.train.compile:
        compile_networks(module)
        hooks.register(CompileCounter(), name="compile_watch")
    average = Average(module, config.train.ema) if config.train.ema else None
    module.encoding.averages = average.values if average else None
    for label, component in config.hooks.items():
        hooks.register(component.cls(component.config), name=label)
    schedule = config.schedule.cls(config.schedule.config)
    vocabulary = task.vocabulary()
    operations = count_operations(
        config,
        task.length(),
        vocabulary.size if vocabulary else None,
        micro_batches=count_micro_batches(config.train.batch, world.size, config.train.micro_batch),
    )
    return Run(
        config=config,
        folder=folder,
        task=task,
        order=order,
        module=module,
        world=world,
        precision=precision,
        hooks=hooks,
        schedule=schedule,
        average=average,
        operations=operations,
    )


def _open_folder(folder: Path, config: RunConfig, overwrite: bool) -> None:
    """Empties the folder, or checks that what is in it is this run. The caller holds its lock."""
    try:
        if overwrite:
            inside = [path for path in folder.iterdir() if path.name != LOCK]
            if inside and not (folder / "config.yaml").is_file():
                raise CheckpointError(
                    f"--overwrite: {folder} is not empty and no run (it has no config.yaml); nothing was deleted"
                )
            for old in sorted(
                inside, key=lambda path: path.name == "config.yaml"
            ):  # which says that this is a run: last
                shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
        path = folder / "config.yaml"
        if path.is_file() and checkpoint.list_checkpoints(
            folder
        ):  # without one there is nothing to go on from
            before = read_config(path)
            if changed := differences(before, config):
                told = "; ".join(
                    f"{key}: {old} there, {new} here" for key, (old, new) in sorted(changed.items())
                )
                raise CheckpointError(
                    f"{folder} holds a run with another config ({told}; 'there' is {path}); choose another --run, or start "
                    "it anew with --overwrite"
                )
    except OSError as error:
        raise CheckpointError(f"cannot use the run folder {folder}: {error.strerror}") from error


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def _longer(config: RunConfig) -> str:
    """The limits that are set, as keys to raise."""
    limits = ("updates", "epochs", "tokens", "minutes")
    return ", ".join(
        f"train.{name} above {value}"
        for name in limits
        if (value := getattr(config.train, name)) is not None
    )


def _describe(run: Run) -> None:
    """environment.json and tokenizer/, once per run."""
    environment = describe_environment(run.config, plugin_provenance(), run.device, run.world_size)
    _write(
        run.folder / "environment.json",
        json.dumps(environment, indent=1, sort_keys=True, default=str),
    )
    (run.folder / "tokenizer").mkdir(exist_ok=True)
    run.task.save_assets(run.folder / "tokenizer")


def _agree_on_start(world: World, config: RunConfig) -> None:
    """Every rank must have been started with the same config and software; rank 0 has opened the folder once this
    returns."""
    mine = {"fwk": __version__, "torch": str(torch.__version__)} | shared_by_ranks(config)
    first, *others = world.gather_objects({key: str(value) for key, value in mine.items()})
    for rank, theirs in enumerate(others, start=1):
        if different := [
            f"{key}: {theirs.get(key, 'nothing')} there, {first.get(key, 'nothing')} on rank 0"
            for key in sorted(first.keys() | theirs.keys())
            if first.get(key) != theirs.get(key)
        ]:
            raise RunError(
                f"rank {rank} was started otherwise than rank 0: {'; '.join(different[:8])}"
            )


def _newest(folder: Path, run: Run) -> Path | None:
    """Rank 0 chooses the checkpoint to go on from, so that all ranks take the same."""
    found, failure, world = None, None, run.world
    if world.main:
        try:
            found, complaints = checkpoint.newest_intact(folder, run.module)
            for complaint in complaints:
                print(f"fwk: skipped a checkpoint: {complaint}", file=sys.stderr)
        except CheckpointError as error:
            failure = error
    told = world.gather_objects([found.name if found else None, failure is not None])[0]
    if told[1]:
        raise failure or CheckpointError(f"no checkpoint of {folder} is whole")
    return folder / "checkpoints" / told[0] if told[0] else None


@contextmanager
def _determinism(wanted: bool, world: World) -> Iterator[None]:
    """Deterministic kernels while inside, or not, and as it was before outside."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.backends.cudnn.benchmark,
    )
    if wanted and world.device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    if wanted:
        torch.use_deterministic_algorithms(True, warn_only=True)
        # filling fresh memory with NaN finds bugs and costs a pass over it; results do not depend on it
        torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory, torch.backends.cudnn.benchmark = (
            before[2:]
        )
