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
import os
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fwk.contracts.plain import PlainDict
from fwk.engine.saving.tensor_file import byte_size, serialize
from fwk.errors import CheckpointError
from fwk.files import digest, sync, write_hashed
from fwk.nn.finite import names_not_finite

State = PlainDict  # the content of state.json
Manifest = PlainDict  # the content of manifest.json

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
    final, beside = parent / folder_name(update), parent / f"{WRITING}{folder_name(update)}"
    parent.mkdir(exist_ok=True)
    for unfinished in parent.glob(f"{WRITING}*"):  # left by a run that was killed while it wrote
        shutil.rmtree(unfinished)
    _require_space_for(parent, sum(byte_size(group) for group in tensors.values()))
    try:
        _write_files(beside, update, tensors, state)
        if final.exists():
            # of the same update: `newest_intact` finds it under its other name until the new one is in place
            aside = parent / f"{REPLACED}{folder_name(update)}"
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(final, aside)
        os.replace(beside, final)
        sync(parent)
        for replaced in parent.glob(f"{REPLACED}*"):
            remove(replaced)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
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
        if update_of(old) not in (*best, *milestones) and old != newest:
            remove(old)


def point(run: Path, name: str, target: Path) -> None:
    """Make the link checkpoints/NAME point to a checkpoint; it is replaced in one step."""
    link, beside = run / "checkpoints" / name, run / "checkpoints" / f".{name}"
    beside.unlink(missing_ok=True)
    beside.symlink_to(target.name)
    os.replace(beside, link)


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint; its manifest goes first, so that an interrupted deletion leaves no checkpoint."""
    (checkpoint / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


# -- reading ---------------------------------------------------------------------------------------------------------


def verify(checkpoint: Path) -> Manifest:
    """Return the manifest after every file was hashed. Raises CheckpointError, which names the file that differs."""
    manifest = _read_manifest(checkpoint)
    for name, expected in manifest["files"].items():
        path = checkpoint / name
        if not path.is_file():
            raise CheckpointError(f"{checkpoint} lacks {name}")
        if path.stat().st_size != expected.get("bytes"):
            raise CheckpointError(
                f"{path} has {path.stat().st_size} bytes, expected {expected.get('bytes')}"
            )
        if digest(path) != expected.get("sha256"):
            raise CheckpointError(
                f"{path} was changed: its sha256 is not the one it was written with"
            )
    return manifest


def _read_manifest(checkpoint: Path) -> Manifest:
    path = checkpoint / "manifest.json"
    manifest = _read_json(path)
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
        if not isinstance(entry, dict) or Path(name).name != name:
            raise CheckpointError(f"{path} is not a checkpoint's manifest")
    return manifest


def read_checkpoint(checkpoint: Path) -> tuple[dict[str, dict[str, Tensor]], State]:
    """Return the tensors, by file and name, and the state of a checkpoint that was verified."""
    manifest = verify(checkpoint)
    try:
        tensors = {
            Path(name).stem: load_file(checkpoint / name)
            for name in manifest["files"]
            if name.endswith(".safetensors")
        }
    except SafetensorError as error:
        raise CheckpointError(f"{checkpoint} cannot be read: {error}") from error
    return tensors, _read_json(checkpoint / "state.json")


def holds_weights_only(checkpoint: Path) -> bool:
    """Return True where training cannot resume from the checkpoint, since it holds nothing but weights."""
    return "imported" in _read_json(checkpoint / "state.json")


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
    # a replaced checkpoint is present only if a run was killed at that instant
    replaced = (run / "checkpoints").glob(f"{REPLACED}update-*")
    candidates = sorted(
        [*list_checkpoints(run), *replaced], key=lambda p: (update_of(p), p.name), reverse=True
    )
    for checkpoint in candidates:
        try:
            verify(checkpoint)
            if module is not None:
                require_finite(checkpoint, load_file(checkpoint / "model.safetensors"), module)
        except NewerFormat:
            raise
        except CheckpointError as error:
            problems.append(str(error))
        except SafetensorError as error:  # the hash fits: the file was written like this
            raise CheckpointError(f"{checkpoint} cannot be read: {error}") from error
        else:
            return checkpoint, problems
    if problems:
        raise CheckpointError(f"no checkpoint of {run} is intact: {'; '.join(problems)}")
    return None, problems


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint folder for a checkpoint, `latest`, `best` or a run's folder (its newest intact one)."""
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


def describe_requirements(state: State) -> str:
    """Return `; it needs ...` with the plugins that a checkpoint needs, their versions and components, or ''."""
    plugins = []
    for name, facts in state.get("needs", {}).items():
        version = f" {facts['version']}" if facts.get("version") else ""
        plugins.append(f"{name}{version} ({', '.join(facts.get('names', []))})")
    if not plugins:
        return ""
    return f"; it needs {'; '.join(plugins)}: install them, or name the user directories"


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
