"""Checkpoints: written beside their final place, synced, hashed and renamed, so that each is complete or absent.

State is JSON and tensors are safetensors: loading a checkpoint executes nothing.

    update-000000100/
        model.safetensors       parameters and buffers by name, tied ones once
        optimizer.safetensors   moments as 'parameter::key'
        average.safetensors     only with train.ema
        meters.safetensors      the sums since the last log line, per rank
        state.json              update, phase, scale, seconds, tokens, state of plugins, what is needed to load it
        manifest.json           sha256 and size of each of the above

A folder without a manifest that fits its files is not a checkpoint: a run that resumes skips it, with a message, and
takes the one before.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from fwk.contracts.json_files import fitted, read_json, require_file_name
from fwk.contracts.plain import PlainDict
from fwk.contracts.shapes import shown
from fwk.data.weights import read_tensors
from fwk.engine.saving import replacement
from fwk.engine.saving.tensor_file import SavedTensors, byte_size, serialize
from fwk.errors import CheckpointError, UserError
from fwk.files import UNSUPPORTED, digest, sync, write_hashed
from fwk.files.kinds import CHECKPOINT
from fwk.files.replacing import remove_file, remove_owned, rename, replace_link
from fwk.nn.finite import names_not_finite

State = PlainDict  # the content of state.json
Manifest = PlainDict  # the content of manifest.json

logger = logging.getLogger(__name__)

FORMAT = 1
NAME = re.compile(r"update-(\d{9,})$")
REQUIRED_FILES = {
    "model.safetensors",
    "optimizer.safetensors",
    "meters.safetensors",
    "state.json",
}
REQUIRED_STATE = {  # keys of state.json that a run resumes from
    "update",
    "skipped",
    "tokens",
    "sequences",
    "seconds",
    "world_size",
    "phase",
    "optimizer",
    "schedule_start",
    "precision",
    "best",
    "last_metrics",
    "rate",
    "grad_norm",
    "owed",
    "fingerprint",
    "plugins",
    "listeners",
}
# types of the entries of state.json; copies of weights lack some of them
COUNTS = {
    "update": "int",
    "skipped?": "int",
    "tokens": "int",
    "sequences": "int",
    "seconds": "float",
    "world_size?": "int",
}
OTHERS = {
    "phase?": "dict[str, Any] | None",
    "optimizer?": "dict[str, Any]",
    "schedule_start?": "tuple[int, float] | None",
    "precision?": "dict[str, Any]",
    "best?": "list[tuple[float, int], ...]",
    "milestones?": "list[int, ...]",
    "waiting?": "tuple[float, int] | None",
    "last_metrics?": "dict[str, dict[str, Any]]",
    "rate?": "float",
    "grad_norm?": "float",
    "owed?": "bool",
    "fingerprint?": "str",
    "plugins?": "dict[str, dict[str, Any]]",
    "listeners?": "list[str, ...]",
    "needs?": "dict[str, dict[str, Any]]",
    "imported?": "str",
    "untrained?": "list[str, ...]",
}
PHASE = {
    "name": "str",
    "frozen": "list[str, ...]",
    "off": "list[str, ...]",
    "copy": "dict[str, str]",
    "reset_optimizer": "bool",
    "restart_schedule": "bool",
}
WRITING = ".writing-"  # prefix of a folder that is being written
REPLACED = ".replaced-"  # prefix of a checkpoint that makes room for another one of the same update


class NewerFormat(CheckpointError):
    """A later version wrote the checkpoint.

    It is not skipped: resuming from an older checkpoint would discard its updates without asking.
    """


def folder_name(update: int) -> str:
    """Return the name of an update's checkpoint."""
    return f"update-{update:09d}"


def update_of(checkpoint: Path) -> int:
    """Return the update in a checkpoint's name."""
    match = NAME.search(checkpoint.name)
    assert match is not None, checkpoint
    return int(match[1])


def list_checkpoints(run: Path) -> list[Path]:
    """Return the checkpoint folders of a run, oldest first, intact or not."""
    folders = [
        path
        for path in (run / "checkpoints").glob("update-*")
        if NAME.match(path.name) and path.is_dir()
    ]
    return sorted(folders, key=update_of)


# -- writing ---------------------------------------------------------------------------------------------------------


def write_checkpoint(
    run: Path, update: int, tensors: Mapping[str, Mapping[str, Tensor]], state: str
) -> Path:
    """Write `checkpoints/update-N` and return it; afterwards it is complete, or what was there before is unchanged.

    tensors: by file and name. state: JSON. Raises OSError where the disk is full or fails.
    """
    parent = run / "checkpoints"
    final = parent / folder_name(update)
    beside = parent / f"{WRITING}{final.name}-{secrets.token_hex(4)}"
    parent.mkdir(exist_ok=True)
    for unfinished in parent.glob(f"{WRITING}*"):  # left by a run that was killed while it wrote
        remove(unfinished)
    _require_space_for(parent, sum(byte_size(group) for group in tensors.values()))
    try:
        _write_files(beside, update, tensors, state)
        if os.path.lexists(final):
            # of the same update: `newest_intact` finds it under its other name until the new one is in place
            aside = parent / f"{REPLACED}{final.name}"
            remove(aside)
            rename(final, aside)
        rename(beside, final)
        sync(parent)
        for replaced in parent.glob(f"{REPLACED}*"):
            remove(replaced)
    except BaseException:
        remove(beside)
        raise
    return final


def _write_files(
    folder: Path, update: int, tensors: Mapping[str, Mapping[str, Tensor]], state: str
) -> None:
    folder.mkdir()
    files = {
        f"{name}.safetensors": write_hashed(folder / f"{name}.safetensors", serialize(group))
        for name, group in tensors.items()
    }
    files["state.json"] = write_hashed(folder / "state.json", [state.encode()])
    manifest = {"format": FORMAT, "update": update, "files": dict(sorted(files.items()))}
    write_hashed(folder / "manifest.json", [json.dumps(manifest, indent=1).encode()])
    sync(folder)


def _require_space_for(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"it needs {_megabytes(needed)}, but only {_megabytes(free)} are free on its disk",
        )


def require_free_space(run: Path, needed: int) -> None:
    """Raise CheckpointError where fewer than `needed` bytes are free for a checkpoint of the run."""
    free = shutil.disk_usage(run).free
    if needed > free:
        raise CheckpointError(
            f"a checkpoint needs at least {_megabytes(needed)}, but only {_megabytes(free)} are free on the disk "
            f"of {run}; free some space, or choose another --run"
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def prune_checkpoints(
    run: Path, newest: Path, best: Sequence[int], milestones: Sequence[int], keep_last: int
) -> None:
    """Update the links `latest` and `best`, and delete the checkpoints that are not kept.

    Kept are the last `keep_last`, the best updates (the very best first) and the milestones. Call it after a resume as
    well: the run may have been killed between writing a checkpoint and this.
    """
    point(run, "latest", newest)
    if best and (first := run / "checkpoints" / folder_name(best[0])).is_dir():
        point(run, "best", first)
    for old in list_checkpoints(run)[:-keep_last]:
        # a link leads to a checkpoint that somebody keeps elsewhere
        if update_of(old) not in (*best, *milestones) and old != newest and not old.is_symlink():
            remove(old)
    replacement.finish(run)


def point(run: Path, name: str, target: Path) -> None:
    """Make the link checkpoints/NAME point to a checkpoint; it is replaced in one step.

    A run does without links where its file system has none, or where something else has the name; it warns once.
    """
    folder = run / "checkpoints"
    try:
        replace_link(folder / name, target.name)
    except FileExistsError:  # a copy of the run may hold folders instead of links
        _warn_without_links(folder, f"'{name}' is not a link, so it does not lead to {target.name}")
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        reason = f"its file system has no links ({error.strerror}), so there is no 'latest' and no 'best'"
        _warn_without_links(folder, reason)


@cache
def _warn_without_links(folder: Path, reason: str) -> None:
    logger.warning(
        "%s: %s; name the run, which stands for its newest checkpoint, or a checkpoint",
        folder,
        reason,
    )


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint; its manifest goes first, so that an interrupted deletion leaves no checkpoint.

    Of a link only the link is deleted, and of a folder only the files of a checkpoint.
    """
    if checkpoint.is_symlink():
        remove_file(checkpoint)
    else:
        remove_owned(checkpoint, CHECKPOINT)


# -- reading ---------------------------------------------------------------------------------------------------------


def verify(checkpoint: Path) -> Manifest:
    """Return the manifest after every file was hashed. Raises CheckpointError, which names the file that differs."""
    manifest = _read_manifest(checkpoint)
    for name, expected in manifest["files"].items():
        path = checkpoint / name
        if not path.is_file():
            raise CheckpointError(f"{checkpoint} lacks {name}")
        if path.stat().st_size != expected["bytes"]:
            raise CheckpointError(
                f"{path} has {path.stat().st_size} bytes, expected {expected['bytes']}"
            )
        if digest(path) != expected["sha256"]:
            raise CheckpointError(
                f"{path} was changed: its sha256 is not the one it was written with"
            )
    return manifest


def _read_manifest(checkpoint: Path) -> Manifest:
    path = checkpoint / "manifest.json"
    manifest = read_json(path, CheckpointError)
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{path} is not a checkpoint's manifest")
    version, files = manifest.get("format"), manifest.get("files")
    if isinstance(version, int) and version > FORMAT:
        raise NewerFormat(
            f"{checkpoint} has format {version}, but this version of fwk reads formats up to {FORMAT}; "
            "install the version that wrote it (environment.json in the run's folder names it)"
        )
    if version != FORMAT or not isinstance(files, dict) or not REQUIRED_FILES.issubset(files):
        raise CheckpointError(f"{path} is not a checkpoint's manifest")
    for name, entry in files.items():
        require_file_name(name, path, CheckpointError)
        fitted(entry, {"sha256": "str", "bytes": "int"}, f"{path}: {name}", CheckpointError, low=0)
    return manifest


def weights_digest(checkpoint: Path) -> str:
    """Return the sha256 of a checkpoint's weights, as its manifest has it."""
    return _read_manifest(checkpoint)["files"]["model.safetensors"]["sha256"]


def read_checkpoint(checkpoint: Path) -> tuple[dict[str, dict[str, Tensor]], State]:
    """Return the tensors, by file and name, and the state of a checkpoint that was verified."""
    manifest = verify(checkpoint)
    state = read_state(checkpoint)
    tensors = {
        Path(name).stem: read_tensors(checkpoint / name)
        for name in manifest["files"]
        if name.endswith(".safetensors")
    }
    return tensors, state


def read_state(checkpoint: Path) -> State:
    """Return the state of a checkpoint, its entries checked. Raises CheckpointError where one is of another kind."""
    path = checkpoint / "state.json"
    state = read_json(path, CheckpointError)
    counts = fitted(state, COUNTS, path, CheckpointError, low=0, high=1 << 60)
    others = fitted(state, OTHERS, path, CheckpointError)
    if others.get("phase") is not None:
        others["phase"] = fitted(others["phase"], PHASE, f"{path}: phase", CheckpointError)
    if "precision" in others:
        scale = fitted(others["precision"], {"scale": "float"}, path, CheckpointError, low=1e-30)
        good = fitted(others["precision"], {"good": "int"}, path, CheckpointError, low=0)
        others["precision"] = {**scale, **good}
    for split, metrics in others.get("last_metrics", {}).items():
        _check_metrics(metrics, f"{path}: last_metrics.{split}")
    for facts in others.get("needs", {}).values():
        fitted(facts, {"version?": "str", "names?": "list[str, ...]"}, path, CheckpointError)
    return {**state, **counts, **others}


def _check_metrics(metrics: PlainDict, where: str) -> None:
    """Raise CheckpointError unless all metrics are numbers, finite or not, or null."""
    for name, value in metrics.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise CheckpointError(f"{where} is damaged: {name} is {shown(value)}, not a number")


def holds_weights_only(checkpoint: Path) -> bool:
    """Return True where training cannot resume from the checkpoint, since it holds nothing but weights."""
    return "imported" in read_state(checkpoint)


def not_finite(tensors: Mapping[str, Tensor], module: torch.nn.Module) -> list[str]:
    """Return the names of parameters with a value that is not finite. Buffers may hold such values (a mask of -inf)."""
    parameters = [name for name, _ in module.named_parameters() if name in tensors]
    return names_not_finite({name: tensors[name] for name in parameters})


def require_finite(
    checkpoint: Path, tensors: Mapping[str, Tensor], module: torch.nn.Module
) -> None:
    """Raise CheckpointError where a parameter of `module` is not finite in `tensors`."""
    names = not_finite(tensors, module)
    if names:
        raise CheckpointError(f"{checkpoint}: {', '.join(names[:3])} is not finite")


def newest_intact(
    run: Path, module: torch.nn.Module | None = None
) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint that verifies, and a message for each newer one that does not.

    module: its parameters must be finite. Raises CheckpointError where the run has checkpoints but none is intact, or
    where the newest is of a later format.
    """
    problems = []
    for checkpoint in _newest_first(run):
        try:
            verify(checkpoint)
        except NewerFormat:
            raise
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if module is None:
            return checkpoint, problems
        tensors = read_tensors(
            checkpoint / "model.safetensors"
        )  # its hash fits: not skipped if it is damaged
        if not (names := not_finite(tensors, module)):
            return checkpoint, problems
        problems.append(f"{checkpoint}: {', '.join(names[:3])} is not finite")
    if problems:
        raise CheckpointError(f"no checkpoint of {run} is intact: {'; '.join(problems)}")
    return None, problems


def _newest_first(run: Path) -> list[Path]:
    """Return what may be a run's newest checkpoint, in the order in which it is tried."""
    # a replaced checkpoint is present only if a run was killed at that instant
    replaced = (run / "checkpoints").glob(f"{REPLACED}update-*")
    return sorted(
        [*list_checkpoints(run), *replaced], key=lambda p: (update_of(p), p.name), reverse=True
    )


def saved_weights(run: Path) -> SavedTensors | None:
    """Return the weights of a run's newest checkpoint whose file can be read, unverified; None without checkpoints.

    They are mapped and not read, so that shapes can be compared before a model is built. Raises CheckpointError where
    there are checkpoints, and none can be read.
    """
    problems = []
    for checkpoint in _newest_first(run):
        try:
            tensors = read_tensors(checkpoint / "model.safetensors")
            return SavedTensors(checkpoint, tensors, run / "tokenizer")
        except CheckpointError as error:
            problems.append(error)
    if problems:
        newest_intact(run)  # names what is wrong with each of them
        raise problems[0]
    return None


def find_checkpoint(path: Path, which: str = "newest") -> Path:
    """Return the checkpoint folder for a checkpoint, `latest`, `best` or a run's folder (its newest intact one).

    which: 'best' for the best one of a run instead. Raises CheckpointError where no such checkpoint exists.
    """
    if which == "best":
        return _best_checkpoint(path)
    if which != "newest":
        raise UserError(f"checkpoint: expected newest or best, got {shown(which)}")
    if (path / "manifest.json").is_file():
        return path.resolve()
    if (path / "checkpoints").is_dir():
        checkpoint, problems = newest_intact(path)
        for problem in problems:
            warnings.warn(f"skipped a checkpoint: {problem}", stacklevel=2)
        if checkpoint is not None:
            return checkpoint
        raise CheckpointError(f"{path} is a run that has no checkpoint yet")
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint or run at {path}")
    raise CheckpointError(
        f"{path} is neither a checkpoint nor a run's folder (it has no manifest.json and no checkpoints/)"
    )


def _best_checkpoint(path: Path) -> Path:
    """Return the best checkpoint of a run, as its newest one says; there may be no link on its file system."""
    if (path / "manifest.json").is_file():
        raise CheckpointError(
            f"{path} is one checkpoint; expected a run's folder, to choose its best"
        )
    newest = find_checkpoint(path)
    best = read_state(newest).get("best", [])
    if not best:
        raise CheckpointError(
            f"{path} has no best checkpoint: it was not evaluated on a valid split, or kept none (train.keep_best)"
        )
    folder = newest.parent / folder_name(best[0][1])
    if not folder.is_dir():
        raise CheckpointError(f"{path} lacks its best checkpoint, {folder.name}")
    return folder


def describe_requirements(state: State) -> str:
    """Return `; it needs ...` with the plugins that a checkpoint needs, their versions and components, or ''."""
    plugins = []
    for name, facts in state.get("needs", {}).items():
        version = f" {facts['version']}" if facts.get("version") else ""
        plugins.append(f"{name}{version} ({', '.join(facts.get('names', []))})")
    if not plugins:
        return ""
    return f"; it needs {'; '.join(plugins)}: install them, or name the user directories"
