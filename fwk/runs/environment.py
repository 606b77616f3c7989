"""The content of RUN/environment.json: enough to tell two machines apart, nothing that names one."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

import torch

from fwk.config.run_config import RunConfig
from fwk.contracts.plain import PlainDict
from fwk.runs.revision import git_revision
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
