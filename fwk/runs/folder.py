"""A run's folder: its name, whether this run may use it, and the files that describe the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from fwk.components.discovery import provenance as plugin_provenance
from fwk.config.identity import differences
from fwk.config.identity import identity as config_identity
from fwk.config.resolve import read as read_config
from fwk.config.run_config import RunConfig
from fwk.config.user_paths import with_absolute_paths
from fwk.engine.run import Run
from fwk.engine.saving import checkpoint
from fwk.errors import CheckpointError
from fwk.files import write_atomically
from fwk.runs.environment import describe_environment
from fwk.runs.lock import LOCK


def default_folder(config: RunConfig) -> Path:
    """Return runs/TASK-CRITERIA-HASH: the same command finds its run again, another config gets another folder."""
    criteria = "+".join(config.criterion)
    return Path("runs") / f"{config.task.name}-{criteria}-{config_identity(config)}"


def open_folder(folder: Path, config: RunConfig, overwrite: bool) -> None:
    """Empty the folder, or check that the run in it has this config. The caller holds the folder's lock.

    Raises CheckpointError where the folder cannot be used, or holds something else.
    """
    try:
        if overwrite:
            _empty(folder)
        _check_config(folder, config)
    except OSError as error:
        raise CheckpointError(f"cannot use the run folder {folder}: {error.strerror}") from error


def _empty(folder: Path) -> None:
    inside = [path for path in folder.iterdir() if path.name != LOCK]
    if inside and not (folder / "config.yaml").is_file():
        raise CheckpointError(
            f"--overwrite: {folder} is not empty, but is not a run's folder (it has no config.yaml); "
            "nothing was deleted"
        )
    # config.yaml comes last: until then the folder is known to hold a run
    for path in sorted(inside, key=lambda path: path.name == "config.yaml"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _check_config(folder: Path, config: RunConfig) -> None:
    path = folder / "config.yaml"
    if not path.is_file() or not checkpoint.list_checkpoints(folder):
        return  # nothing to resume from
    # the config of an older run has its paths as they were given
    changed = differences(with_absolute_paths(read_config(path)), with_absolute_paths(config))
    if changed:
        changes = "; ".join(
            f"{key} was {old}, is now {new}" for key, (old, new) in sorted(changed.items())
        )
        raise CheckpointError(
            f"{folder} holds a run with another config ({changes}; see {path}); choose another --run, or start "
            "anew with --overwrite"
        )


def describe_run(run: Run) -> None:
    """Write environment.json and tokenizer/, once per run."""
    environment = describe_environment(run.config, plugin_provenance(), run.device, run.world_size)
    text = json.dumps(environment, indent=1, sort_keys=True, default=str)
    write_atomically(run.folder / "environment.json", text.encode())
    (run.folder / "tokenizer").mkdir(exist_ok=True)
    run.task.save_assets(run.folder / "tokenizer")
