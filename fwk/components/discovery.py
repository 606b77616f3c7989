"""Discovery of plugins: entry points in the group `fwk.plugins`, user directories, and the built-in components.

`discover` makes names known as cheaply as it can: a package whose index is true is not imported. `load_plugins` imports
everything and returns the manager that calls lifecycle hooks; it is what a run uses.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from types import ModuleType
from typing import ParamSpec, TypedDict, TypeVar

from fwk.components import user_dirs as user_packages
from fwk.components.hook_manager import PluginManager, hook_signatures
from fwk.components.registry import registry
from fwk.components.working_directory import search_path
from fwk.errors import BrokenPlugin, PluginError, UserError, did_you_mean
from fwk.files import user_path

__all__ = [
    "PluginManager",
    "discover",
    "existing",
    "hook_signatures",
    "installed",
    "load_plugins",
    "load_user_dirs",
    "provenance",
    "versions",
]

GROUP = "fwk.plugins"
# modules that register nothing
_SKIPPED = ("conftest", "setup", "__main__", "__init__", "__pycache__")

_discovered: set[str] = set()  # entry points whose names the registry knows

P = ParamSpec("P")
T = TypeVar("T")


class PluginVersion(TypedDict):
    """Where a plugin comes from."""

    module: str
    distribution: str
    version: str


def installed() -> list[EntryPoint]:
    """Return the entry points of the group, sorted by name."""
    points: dict[tuple[str, str], EntryPoint] = {}
    names: set[str] = set()  # of a distribution installed twice the first one counts, as in imports
    for distribution in distributions(path=search_path()):
        of_group = distribution.entry_points.select(group=GROUP)
        if not of_group or distribution.name in names:
            continue
        names.add(distribution.name)
        points.update({(point.name, point.value): point for point in of_group})
    return [points[key] for key in sorted(points)]


def discover(user_dirs: Iterable[str | Path] = (), allow_broken: bool = False) -> None:
    """Make the names of installed plugins and of user directories known to the registry.

    Raises PluginError where something does not import; with `allow_broken` that is a warning.
    """
    registry.see_built_in()
    by_package: dict[str, list[EntryPoint]] = {}
    for point in installed():
        if point.name not in _discovered:
            by_package.setdefault(point.module.split(".")[0], []).append(point)
    for package, points in by_package.items():
        _discover_package(package, points, allow_broken)
    for path in user_dirs:
        _guarded(allow_broken, load_user_dirs, [path])


def _discover_package(package: str, points: Sequence[EntryPoint], allow_broken: bool) -> None:
    """Make the plugins of one package known: from its index, or by importing those that it does not cover."""
    plugins = {point.module: point.name for point in points}
    registry.packages.update(plugins)
    stale = set(plugins)
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is not None and spec.submodule_search_locations:
        folder = Path(next(iter(spec.submodule_search_locations)))
        stale = _guarded(allow_broken, registry.see_package, package, folder, plugins) or set()

    for point in points:
        if point.module in stale:
            module = _guarded(allow_broken, _load_module, point.module, point.name)
            if module is None:
                continue
        _discovered.add(point.name)


def load_plugins(user_dirs: Iterable[str | Path] = (), allow_broken: bool = False) -> PluginManager:
    """Import every plugin and register the hook functions of their modules.

    Hook classes are registered by the engine: `manager.register(instance, name=label)`. Raises PluginError; with
    `allow_broken` that is a warning.
    """
    user_dirs = list(user_dirs)
    discover(user_dirs, allow_broken)
    manager = PluginManager()
    for point in installed():
        module = _guarded(allow_broken, _load_module, point.module, point.name)
        if module is not None:
            _guarded(allow_broken, _register_module, manager, module, point.name)
    for path in user_dirs:
        place = existing(path)
        for module in _loaded_modules(user_packages.package_name(place)):
            inner = module.__name__.partition(".")[2]
            label = f"{place.name}.{inner}" if inner else place.name
            _guarded(allow_broken, _register_module, manager, module, label)
    return manager


def _loaded_modules(package: str) -> list[ModuleType]:
    """Return the imported modules of a package, sorted by name."""
    return [
        module
        for name, module in sorted(sys.modules.items())
        if name == package or name.startswith(f"{package}.")
    ]


def _register_module(manager: PluginManager, module: ModuleType, name: str) -> None:
    """Register a module's hook functions, if it has any."""
    if manager.is_registered(module):
        return
    manager.register(module, name=name)
    if not manager.get_hookcallers(module):
        manager.unregister(module)


def load_user_dirs(user_dirs: Sequence[str | Path]) -> list[str]:
    """Import user directories and single files under their private package names, and return these names.

    Loading one again does nothing. Data-loading workers and spawned ranks call this. Raises PluginError.
    """
    names = []
    for path in user_dirs:
        place = existing(path)
        package = user_packages.announce(place)
        registry.packages[package] = str(path)
        modules = [package]
        if place.is_dir():
            modules += [f"{package}.{stem}" for stem in _module_names(place)]
        for module in modules:
            _load_module(module, str(path))
        names.append(package)
    return names


def _module_names(folder: Path) -> list[str]:
    """Return the modules and packages of a user directory; tests and set-up files are left out."""
    names = []
    for item in sorted(folder.iterdir()):
        if item.suffix == ".py" and item.is_file():
            name = item.stem
        elif item.is_dir() and (item / "__init__.py").is_file():
            name = item.name
        else:
            continue
        is_test = name.startswith("test_") or name.endswith("_test")
        if name not in _SKIPPED and not name.startswith(".") and not is_test:
            names.append(name)
    return names


def existing(path: str | Path) -> Path:
    """Return the absolute path of a user directory or file. Raises PluginError where it does not exist."""
    try:
        place = user_path(path).resolve()
        place.exists()
    except (
        OSError,
        RuntimeError,
        UserError,
        ValueError,
    ) as error:  # too long, an unknown ~user, a NUL
        raise PluginError(f"--user-dir {str(path)!r}: not a usable path ({error})") from None
    if place.is_dir() or (place.is_file() and place.suffix == ".py"):
        return place
    if place.exists():
        raise PluginError(f"--user-dir {path}: expected a directory or a .py file")
    siblings = [p.name for p in place.parent.iterdir()] if place.parent.is_dir() else []
    raise PluginError(
        f"--user-dir {path}: there is no such directory or file"
        f"{did_you_mean(place.name, siblings, 0)}"
    )


def _load_module(module: str, plugin: str) -> ModuleType:
    """Import a module of a plugin, which may end the process as it is imported. Raises BrokenPlugin."""
    try:
        return importlib.import_module(module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise BrokenPlugin(plugin, module, error) from error


def _guarded(
    allow_broken: bool, action: Callable[P, T], *arguments: P.args, **options: P.kwargs
) -> T | None:
    """Return the action's result; with `allow_broken` a PluginError becomes a warning, and the result None."""
    if not allow_broken:
        return action(*arguments, **options)
    try:
        return action(*arguments, **options)
    except PluginError as error:
        warnings.warn(str(error), stacklevel=3)
        return None


def versions() -> dict[str, PluginVersion]:
    """Return where each installed plugin and user directory comes from, by name."""
    plugins: dict[str, PluginVersion] = {}
    for point in installed():
        plugins[point.name] = {
            "module": point.value,
            "distribution": point.dist.name if point.dist else "",
            "version": point.dist.version if point.dist else "",
        }
    for package, path in registry.packages.items():
        if package.startswith(user_packages.PREFIX):
            plugins[path] = {"module": package, "distribution": "", "version": "user directory"}
    return plugins


def provenance() -> dict[str, dict[str, PluginVersion] | dict[str, list[str]]]:
    """Return what environment.json records: plugins with versions, and the names that each one brought."""
    components: dict[str, list[str]] = {}
    for entry in {**registry.indexed, **registry.live}.values():
        components.setdefault(entry.plugin, []).append(f"{entry.kind} {entry.name}")
    return {
        "plugins": dict(versions()),
        "components": {plugin: sorted(names) for plugin, names in sorted(components.items())},
    }
