"""Checkpoints opened for use: model, tokenizer and config (`fwk.load`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pluggy import PluginManager
from torch import Tensor

from fwk.components.discovery import load_plugins
from fwk.config.resolve import read as read_config
from fwk.config.run_config import RunConfig
from fwk.engine.fitting import build_fitting
from fwk.engine.loaded import Loaded
from fwk.engine.module import ObjectiveModule
from fwk.engine.saving import checkpoint as checkpoint_files
from fwk.engine.saving.state import load_model_tensors
from fwk.engine.saving.tensor_file import SavedTensors, require_like
from fwk.errors import CheckpointError, PluginError, UnknownName, UntrustedCode
from fwk.files import user_path
from fwk.runs.untrained import untrained_parts

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


@dataclass(frozen=True, kw_only=True)
class OpenCheckpoint:
    """A checkpoint that was read, with its run's config and plugins."""

    path: Path
    tensors: dict[str, dict[str, Tensor]]  # by file and name
    state: checkpoint_files.State
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
    path: str | Path,
    user_dirs: Sequence[str],
    average: bool,
    overrides: Sequence[str] = (),
    which: str = "newest",
) -> OpenCheckpoint:
    """Read a checkpoint, or a run's newest intact one.

    average: require a moving average of the weights. overrides: of the run's config. which: 'best' for the run's best
    checkpoint. Raises CheckpointError where the checkpoint cannot be used, and UntrustedCode where it needs code that
    the user has not allowed.
    """
    checkpoint_folder = checkpoint_files.find_checkpoint(user_path(path), which)
    tensors, state = checkpoint_files.read_checkpoint(checkpoint_folder)
    try:
        config_file = checkpoint_folder.parent.parent / "config.yaml"
        config = read_config(config_file, user_dirs, overrides, needs_hooks=False)
    except UntrustedCode:
        raise
    except (UnknownName, PluginError) as error:
        raise CheckpointError(
            f"{checkpoint_folder} cannot be used: {error}{checkpoint_files.describe_requirements(state)}"
        ) from error
    if average and "average" not in tensors:
        raise CheckpointError(
            f"{checkpoint_folder} holds no moving average of the weights; {_why_no_average(state)}"
        )
    return OpenCheckpoint(
        path=checkpoint_folder,
        tensors=tensors,
        state=state,
        config=config,
        hooks=load_plugins(config.user_dirs),
    )


def _why_no_average(state: checkpoint_files.State) -> str:
    origin = state.get("imported")
    if origin:
        return f"it is a copy of one set of weights ({origin})"
    return "it was trained with train.ema=0"


def load(
    path: str | Path,
    user_dirs: tuple[str, ...] = (),
    average: bool | None = None,
    checkpoint: str = "newest",
) -> Loaded:
    """Return model, tokenizer and config of a checkpoint, or of a run's newest intact one, on the CPU.

    average: use the moving average of the weights (train.ema); None: as the run was evaluated (train.evaluate_average).
    checkpoint: 'best' for the run's best one by train.best_metric.
    """
    opened = open_checkpoint(path, user_dirs, bool(average), which=checkpoint)
    config, tensors, state = opened.config, opened.tensors, opened.state
    if average is None:
        # a copy that `Loaded.save` wrote holds one set of weights, those that were chosen then
        average = config.train.evaluate_average and "average" in tensors
    with config.task.refusals():
        task = config.task.cls.without_data(config.task.config, config.seed, opened.run_folder)
    module = build_fitting(config, task, opened.saved)
    _check_weights(opened, module)
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


def _check_weights(opened: OpenCheckpoint, module: ObjectiveModule) -> None:
    """Raise CheckpointError where weights or averages are not finite, or averages not of the module's shapes."""
    tensors = opened.tensors
    checkpoint_files.require_finite(opened.path, tensors["model"], module)
    if "average" in tensors:
        averaged = {name: value for name, value in module.named_parameters() if name != "anchor"}
        require_like(averaged, tensors["average"], opened.path, "moving average")
        checkpoint_files.require_finite(opened.path, tensors["average"], module)
