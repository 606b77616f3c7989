"""Makes user directories importable under private package names, in this process and in its children.

A directory or file given by `--user-dir` is the package `fwk_user_<hash of its path>`. The paths are listed in the
environment variable FWK_USER_DIRS, so a process started by this one finds the same packages as soon as it has imported
`fwk`, which unpickling anything of `fwk` does. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import hashlib
import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

VARIABLE = "FWK_USER_DIRS"
PREFIX = "fwk_user_"


def package_name(path: Path) -> str:
    """Return the private package name of a user directory or file."""
    return PREFIX + hashlib.blake2b(str(path).encode(), digest_size=6).hexdigest()


def announce(path: Path) -> str:
    """Make an absolute path importable, also in processes started after this; return its package name."""
    install()
    known = os.environ.get(VARIABLE, "").split(os.pathsep)
    if str(path) not in known:
        os.environ[VARIABLE] = os.pathsep.join([p for p in known if p] + [str(path)])
    return package_name(path)


def install() -> None:
    """Put the finder on `sys.meta_path`, once."""
    if Finder not in sys.meta_path:
        sys.meta_path.append(Finder)


class Finder:
    """Finder of the private packages; Python's own finder gets their sub-modules through `__path__`."""

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return the spec of a private package, None for any other name."""
        if not name.startswith(PREFIX) or "." in name:
            return None
        for text in os.environ.get(VARIABLE, "").split(os.pathsep):
            place = Path(text)
            if not text or package_name(place) != name:
                continue
            if place.is_file():
                return spec_from_file_location(name, place)
            start = place / "__init__.py"
            if start.is_file():
                return spec_from_file_location(name, start, submodule_search_locations=[str(place)])
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [str(place)]
            return spec
        return None
