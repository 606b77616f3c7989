"""The training of one needed run, and its targets, in the process that was started for it."""

from __future__ import annotations

from pathlib import Path

from fwk.config.resolve import resolve
from fwk.config.run_config import targets_file
from fwk.contracts.plain import PlainMapping
from fwk.runs.evaluating import evaluate_run
from fwk.runs.lock import folder_lock
from fwk.runs.start import train


def train_one(request: PlainMapping) -> int:
    """Train a run as a request of `fwk.runs.children` says, and store its targets; return the exit status."""
    folder, split, allow_broken = (
        request["run"],
        request["split"],
        request["allow_broken_plugins"],
    )
    config = resolve(
        flags={"run": folder},
        layers=[(request["name"], request["config"])],
        allow_broken=allow_broken,
    ).config
    if request["trains"]:
        finished = train(config, allow_broken_plugins=allow_broken)
        if finished.exit_status:
            return finished.exit_status
    if split is not None:
        with folder_lock(Path(folder)):  # another chain that needs the run waits for them
            evaluate_run(
                folder,
                split,
                user_dirs=config.user_dirs,
                targets=Path(targets_file(folder, split)),
                overwrite=True,
            )
    return 0
