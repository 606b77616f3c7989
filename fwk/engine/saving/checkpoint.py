"""Checkpoints: written beside, fsynced, hashed, renamed. State is JSON, tensors are safetensors: loading one executes
nothing.

    update-000000100/
        model.safetensors       parameters and buffers by name, tied ones once
        optimizer.safetensors   moments as 'parameter::key'
        average.safetensors     only with train.ema
        meters.safetensors      the numbers since the last log line, per rank
        state.json              update, phase, scale, seconds, tokens, what plugins saved, what it needs to be loaded
        manifest.json           sha256 and size of each of the above

A folder without a manifest that fits is no checkpoint: it is passed over, with a word, in favour of the one before.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fwk.errors import CheckpointError
from fwk.files import digest, sync, write_hashed

FORMAT = 1
NAME = re.compile(r"update-(\d{9,})$")
ESSENTIAL = {"model.safetensors", "optimizer.safetensors", "meters.safetensors", "state.json"}
STATE = {
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
WRITING, REPLACED = ".writing-", ".replaced-"
TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}


class NewerFormat(CheckpointError):
    """Written by a later version. Going on from an older checkpoint instead would throw its updates away unasked."""


def folder_name(update: int) -> str:
    return f"update-{update:09d}"


def update_of(checkpoint: Path) -> int:
    return int(NAME.search(checkpoint.name)[1])


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first; whether they are whole is not looked at."""
    found = [
        path
        for path in (run / "checkpoints").glob("update-*")
        if NAME.match(path.name) and path.is_dir()
    ]
    return sorted(found, key=update_of)


def write_checkpoint(
    run: Path, update: int, tensors: Mapping[str, Mapping[str, Tensor]], state: str
) -> Path:
    """Writes `checkpoints/update-N` so that it is there whole or not at all. state: JSON. OSError when the disk says
    no; what was there before is untouched then."""
    parent = run / "checkpoints"
    final, beside = parent / folder_name(update), parent / f"{WRITING}{folder_name(update)}"
    aside = parent / f"{REPLACED}{folder_name(update)}"
    parent.mkdir(exist_ok=True)
    for left in parent.glob(f"{WRITING}*"):  # by a run that was killed here
        shutil.rmtree(left)
    needed = sum(byte_size(group) for group in tensors.values())
    if needed > (free := shutil.disk_usage(parent).free):
        raise OSError(
            errno.ENOSPC,
            f"it needs {_megabytes(needed)}, and {_megabytes(free)} are free on its disk",
        )
    try:
        beside.mkdir()
        files = {
            f"{name}.safetensors": write_hashed(beside / f"{name}.safetensors", serialize(group))
            for name, group in tensors.items()
        }
        files["state.json"] = write_hashed(beside / "state.json", [state.encode()])
        manifest = {"format": FORMAT, "update": update, "files": dict(sorted(files.items()))}
        write_hashed(beside / "manifest.json", [json.dumps(manifest, indent=1).encode()])
        sync(beside)
        if (
            final.exists()
        ):  # of the same update: until the new one is in place, `newest_intact` finds it aside
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(final, aside)
        os.replace(beside, final)
        sync(parent)
        for left in parent.glob(f"{REPLACED}*"):
            remove(left)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return final


def byte_size(tensors: Mapping[str, Tensor]) -> int:
    """Bytes."""
    return sum(value.numel() * value.element_size() for value in tensors.values())


def require_free_space(run: Path, needed: int) -> None:
    """CheckpointError when not even `needed` bytes are free for a checkpoint."""
    if needed > (free := shutil.disk_usage(run).free):
        raise CheckpointError(
            f"a checkpoint needs at least {_megabytes(needed)}, and {_megabytes(free)} are free on the disk "
            f"of {run}; free some, or choose another --run"
        )


def serialize(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Tensors in the safetensors format, piece by piece: the length of a header, the header (JSON: type, shape and
    bounds of each tensor), the bytes of each. `safetensors.save_file` makes a copy of all of it first."""
    header, end = {}, 0
    ordered = sorted(
        tensors.items(), key=lambda pair: (-pair[1].element_size(), pair[0])
    )  # so that each is aligned
    for name, value in ordered:
        if value.dtype not in TYPES:
            raise CheckpointError(
                f"'{name}' is of type {value.dtype}, which a checkpoint cannot hold"
            )
        start, end = end, end + value.numel() * value.element_size()
        header[name] = {
            "dtype": TYPES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, value in ordered:
        if value.numel():
            yield memoryview(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())


def prune_checkpoints(
    run: Path, newest: Path, best: Sequence[int], milestones: Sequence[int], keep_last: int
) -> None:
    """Points `latest` and `best` to what they name and deletes what is neither among the last, nor among the best
    (updates, the best one first), nor a milestone. Also after a resume: the run may have been killed between writing a checkpoint and
    this."""
    point(run, "latest", newest)
    if best and (first := run / "checkpoints" / folder_name(best[0])).is_dir():
        point(run, "best", first)
    for old in list_checkpoints(run)[:-keep_last]:
        if update_of(old) not in (*best, *milestones) and old != newest:
            remove(old)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def point(run: Path, name: str, target: Path) -> None:
    """checkpoints/NAME -> target, replaced in one step."""
    link, beside = run / "checkpoints" / name, run / "checkpoints" / f".{name}"
    beside.unlink(missing_ok=True)
    beside.symlink_to(target.name)
    os.replace(beside, link)


def remove(checkpoint: Path) -> None:
    """Deletes a checkpoint; its manifest goes first, so that half a deletion is no checkpoint."""
    (checkpoint / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def verify(checkpoint: Path) -> dict[str, Any]:
    """The manifest, after every file was hashed. CheckpointError says which file is wrong and how."""
    manifest = _json(checkpoint / "manifest.json")
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise NewerFormat(
            f"{checkpoint} has format {version}, and this version of fwk reads up to {FORMAT}; "
            "install the version that wrote it (environment.json in the run's folder names it)"
        )
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if (
        version != FORMAT
        or not isinstance(files, dict)
        or not ESSENTIAL <= files.keys()
        or not all(
            isinstance(entry, dict) and Path(name).name == name for name, entry in files.items()
        )
    ):
        raise CheckpointError(f"{checkpoint / 'manifest.json'} is not a checkpoint's manifest")
    for name, expected in files.items():
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


def read_checkpoint(checkpoint: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors by file and name, and the state; verified."""
    manifest = verify(checkpoint)
    try:
        tensors = {
            Path(name).stem: load_file(checkpoint / name)
            for name in manifest["files"]
            if name.endswith(".safetensors")
        }
    except SafetensorError as error:
        raise CheckpointError(f"{checkpoint} cannot be read: {error}") from error
    return tensors, _json(checkpoint / "state.json")


def holds_weights_only(checkpoint: Path) -> bool:
    """Whether it holds weights alone, with nothing to go on training from."""
    return "imported" in _json(checkpoint / "state.json")


def not_finite(tensors: Mapping[str, Tensor], module: torch.nn.Module) -> list[str]:
    """Names of parameters with a value that is not finite. Buffers may have such values (a mask of -inf)."""
    return [
        name
        for name, _ in module.named_parameters()
        if name in tensors
        and tensors[name].is_floating_point()
        and not torch.isfinite(tensors[name].sum(dtype=torch.float64))
    ]


def require_finite(
    checkpoint: Path, tensors: Mapping[str, Tensor], module: torch.nn.Module
) -> None:
    if bad := not_finite(tensors, module):
        raise CheckpointError(f"{checkpoint}: {', '.join(bad[:3])} is not finite")


def newest_intact(
    run: Path, module: torch.nn.Module | None = None
) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, and a sentence for each newer one that does not. module: whose parameters
    must be finite. CheckpointError when there are checkpoints and none is whole, or one is of a newer format."""
    complaints = []
    replaced = (run / "checkpoints").glob(
        f"{REPLACED}update-*"
    )  # there only if a run was killed at that instant
    for checkpoint in sorted(
        [*list_checkpoints(run), *replaced], key=lambda p: (update_of(p), p.name), reverse=True
    ):
        try:
            verify(checkpoint)
            if module is not None:
                require_finite(checkpoint, load_file(checkpoint / "model.safetensors"), module)
        except NewerFormat:
            raise
        except CheckpointError as error:
            complaints.append(str(error))
        except SafetensorError as error:  # somebody wrote this, and its hash
            raise CheckpointError(f"{checkpoint} cannot be read: {error}") from error
        else:
            return checkpoint, complaints
    if complaints:
        raise CheckpointError(f"no checkpoint of {run} is whole: {'; '.join(complaints)}")
    return None, complaints


def describe_requirements(state: Mapping[str, Any]) -> str:
    """`; it needs ...`: the plugins that a checkpoint says it needs, with versions and what they bring."""
    needs = [
        f"{name} {facts.get('version', '')} ({', '.join(facts.get('names', []))})".replace(
            "  ", " "
        )
        for name, facts in state.get("needs", {}).items()
    ]
    return (
        f"; it needs {'; '.join(needs)}: install them, or name the user directories"
        if needs
        else ""
    )


def find_checkpoint(path: Path) -> Path:
    """A checkpoint folder from a checkpoint, `latest`/`best`, or a run folder (its newest whole one)."""
    if (path / "manifest.json").is_file():
        return path.resolve()
    if (path / "checkpoints").is_dir():
        found, complaints = newest_intact(path)
        for complaint in complaints:
            warnings.warn(f"passed over a checkpoint: {complaint}", stacklevel=2)
        if found is not None:
            return found
        raise CheckpointError(f"{path} is a run that has no checkpoint yet")
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint or run at {path}")
    raise CheckpointError(
        f"{path} is neither a checkpoint nor a run's folder (it has no manifest.json and no checkpoints/)"
    )


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What the optimizer keeps: tensors as 'parameter::key', and what is no tensor likewise, as JSON. What it keeps for
    a group as a whole since `remember_initial_settings` (a count, a running sum) stands beside each of the group's parameters as
    'parameter::group.key', since a change of phase may group them otherwise."""
    tensors, numbers = {}, {}
    for group in optimizer.param_groups:
        own = {f"group.{key}": value for key, value in _changed(group).items()}
        for name, parameter in zip(group["names"], group["params"]):
            for key, value in {**optimizer.state.get(parameter, {}), **own}.items():
                if isinstance(value, Tensor):
                    # one copy each: a file holds no two names for the same memory
                    tensors[f"{name}::{key}"] = value.clone() if key in own else value
                elif value is None or isinstance(value, (bool, int, float, str)):
                    numbers[f"{name}::{key}"] = value
                else:
                    raise CheckpointError(
                        f"{type(optimizer).__name__} keeps a {type(value).__name__} as '{key}' of {name}; "
                        "only tensors and numbers can be saved"
                    )
    return tensors, numbers


def remember_initial_settings(optimizer: torch.optim.Optimizer) -> None:
    """Notes in each group, under `built`, what stands in it before the first step."""
    for group in optimizer.param_groups:
        group["built"] = {
            key: value.clone() if isinstance(value, Tensor) else value
            for key, value in group.items()
            if key not in ("params", "names")
        }


def _changed(group: Mapping[str, Any]) -> dict[str, Any]:
    """What an optimizer changed or added in a group since it was built. The rest comes from the config, and must: which
    kernels there are depends on the device, and the device may change."""
    built = group["built"]
    return {
        key: value
        for key, value in group.items()
        if key not in ("params", "names", "lr", "built")
        and (key not in built or not _same(value, built[key]))
    }


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)
    return type(a) is type(b) and a == b


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
) -> None:
    """The inverse of `pack_optimizer`, for the parameters that are stepped now."""
    groups = {
        n: (group, p)
        for group in optimizer.param_groups
        for n, p in zip(group["names"], group["params"])
    }
    optimizer.state.clear()
    for path, value in [*tensors.items(), *numbers.items()]:
        name, key = path.rsplit("::", 1)
        if name not in groups:
            continue  # frozen in this phase: its moments are not needed
        group, parameter = groups[name]
        if isinstance(value, Tensor):
            # `step` stays where torch keeps it, on the CPU unless the implementation is fused or capturable
            on_device = key != "step" or group.get("fused") or group.get("capturable")
            value = value.to(parameter.device) if on_device else value
        if key.startswith("group."):
            group[key.removeprefix("group.")] = value
        else:
            optimizer.state[parameter][key] = value


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
