"""The content of RUN/environment.json: enough to tell two machines apart, nothing that names one."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

import torch

from fwk.config.run_config import RunConfig
from fwk.contracts.plain import PlainDict
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
    config: RunConfig,
    plugins: Mapping[str, object] | Iterable[object],
    device: torch.device,
    world_size: int,
) -> PlainDict:
    """Return a JSON-able description of the machine and the software of a run.

    config: the run's config, of which only the keys that change the machine's behaviour are repeated (seed, precision,
    determinism); config.yaml has the others. plugins: versions (or any JSON-able facts) by name, or names.
    """
    train = config.train
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
        "seed": config.seed,
        "precision": train.precision,
        "deterministic": train.deterministic,
        "plugins": _plain(plugins),
    }


def device_name(device: torch.device) -> str:
    """Return 'cpu', or the model name of the GPU."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def git_revision(folder: Path) -> str | None:
    """Return the commit checked out in `folder`, with '+' when tracked files differ; None outside a repository."""
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


def _plain(value: object) -> object:
    """Return `value` in a JSON-able form."""
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Iterable):
        return [_plain(entry) for entry in value]
    return str(value)
