"""What RUN/environment.json says: enough to tell two machines apart, nothing that names one."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fwk.version import __version__

PACKAGES = (
    "torch",
    "numpy",
    "omegaconf",
    "pluggy",
    "sentencepiece",
    "safetensors",
    "rich",
    "tensorboard",
    "tokenizers",
    "transformers",
    "datasets",
)


def describe_environment(
    config: Any, plugins: Mapping[str, Any] | Iterable[Any], device: torch.device, world_size: int
) -> dict[str, Any]:
    """A JSON-able description of where a run takes place.

    config: the run's config, of which only what changes the machine's behaviour is repeated (seed, precision,
    determinism; the rest stands in config.yaml). plugins: name -> version (or any JSON-able facts), or names.
    """
    train = getattr(config, "train", None)
    return {
        "fwk": __version__,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "git": git_revision(Path.cwd()),
        "device": device_name(device),
        "cuda": torch.version.cuda,
        "world_size": world_size,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "seed": getattr(config, "seed", None),
        "precision": getattr(train, "precision", None),
        "deterministic": getattr(train, "deterministic", None),
        "plugins": _plain(plugins),
    }


def device_name(device: torch.device) -> str:
    """'cpu', or the accelerator's own name."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def git_revision(folder: Path) -> str | None:
    """The commit checked out in `folder`, with '+' when tracked files differ from it; None outside a repository."""
    revision = _git(folder, "rev-parse", "HEAD")
    if revision is None:
        return None
    return revision + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _plain(value: Any) -> Any:
    """JSON-able, whatever it was."""
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Iterable):
        return [_plain(entry) for entry in value]
    return str(value)
