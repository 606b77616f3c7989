"""Checkpoints opened for use: model, tokenizer and config (`fwk.load`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pluggy import PluginManager
from torch import Tensor

from fwk.components.discovery import load_plugins
from fwk.config.resolve import read as read_config
from fwk.config.run_config import RunConfig
from fwk.contracts.encoder import Encoder
from fwk.contracts.plain import PlainMapping
from fwk.contracts.task import Task
from fwk.engine.assets import write_assets
from fwk.engine.fitting import build_fitting
from fwk.engine.module import ObjectiveModule
from fwk.engine.predict import predict_texts
from fwk.engine.saving import checkpoint
from fwk.engine.saving.state import load_model_tensors, model_tensors, write_weights
from fwk.engine.saving.tensor_file import SavedTensors, require_like
from fwk.errors import (
    CheckpointError,
    ConfigError,
    PluginError,
    UnknownName,
    UntrustedCode,
    UserError,
)
from fwk.files import user_path
from fwk.files.kinds import COPY
from fwk.files.outputs import AtomicFolder
from fwk.runs.untrained import untrained_parts

BATCHES_PER_CALL = 16  # raw texts are sorted by length among this many batches

# entries of a run's state that a copy of its weights keeps
KEPT_STATE = (
    "update",
    "skipped",
    "tokens",
    "sequences",
    "seconds",
    "phase",
    "fingerprint",
    "untrained",
)

COPY_ORIGIN = "a trained run"  # the `imported` entry of a copy's state


@dataclass(frozen=True)
class Loaded:
    """What `fwk.load` returns."""

    folder: Path  # of the checkpoint
    config: RunConfig
    module: ObjectiveModule  # every network, head and learned noiser, in evaluation mode
    tokenizer: Any  # of the task; None for tasks without one
    update: int  # updates done
    task: Task  # without its data
    state: PlainMapping = field(default_factory=dict, repr=False)  # the counters of the run
    untrained: tuple[str, ...] = ()  # criteria and learned views that hold their initial weights

    @property
    def model(self) -> Encoder:
        """The main encoder."""
        return cast(Encoder, self.module.networks["main"])

    def require_trained(self, name: str, key: str, remedy: str = "train it first") -> None:
        """Raise ConfigError at `key` where the criterion or learned view `name` was never trained."""
        if name in self.untrained:
            raise ConfigError(
                key,
                f"'{name}' of {self.folder} was never trained, so what it computes is noise; {remedy}",
            )

    def predict(self, texts: Iterable[str | Sequence[str]], batch: int = 64) -> list[Any]:
        """Return the criteria's predictions for raw texts (or lists of words), in the form that the task gives them.

        batch: texts at a time; fewer where they are long. Raises UserError where the task reads no raw text or no
        criterion predicts, and DataError, which names the text, where one cannot be read.
        """
        if isinstance(texts, str):
            raise UserError(f"predict: expected a list of texts, got one text ({texts[:40]!r})")
        if not isinstance(texts, Iterable):
            raise UserError(f"predict: expected a list of texts, got {texts!r}")
        if batch < 1:
            raise UserError(f"predict: batch is {batch}, expected at least 1")
        texts, predictions = list(texts), []
        size = BATCHES_PER_CALL * batch
        for start in range(0, max(len(texts), 1), size):
            part = texts[start : start + size]
            names = [f"texts[{number}]" for number in range(start, start + len(part))]
            predictions += predict_texts(self.module, self.task, part, names, batch)
        return predictions

    def save(self, folder: str | Path) -> None:
        """Write config, tokenizer and weights as a folder that `fwk.load` reads and training cannot resume from.

        An earlier copy in the folder is replaced; files beside it stay. Raises CheckpointError where the folder holds
        anything else.
        """
        place = user_path(folder).resolve()
        _check_place_of_copy(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        with AtomicFolder(place, overwrite=True, kind=COPY) as copy:
            (copy / "tokenizer").mkdir()
            self.task.save_assets(copy / "tokenizer")
            write_assets(self.module.networks, copy / "tokenizer")
            write_weights(copy, model_tensors(self.module), self.config, COPY_ORIGIN, **self.state)


def _check_place_of_copy(folder: Path) -> None:
    """Raise CheckpointError where a folder holds anything but a copy of weights."""
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; choose another place for the copy")
    for path in checkpoint.list_checkpoints(folder):
        if not checkpoint.holds_weights_only(path):
            raise CheckpointError(
                f"{folder} holds a run that can resume from {path.name}; choose another folder for the copy"
            )
    if folder.is_dir() and any(folder.iterdir()) and not COPY.holds(folder):
        raise CheckpointError(
            f"{folder} is not empty, and is no copy of weights; choose another folder for the copy"
        )


@dataclass(frozen=True, kw_only=True)
class OpenCheckpoint:
    """A checkpoint that was read, with its run's config and plugins."""

    path: Path
    tensors: dict[str, dict[str, Tensor]]  # by file and name
    state: checkpoint.State
    config: RunConfig
    hooks: PluginManager

    @property
    def run_folder(self) -> Path:
        """The folder of the checkpoint's run."""
        return self.path.parent.parent

    @property
    def saved(self) -> SavedTensors:
        """The weights, without averages."""
        return SavedTensors(self.path, self.tensors["model"], self.run_folder / "tokenizer")


def open_checkpoint(
    path: str | Path, user_dirs: Sequence[str], average: bool, overrides: Sequence[str] = ()
) -> OpenCheckpoint:
    """Read a checkpoint, or a run's newest intact one.

    average: require a moving average of the weights. overrides: of the run's config. Raises CheckpointError where the
    checkpoint cannot be used, and UntrustedCode where it needs code that the user has not allowed.
    """
    checkpoint_folder = checkpoint.find_checkpoint(user_path(path))
    tensors, state = checkpoint.read_checkpoint(checkpoint_folder)
    try:
        config_file = checkpoint_folder.parent.parent / "config.yaml"
        config = read_config(config_file, user_dirs, overrides, needs_hooks=False)
    except UntrustedCode:
        raise
    except (UnknownName, PluginError) as error:
        raise CheckpointError(
            f"{checkpoint_folder} cannot be used: {error}{checkpoint.describe_requirements(state)}"
        ) from error
    if average and "average" not in tensors:
        origin = state.get("imported")
        reason = (
            f"it is a copy of one set of weights ({origin})"
            if origin
            else "it was trained with train.ema=0"
        )
        raise CheckpointError(
            f"{checkpoint_folder} holds no moving average of the weights; {reason}"
        )
    return OpenCheckpoint(
        path=checkpoint_folder,
        tensors=tensors,
        state=state,
        config=config,
        hooks=load_plugins(config.user_dirs),
    )


def load(path: str | Path, user_dirs: tuple[str, ...] = (), average: bool | None = None) -> Loaded:
    """Return model, tokenizer and config of a checkpoint, or of a run's newest intact one, on the CPU.

    average: use the moving average of the weights (train.ema); None: as the run was evaluated (train.evaluate_average).
    """
    opened = open_checkpoint(path, user_dirs, bool(average))
    config, tensors, state = opened.config, opened.tensors, opened.state
    if average is None:
        # a copy that `Loaded.save` wrote holds one set of weights, those that were chosen then
        average = config.train.evaluate_average and "average" in tensors
    with config.task.refusals():
        task = config.task.cls.without_data(config.task.config, config.seed, opened.run_folder)
    module = build_fitting(config, task, opened.saved)
    checkpoint.require_finite(opened.path, tensors["model"], module)
    if "average" in tensors:
        averaged = {name: value for name, value in module.named_parameters() if name != "anchor"}
        require_like(averaged, tensors["average"], opened.path, "moving average")
        checkpoint.require_finite(opened.path, tensors["average"], module)
    weights = {**tensors["model"], **(tensors["average"] if average else {})}
    untrained = untrained_parts(module, weights, state)
    load_model_tensors(module, weights, opened.path)
    module.eval()
    module.encoding.averages = tensors.get("average")  # for views that are encoded with them
    return Loaded(
        folder=opened.path,
        config=config,
        module=module,
        tokenizer=getattr(task, "tokenizer", None),  # tasks without text have none
        update=state["update"],
        task=task,
        state={
            **{key: state[key] for key in KEPT_STATE if key in state},
            **({"untrained": list(untrained)} if untrained else {}),
        },
        untrained=untrained,
    )
