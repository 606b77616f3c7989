"""Makes user directories importable under private package names, in this process and in its children.

A directory or file given by `--user-dir` is the package `fwk_user_<hash of its path>`. The paths are listed in the
environment variable FWK_USER_DIRS, so a process started by this one finds the same packages as soon as it has imported
`fwk`, which unpickling anything of `fwk` does. Nothing is imported before it is asked for.

Modules are always compiled from their sources: a compiled file beside a source could hold other code, and what
`fwk.components.trust` judges are sources.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
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
    """Put the finder on `sys.meta_path`, once, before Python's own, which reads compiled files."""
    if Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)


class FromSource(SourceFileLoader):
    """A loader that neither reads nor writes compiled files."""

    def path_stats(self, path: str) -> Mapping[str, float]:
        """Raise OSError, which makes Python compile the source."""
        raise OSError(f"compiled files of {path} are not used")


class Finder:
    """Finder of the private packages and of their sub-modules."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: object = None
    ) -> ModuleSpec | None:
        """Return the spec of a private package or of a module in one, None for any other name."""
        if not name.startswith(PREFIX):
            return None
        spec = PathFinder.find_spec(name, path) if "." in name else cls._find_package(name)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = FromSource(spec.loader.name, spec.loader.path)
            spec.cached = None
        return spec

    @classmethod
    def _find_package(cls, name: str) -> ModuleSpec | None:
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
