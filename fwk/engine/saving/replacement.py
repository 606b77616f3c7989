"""A run that replaces another one in the same folder (`--overwrite`).

    RUN/.replacing/   the old run while its files are moved; the next start moves them back
    RUN/.replaced/    the old run, complete, until the new one has a checkpoint

At every moment one of the two runs is complete: the new one from its first checkpoint on, the old one before. After a
kill in between, the next start in the folder finishes the replacement or takes it back.
"""

from __future__ import annotations

import logging
from itertools import count
from pathlib import Path

from fwk.files import sync
from fwk.files.kinds import LOCK, MARKER, RUN
from fwk.files.replacing import mark, remove_empty, remove_owned, rename

REPLACING, REPLACED = ".replacing", ".replaced"
STAYING = (LOCK, MARKER)  # of the folder, whichever run is in it

logger = logging.getLogger(__name__)


def own_entries(folder: Path) -> list[Path]:
    """Return the files and folders of a run in its folder, without what belongs to the folder."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.name not in STAYING and (RUN.owns(path.name) or RUN.owns_folder(path.name))
    ]


def set_aside(run: Path) -> None:
    """Move the run in a folder to `.replaced`; what fwk did not make stays."""
    entries = own_entries(run)
    if not entries:
        return
    mark(run, RUN)
    (run / REPLACING).mkdir()
    for path in entries:
        rename(path, run / REPLACING / path.name)
    rename(run / REPLACING, run / REPLACED)
    sync(run)


def is_replacing(run: Path) -> bool:
    """Return whether a replacement in this folder was neither finished nor taken back."""
    return any((run / name).is_dir() for name in (REPLACING, REPLACED))


def settle(run: Path) -> None:
    """Finish a replacement that was interrupted, where the new run has a checkpoint; else take it back."""
    if not is_replacing(run):
        return
    if any((run / "checkpoints").glob("update-*")) and not (run / REPLACING).is_dir():
        finish(run)
    else:
        take_back(run)
        logger.warning(
            "%s: the run that was to replace this one had no checkpoint; the old run is in its place again",
            run,
        )


def finish(run: Path) -> None:
    """Remove the run that was replaced; what cannot or must not be removed is kept under a visible name.

    The new run has a checkpoint.
    """
    old = run / REPLACED
    if not old.is_dir():
        return
    reason = "it holds what fwk did not write"
    try:
        if remove_owned(old, RUN):
            return
    except OSError as error:
        reason = error.strerror or str(error)
    kept = next(path for path in (run / f"replaced-{n}" for n in count(1)) if not path.exists())
    rename(old, kept)
    logger.warning("the rest of the run that was replaced is kept in %s: %s", kept, reason)


def take_back(run: Path) -> None:
    """Put the run that was to be replaced in its place again, and remove the new one."""
    if (run / REPLACED).is_dir() and not (run / REPLACING).is_dir():
        remove_owned(run, RUN, keep=STAYING)
        rename(run / REPLACED, run / REPLACING)
    if (run / REPLACING).is_dir():
        _merge(run / REPLACING, run)
    sync(run)


def _merge(source: Path, target: Path) -> None:
    """Move everything in one folder to another one; what cannot move because of its name stays."""
    for path in sorted(source.iterdir()):
        place = target / path.name
        if path.is_dir() and place.is_dir() and not path.is_symlink() and not place.is_symlink():
            _merge(path, place)
        elif not place.exists() and not place.is_symlink():
            rename(path, place)
    remove_empty(source)
