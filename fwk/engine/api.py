"""A resolved config -> a run: opens the folder, builds or resumes, trains, and leaves everything in order."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pluggy import PluginManager

from fwk import config as configuration
from fwk.config import RunConfig
from fwk.data.loader import micro_batches
from fwk.data.order import Order
from fwk.engine import checkpoint
from fwk.engine.build import build_module
from fwk.engine.compiling import CompileWatch, compile_networks
from fwk.engine.distributed import World, process_group
from fwk.engine.ema import Average
from fwk.engine.evaluate import evaluate, predict, predict_texts
from fwk.engine.failures import explained
from fwk.engine.lifecycle import LOCK, StopRequest, folder_lock
from fwk.engine.precision import Precision
from fwk.engine.recompute import recompute_layers
from fwk.engine.run import Run
from fwk.engine.state import load_model_tensors, locate, model_tensors, write_weights
from fwk.engine.trainer import Trainer
from fwk.errors import CheckpointError, ConfigError, PluginError, RunError, UnknownName, UserError
from fwk.files import check_target
from fwk.flops import count as count_operations
from fwk.models.base import Encoder
from fwk.plugins import load_plugins
from fwk.plugins import provenance as plugin_provenance
from fwk.reporting.environment import describe_environment
from fwk.tasks.base import Task
from fwk.version import __version__

TOGETHER = 16  # batches of raw texts among which those of like lengths are looked for
KEPT = (
    "update",
    "skipped",
    "tokens",
    "sequences",
    "seconds",
    "phase",
    "fingerprint",
)  # of a run's state, in a copy of its weights
COPY = "a trained run"  # where the weights of a copy are from
# what of `train.` a finished model may be evaluated with otherwise than it was trained
EVALUATION_KEYS = (
    "train.batch",
    "train.micro_batch",
    "train.device",
    "train.precision",
    "train.timeout",
)


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
    return Path("runs") / f"{config.task.name}-{criteria}-{configuration.identity(config)}"


def run(
    config: RunConfig, *, overwrite: bool = False, allow_broken_plugins: bool = False
) -> Finished:
    """Trains as `config` says, or goes on where its folder left off."""
    hooks = load_plugins(config.user_dirs, allow_broken=allow_broken_plugins)
    folder = Path(config.run) if config.run else default_folder(config)
    train = config.train
    if train.threads:
        torch.set_num_threads(train.threads)
    stop = StopRequest()
    with (
        stop.listening(),
        process_group(train.device, train.timeout) as world,
        _determinism(train.deterministic, world),
    ):
        new = world.main and not os.path.exists(
            folder
        )  # which a name that cannot be does not trouble
        try:
            with explained(), folder_lock(folder) if world.main else nullcontext():
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
    this = build_run(config, folder, hooks, world)
    trainer = Trainer(this, stop)
    latest = _newest(folder, this)
    if latest is not None:
        trainer.restore(latest)
        if world.main:
            trainer.settle(latest)
            if this.done:
                print(
                    f"fwk: {folder} is finished at update {this.update}: nothing to do; a longer run "
                    f"({_longer(config)}) goes on from there",
                    file=sys.stderr,
                )
    if world.main:
        checkpoint.foresee_space(folder, checkpoint.size_of(model_tensors(this.module)))
        _write(
            folder / "config.yaml", configuration.to_yaml(config)
        )  # nothing refuses this start any more
    if world.main and latest is None:
        _describe(this)
        optimizer = config.optimizer
        if advice := optimizer.cls.advice(optimizer.config, this.module.networks["main"].width):
            print(f"fwk: {advice}", file=sys.stderr)
    status = "failed"
    try:
        with world.together(), explained(trainer):
            status = trainer.train()
            if status == "finished":
                trainer.save()
            trainer.finish_saving()
            world.at("the end")
        if status == "finished":
            trainer.emit(
                {
                    "event": "finished",
                    "split": "train",
                    "update": this.update,
                    "seconds": round(this.seconds, 3),
                }
            )
        elif world.main:
            trainer.emit(
                {
                    "event": "stopped",
                    "split": "train",
                    "update": this.update,
                    "seconds": round(this.seconds, 3),
                }
            )
        trainer.complain()
    except BaseException as error:
        hooks.hook.fwk_exception(run=this, error=error)
        if not isinstance(error, KeyboardInterrupt):  # the second Ctrl-C does not wait
            trainer.saver.leave()
        raise
    finally:
        hooks.hook.fwk_run_end(run=this, status=status)
    return Finished(
        folder,
        status,
        0 if status == "finished" else stop.exit_status,
        this.update,
        this.last_metrics,
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
        hooks.register(CompileWatch(), name="compile_watch")
    average = Average(module, config.train.ema) if config.train.ema else None
    module.ema = average.values if average else None
    for label, component in config.hooks.items():
        hooks.register(component.cls(component.config), name=label)
    schedule = config.schedule.cls(config.schedule.config)
    vocabulary = task.vocabulary()
    operations = count_operations(
        config,
        task.length(),
        vocabulary.size if vocabulary else None,
        micro_batches=micro_batches(config.train.batch, world.size, config.train.micro_batch),
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
            before = configuration.read(path)
            if changed := configuration.differences(before, config):
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


def _describe(this: Run) -> None:
    """environment.json and tokenizer/, once per run."""
    environment = describe_environment(
        this.config, plugin_provenance(), this.device, this.world_size
    )
    _write(
        this.folder / "environment.json",
        json.dumps(environment, indent=1, sort_keys=True, default=str),
    )
    (this.folder / "tokenizer").mkdir(exist_ok=True)
    this.task.save_assets(this.folder / "tokenizer")


def _agree_on_start(world: World, config: RunConfig) -> None:
    """Every rank must have been started with the same config and software; rank 0 has opened the folder once this
    returns."""
    mine = {"fwk": __version__, "torch": str(torch.__version__)} | configuration.shared_by_ranks(
        config
    )
    first, *others = world.objects({key: str(value) for key, value in mine.items()})
    for rank, theirs in enumerate(others, start=1):
        if different := [
            f"{key}: {theirs.get(key, 'nothing')} there, {first.get(key, 'nothing')} on rank 0"
            for key in sorted(first.keys() | theirs.keys())
            if first.get(key) != theirs.get(key)
        ]:
            raise RunError(
                f"rank {rank} was started otherwise than rank 0: {'; '.join(different[:8])}"
            )


def _newest(folder: Path, this: Run) -> Path | None:
    """Rank 0 chooses the checkpoint to go on from, so that all ranks take the same."""
    found, failure, world = None, None, this.world
    if world.main:
        try:
            found, complaints = checkpoint.newest_whole(folder, this.module)
            for complaint in complaints:
                print(f"fwk: passed over a checkpoint: {complaint}", file=sys.stderr)
        except CheckpointError as error:
            failure = error
    told = world.objects([found.name if found else None, failure is not None])[0]
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


@dataclass(frozen=True)
class Loaded:
    """What `fwk.load` returns. module: every network, head and learned noiser in evaluation mode; model: the main
    encoder. tokenizer: None for tasks without one. task: without its data. state: how far the run had come."""

    folder: Path
    config: RunConfig
    module: torch.nn.Module
    tokenizer: Any
    update: int
    task: Any
    state: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def model(self) -> Encoder:
        return self.module.networks["main"]

    def predict(self, texts: Iterable[str | Sequence[str]], batch: int = 64) -> list[Any]:
        """What the criteria say of raw texts (or of lists of words), each as the task words it; `batch` texts at a time, and
        fewer where they are long. UserError where the task reads no raw text, or no criterion predicts; DataError names a text that
        cannot be read."""
        if isinstance(texts, str):
            raise UserError(f"predict: expected a list of texts, got one text ({texts[:40]!r})")
        if not isinstance(texts, Iterable):
            raise UserError(f"predict: expected a list of texts, got {texts!r}")
        if batch < 1:
            raise UserError(f"predict: batch is {batch}, expected at least 1")
        texts, found = list(texts), []
        for start in range(0, max(len(texts), 1), TOGETHER * batch):
            some = texts[start : start + TOGETHER * batch]
            found += predict_texts(
                self.module,
                self.task,
                some,
                [f"texts[{n}]" for n in range(start, start + len(some))],
                batch,
            )
        return found

    def save(self, folder: str | Path) -> None:
        """Writes what `load` reads (config, tokenizer, weights) as a run's folder with nothing to go on training from, for
        whoever takes a model along. CheckpointError where another run lies there, which would be lost."""
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise CheckpointError(f"{folder} is not a folder; choose another place for the copy")
        for there in checkpoint.list_checkpoints(folder):
            if not checkpoint.is_copy(there):
                raise CheckpointError(
                    f"{folder} holds a run, whose checkpoint {there.name} can be gone on from; choose another folder for the copy"
                )
        (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
        self.task.save_assets(folder / "tokenizer")
        write_weights(folder, model_tensors(self.module), self.config, COPY, **self.state)


def evaluate_run(
    path: str | Path,
    split: str = "valid",
    *,
    overrides: Sequence[str] = (),
    user_dirs: tuple[str, ...] = (),
    average: bool = False,
    predictions: Path | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint, or a run's newest whole one, on a split of its task: {checkpoint, update, split, metrics}.

    overrides: `task.KEY=VALUE`, `train.batch` and the like, over the run's own config. predictions: a file for what the model
    says; with several sources in the split, a file for each, its name before the suffix. Other training data than the run's have other
    words and labels: CheckpointError.
    """
    for key in (override.split("=")[0].split(".") for override in overrides):
        if key[0] != "task" and ".".join(key) not in EVALUATION_KEYS:
            raise ConfigError(
                ".".join(key),
                f"does not change how a model is evaluated; expected task.KEY or {', '.join(EVALUATION_KEYS)}",
            )
    found, tensors, state, config, hooks = _opened(path, user_dirs, average, overrides)
    folder = found.parent.parent
    config = replace(config, hooks={})
    with process_group(config.train.device, config.train.timeout) as world:
        trained = configuration.read(folder / "config.yaml", user_dirs) if overrides else config
        own_batch = replace(
            config, train=replace(config.train, batch=trained.train.batch, micro_batch=None)
        )
        task = config.task.cls.for_evaluation(
            config.task.config, config.seed, folder, split, trained.task.config
        )
        run = build_run(own_batch, folder, hooks, world, task)
        if run.task.fingerprint() != state["fingerprint"]:
            raise CheckpointError(f"{found} {_other_data(state)}")
        if split not in run.task.splits():
            raise UserError(
                f"--split: the task has no split '{split}'; it has {', '.join(run.task.splits())}"
            )
        if not any(len(source) for source in run.task.sources(split).values()):
            raise UserError(f"--split: '{split}' holds no example")
        locate(run, state)
        run.module.switch_off(run.phase.off if run.phase else ())
        targets: dict[str, Path] = {}
        if predictions is not None:
            if world.size > 1:
                raise UserError(
                    "--predictions: are written by one process; start it without torchrun"
                )
            if not run.module.predictors:
                raise UserError(
                    f"--predictions: no criterion of {folder} predicts anything (`Criterion.predict`)"
                )
            targets = _targets(predictions, tuple(run.task.sources(split)))
            run.task.check_predictions(split, targets)
        checkpoint.refuse_not_finite(found, tensors["model"], run.module)
        load_model_tensors(run.module, tensors["model"], found)
        if run.average is not None:
            run.average.load(
                tensors["model" if "imported" in state else "average"]
            )  # a copy holds the chosen weights alone
        averaged = average or config.train.evaluate_average
        # the run's length is that with its own batch
        run.config = replace(
            config,
            train=replace(
                config.train,
                validate_batches=0,
                evaluate_average=averaged,
                epochs=None,
                updates=run.total_updates,
            ),
        )
        metrics = evaluate(run, split)
        if predictions is not None:
            with run.average.in_place() if averaged else nullcontext():
                said = predict(run, split)
            for name, of in said.items():
                run.task.write_predictions(split, name, of, targets[name])
    return {"checkpoint": str(found), "update": state["update"], "split": split, "metrics": metrics}


def _other_data(state: Mapping[str, Any]) -> str:
    """Why a checkpoint is not evaluated on the data that the task has now."""
    if (origin := state.get("imported")) and (origin != COPY or not state["fingerprint"]):
        return f"holds weights alone ({origin}), which do not say what data they were trained on; expected a run, or a copy that `Loaded.save` wrote"
    return (
        "was trained on other data than the task has now, or with other options of the task, so that words and labels may be others; "
        "expected those of its config.yaml"
    )


def _targets(predictions: Path, sources: Sequence[str]) -> dict[str, Path]:
    """The file of each source's predictions. UserError for one that cannot be written."""
    if len(sources) > 1 and (
        bad := next((name for name in sources if "/" in name or os.sep in name), None)
    ):
        raise UserError(
            f"--predictions: the source '{bad}' has a file of its own, and its name is none that a file can have"
        )
    found = {
        name: predictions.with_name(f"{predictions.stem}.{name}{predictions.suffix}")
        if len(sources) > 1
        else predictions
        for name in sources
    }
    for path in found.values():
        check_target("--predictions", path)
    return found


def _opened(
    path: str | Path, user_dirs: Sequence[str], average: bool, overrides: Sequence[str] = ()
) -> tuple[Path, dict[str, dict[str, torch.Tensor]], dict[str, Any], RunConfig, PluginManager]:
    """A run's newest whole checkpoint, or the one named: where it is, its tensors and state, the run's config, its plugins."""
    found = checkpoint.find_checkpoint(Path(path))
    tensors, state = checkpoint.read_checkpoint(found)
    try:
        config = configuration.read(found.parent.parent / "config.yaml", user_dirs, overrides)
    except (UnknownName, PluginError) as error:
        raise CheckpointError(
            f"{found} cannot be used here: {error}{checkpoint.wanted(state)}"
        ) from error
    if average and "average" not in tensors:
        raise CheckpointError(
            f"{found} holds no moving average of the weights; "
            f"{f'it is a copy of one set of weights ({origin})' if (origin := state.get('imported')) else 'it was trained with train.ema=0'}"
        )
    return found, tensors, state, config, load_plugins(config.user_dirs)


def load(path: str | Path, user_dirs: tuple[str, ...] = (), average: bool | None = None) -> Loaded:
    """A checkpoint, or a run (its newest whole checkpoint) -> model, tokenizer and config, on the CPU. average: take
    the moving average of the weights (train.ema); None: where the run was evaluated with it (train.evaluate_average)."""
    found, tensors, state, config, _ = _opened(path, user_dirs, bool(average))
    if average is None:  # a copy that `Loaded.save` wrote holds the chosen weights alone
        average = config.train.evaluate_average and "average" in tensors
    task = config.task.cls.without_data(config.task.config, config.seed, found.parent.parent)
    module = build_module(config, task)
    checkpoint.refuse_not_finite(found, tensors["model"], module)
    load_model_tensors(
        module, {**tensors["model"], **(tensors["average"] if average else {})}, found
    )
    module.eval()
    module.ema = tensors.get("average")  # for views that are encoded with it
    return Loaded(
        found,
        config,
        module,
        getattr(task, "tokenizer", None),
        state["update"],
        task,
        {key: state[key] for key in KEPT if key in state},
    )
