"""NVIDIA apex, where it is installed. The package called `apex` on the public index is something else, and importing it
works, so the part that is wanted is what is asked for."""

from __future__ import annotations

import importlib
from types import ModuleType

from fwk.errors import ConfigError


def apex_part(part: str, key: str, other: str) -> ModuleType:
    """The module `apex.<part>`. ConfigError names the option `key` that wanted it, and the value `other` to use
    instead."""
    where = "NVIDIA's is built from https://github.com/NVIDIA/apex"
    try:
        importlib.import_module("apex")
    except ImportError:
        raise ConfigError(
            key, f"needs NVIDIA apex, which is not installed; {where}, or use '{other}'"
        ) from None
    try:
        return importlib.import_module(f"apex.{part}")
    except ImportError as error:
        raise ConfigError(
            key,
            f"needs NVIDIA apex, and the installed package 'apex' is not it or not whole (no module "
            f"apex.{part}: {error}): the package of that name on the public index is something else; "
            f"{where}, or use '{other}'",
        ) from None
