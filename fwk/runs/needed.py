"""The training of one needed run, and its targets, in the process that was started for it."""

from __future__ import annotations

from pathlib import Path

from fwk.config.resolve import resolve
from fwk.config.run_config import targets_file
from fwk.contracts.plain import PlainMapping
from fwk.errors import FolderInUse
from fwk.runs.children import EXIT_IN_USE
from fwk.runs.evaluating import evaluate_run
from fwk.runs.lock import folder_lock
from fwk.runs.start import train


def train_one(request: PlainMapping) -> int:
    """Train a run as a request of `fwk.runs.children` says, and store its targets; return the exit status."""
    allow_broken = request["allow_broken_plugins"]
    config = resolve(
        flags={"run": request["run"]},
        layers=[(request["name"], request["config"])],
        allow_broken=allow_broken,
    ).config
    try:
        if request["trains"]:
            finished = train(config, allow_broken_plugins=allow_broken)
            if finished.exit_status:
                return finished.exit_status
        if request["split"] is not None:
            _store_targets(request["run"], request["split"], config.user_dirs)
    except FolderInUse:  # another chain was faster
        return EXIT_IN_USE
    return 0


def _store_targets(folder: str, split: str, user_dirs: tuple[str, ...]) -> None:
    """Evaluate a finished run on a split; the lock lets another chain that needs the run wait for it."""
    path = Path(targets_file(folder, split))
    with folder_lock(Path(folder)):
        evaluate_run(folder, split, user_dirs=user_dirs, targets=path, overwrite=True)
