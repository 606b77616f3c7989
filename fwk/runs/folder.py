"""A run's folder: its name, whether this run may use it, and the files that describe the run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fwk.components.discovery import provenance as plugin_provenance
from fwk.config.identity import differences
from fwk.config.identity import identity as config_identity
from fwk.config.resolve import read as read_config
from fwk.config.run_config import RunConfig
from fwk.config.user_paths import with_absolute_paths, with_paths_from
from fwk.config.yaml_text import read as read_file
from fwk.contracts.options import Plain
from fwk.engine.assets import write_assets
from fwk.engine.run import Run
from fwk.engine.saving import checkpoint
from fwk.engine.saving.replacement import (
    REPLACED,
    REPLACING,
    is_replacing,
    own_entries,
    settle,
    take_back,
)
from fwk.errors import CheckpointError, UserError
from fwk.files.kinds import LOCK, MARKER, RUN
from fwk.files.replacing import remove_empty, remove_file, remove_owned, write_atomically
from fwk.runs.environment import describe_environment
from fwk.runs.lock import folder_lock


def default_folder(config: RunConfig) -> Path:
    """Return runs/TASK-CRITERIA-HASH: the same command finds its run again, another config gets another folder."""
    criteria = "+".join(config.criterion)
    return Path("runs") / f"{config.task.name}-{criteria}-{config_identity(config)}"


def folder_of(config: RunConfig) -> Path:
    """Return the folder of a run: the one that the config names, else the default one."""
    return Path(config.run) if config.run else default_folder(config)


@contextmanager
def locked_folder(folder: Path, config: RunConfig, overwrite: bool) -> Iterator[None]:
    """Lock a run's folder and check that this run may use it.

    A command that turns out to be wrong before the first line of the log leaves the folder as it was. Raises
    CheckpointError where another process holds the folder, where it cannot be used, or where it holds something else.
    """
    with folder_lock(folder) as is_made:
        try:
            settle(folder)
            is_new = not own_entries(folder)
            _check_content(folder, overwrite)
            if not overwrite:
                _check_config(folder, config)
        except OSError as error:
            raise CheckpointError(
                f"cannot use the run folder {folder}: {error.strerror}"
            ) from error
        except UserError:
            if is_made or not RUN.holds(folder):
                _remove_lock(folder, is_made)
            raise
        try:
            yield
        except UserError:
            _undo(folder, is_new, is_made)
            raise


def _undo(folder: Path, is_new: bool, is_made: bool) -> None:
    """Leave the folder as it was before the command, unless the run has written logs or checkpoints."""
    metrics = folder / "metrics.jsonl"
    if (metrics.is_file() and metrics.stat().st_size) or checkpoint.list_checkpoints(folder):
        return
    if is_replacing(folder):
        take_back(folder)
    elif is_new:
        remove_owned(folder, RUN, keep=(LOCK,))
        _remove_lock(folder, is_made)


def _remove_lock(folder: Path, is_made: bool) -> None:
    """Remove the lock, which this process holds, from a folder without a run; and the folder, if it was made for it."""
    remove_file(folder / LOCK)
    if is_made:
        remove_empty(folder)


def _check_content(folder: Path, overwrite: bool) -> None:
    """Raise CheckpointError where the folder holds something that the run would replace and that no run wrote."""
    others = [path for path in folder.iterdir() if path.name not in (LOCK, MARKER)]
    own = own_entries(folder)
    if others and not RUN.holds(folder):
        if overwrite:
            raise CheckpointError(
                f"--overwrite: {folder} is not empty, but is not a run's folder (it has no config.yaml beside an "
                "environment.json or a checkpoint); nothing was deleted"
            )
        if own:
            raise CheckpointError(
                f"{folder} holds {own[0].name}, which no run wrote and this one would replace; choose another --run"
            )
    if not overwrite:
        require_no_copy(folder)
    for name in [path.name for path in own] + [MARKER, REPLACED, REPLACING]:
        if (folder / name).is_symlink():
            raise CheckpointError(
                f"{folder / name} is a link, and the files of a run are not written through links; replace it by what "
                "it leads to, or choose another --run (which may be a link itself)"
            )


def require_no_copy(folder: Path) -> None:
    """Raise CheckpointError where a folder holds weights that were imported or copied, and no run to resume."""
    if any(_holds_weights_only(path) for path in checkpoint.list_checkpoints(folder)):
        raise CheckpointError(
            f"{folder} holds weights only, so training cannot resume from it; to start from them, give "
            f"model.from={folder} and choose another --run"
        )


def _holds_weights_only(path: Path) -> bool:
    """Return whether a checkpoint is a copy of weights; False where it is damaged, which is reported later."""
    try:
        return checkpoint.holds_weights_only(path)
    except CheckpointError:
        return False


def _check_config(folder: Path, config: RunConfig) -> None:
    path = folder / "config.yaml"
    if not checkpoint.list_checkpoints(folder):
        return  # nothing to resume from
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds checkpoints but no config.yaml, so nothing says whether they were trained with this "
            "config; restore the file, or choose another --run"
        )
    changed = differences_in(path, config)
    if changed:
        changes = "; ".join(
            f"{key} was {old}, is now {new}" for key, (old, new) in sorted(changed.items())
        )
        raise CheckpointError(
            f"{folder} holds a run with another config ({changes}; see {path}); choose another --run, or start "
            "anew with --overwrite"
        )


def differences_in(path: Path, config: RunConfig) -> dict[str, tuple[Plain, Plain]]:
    """Return the keys that differ from those of RUN/config.yaml, with both values.

    A path is the same where it leads to the same place, or where it is the same seen from the run's folder: a project
    may have been moved or copied with its data, and what the data hold is compared when the run resumes.
    """
    old = read_config(path)
    # the config of an older run has its paths as they were given
    changed = differences(with_absolute_paths(old), with_absolute_paths(config))
    recorded = read_file(path).values.get("run")
    if changed and isinstance(recorded, str):
        here = os.path.abspath(path.parent)
        moved = differences(with_paths_from(old, recorded), with_paths_from(config, here))
        changed = {key: values for key, values in changed.items() if key in moved}
    return changed


def describe_run(run: Run) -> None:
    """Write environment.json and tokenizer/, once per run."""
    environment = describe_environment(run.config, plugin_provenance(), run.device, run.world_size)
    text = json.dumps(environment, indent=1, sort_keys=True, default=str)
    write_atomically(run.folder / "environment.json", text.encode())
    (run.folder / "tokenizer").mkdir(exist_ok=True)
    run.task.save_assets(run.folder / "tokenizer")
    write_assets(run.module.networks, run.folder / "tokenizer")
