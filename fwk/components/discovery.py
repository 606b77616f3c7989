"""Plugins: entry points in group `fwk.plugins`, user directories, and the built-in components, by one mechanism.

`discover` makes names known, as cheaply as it can: a package that ships a true index is not imported. `load_plugins`
imports everything and returns the manager that calls lifecycle hooks; it is what a run uses.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from fwk.components import user_dirs as user_code
from fwk.components.registry import registry
from fwk.contracts import hooks as hookspecs
from fwk.errors import BrokenPlugin, FwkError, HookFailed, PluginError, UserError, did_you_mean

GROUP = "fwk.plugins"


_SKIPPED = ("conftest", "setup", "__main__", "__init__")


_discovered: set[str] = set()  # entry points and user paths whose names the registry knows


class PluginManager(pluggy.PluginManager):
    """pluggy's manager, with every implementation checked against the specification when it is registered, and named
    when it raises.
    """

    def __init__(self) -> None:
        super().__init__("fwk")
        self.add_hookspecs(hookspecs)
        self.add_hookcall_monitoring(lambda *_: None, self._after)

    @staticmethod
    def _after(
        outcome: pluggy.Result, hook: str, implementations: Sequence[pluggy.HookImpl], _: Any
    ) -> None:
        error = outcome.exception
        if isinstance(error, Exception) and not isinstance(error, FwkError):
            running = {frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)}
            names = [
                i.plugin_name
                for i in implementations
                if getattr(i.function, "__code__", None) in running
            ]
            failed = HookFailed(hook, names[0] if names else "a plugin", error)
            failed.__cause__ = error
            outcome.force_exception(failed)

    def register(self, plugin: Any, name: str | None = None) -> str | None:
        check_hooks(plugin, name or getattr(plugin, "__name__", type(plugin).__name__))
        return super().register(plugin, name)


def hook_signatures() -> dict[str, inspect.Signature]:
    """Every hook there is and its signature."""
    return {
        name: inspect.signature(value)
        for name, value in vars(hookspecs).items()
        if name.startswith("fwk_") and hasattr(value, "fwk_spec")
    }


def check_hooks(plugin: Any, owner: str) -> bool:
    """Whether a module or object implements hooks. Raises PluginError for a hook or argument that does not exist."""
    signatures = hook_signatures()
    found = False
    for name in dir(plugin):
        if not name.startswith("fwk_"):
            continue
        method = inspect.getattr_static(plugin, name)
        method = getattr(method, "__func__", method)
        if isinstance(plugin, ModuleType) and not (
            callable(method) and getattr(method, "__module__", None) == plugin.__name__
        ):
            continue
        if not callable(method):
            continue
        options = getattr(method, "fwk_impl", None)
        hook = (options or {}).get("specname") or name
        code = (
            inspect.unwrap(method).__code__ if hasattr(inspect.unwrap(method), "__code__") else None
        )
        place = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
        if hook not in signatures:
            raise PluginError(
                f"plugin '{owner}' implements {hook}{place}, which is no hook of fwk"
                f"{did_you_mean(hook, signatures, everything_up_to=0)}"
            )
        if options is None:
            raise PluginError(
                f"plugin '{owner}' has a function {name}{place} that is not marked with @fwk.hookimpl, so "
                "it would never be called"
            )
        given = list(inspect.signature(method).parameters)
        if (
            not isinstance(plugin, ModuleType)
            and given
            and not isinstance(inspect.getattr_static(plugin, name), staticmethod)
        ):
            given = given[1:]
        for argument in given:
            if argument not in signatures[hook].parameters:
                signature = signatures[hook].replace(return_annotation=inspect.Signature.empty)
                raise PluginError(
                    f"plugin '{owner}': {hook}{place} takes an argument '{argument}' that the hook does "
                    f"not pass; the hook is {hook}{signature}"
                    f"{did_you_mean(argument, signatures[hook].parameters, 0)}"
                )
        found = True
    return found


def installed() -> list[EntryPoint]:
    """The entry points of the group, sorted by name."""
    found = {(e.name, e.value): e for e in entry_points(group=GROUP)}
    return [found[key] for key in sorted(found)]


def discover(user_dirs: Iterable[str | Path] = (), allow_broken: bool = False) -> None:
    """Make the names of installed plugins and of user directories known to the registry.

    Raises PluginError when something does not import; with `allow_broken` that is a warning.
    """
    registry.see_built_in()
    by_package: dict[str, list[EntryPoint]] = {}
    for point in installed():
        if point.name not in _discovered:
            by_package.setdefault(point.module.split(".")[0], []).append(point)
    for package, points in by_package.items():
        prefixes = {point.module: point.name for point in points}
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):
            spec = None
        stale = set(prefixes)
        registry.packages.update(prefixes)
        if spec is not None and spec.submodule_search_locations:
            folder = Path(next(iter(spec.submodule_search_locations)))
            stale = _guarded(allow_broken, registry.see_package, package, folder, prefixes) or set()
        for point in points:
            if point.module not in stale or _guarded(
                allow_broken, _load_module, point.module, point.name
            ):
                _discovered.add(point.name)
    for path in user_dirs:
        _guarded(allow_broken, load_user_dirs, [path])


def load_plugins(user_dirs: Iterable[str | Path] = (), allow_broken: bool = False) -> PluginManager:
    """Import every plugin and register the hook functions of their modules. Hook classes are registered by the engine,
    `manager.register(instance, name=label)`. Raises PluginError, or warns with `allow_broken`.
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
        package = user_code.package_name(place)
        for module in [
            m for n, m in sorted(sys.modules.items()) if n == package or n.startswith(package + ".")
        ]:
            label = place.name + module.__name__[len(package) :]
            _guarded(allow_broken, _register_module, manager, module, label)
    return manager


def _register_module(manager: PluginManager, module: ModuleType, name: str) -> None:
    if check_hooks(module, name) and not manager.is_registered(module):
        manager.register(module, name=name)


def load_user_dirs(user_dirs: Sequence[str | Path]) -> list[str]:
    """Import user directories (and single files) under their private package names; again does nothing. This is what
    data-loading workers and spawned ranks call. Returns the package names. Raises PluginError.
    """
    names = []
    for path in user_dirs:
        place = existing(path)
        package = user_code.announce(place)
        registry.packages[package] = str(path)
        modules = [package]
        if place.is_dir():
            for item in sorted(place.iterdir()):
                stem = item.stem if item.suffix == ".py" else item.name
                package_like = item.is_dir() and (item / "__init__.py").is_file()
                if not ((item.suffix == ".py" and item.is_file()) or package_like):
                    continue
                if stem in _SKIPPED or stem.startswith((".", "test_")) or stem.endswith("_test"):
                    continue
                modules.append(f"{package}.{stem}")
        for module in modules:
            _load_module(module, str(path))
        names.append(package)
    return names


def existing(path: str | Path) -> Path:
    """The absolute path of a user directory or file. Raises PluginError when there is none."""
    try:
        place = Path(path).expanduser().resolve()
        place.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, an unknown ~user, a NUL
        raise PluginError(f"--user-dir {str(path)!r}: not a usable path ({error})") from None
    if place.is_dir() or (place.is_file() and place.suffix == ".py"):
        return place
    if place.exists():
        raise PluginError(f"--user-dir {path}: expected a directory or a .py file")
    around = [p.name for p in place.parent.iterdir()] if place.parent.is_dir() else []
    raise PluginError(
        f"--user-dir {path}: there is no such directory or file{did_you_mean(place.name, around, 0)}"
    )


def _load_module(module: str, plugin: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise BrokenPlugin(plugin, module, error) from error


def _guarded(allow_broken: bool, action: Callable[..., Any], *given: Any) -> Any:
    """The action's result; with `allow_broken` a PluginError becomes a warning, and the result None."""
    if not allow_broken:
        return action(*given)
    try:
        return action(*given)
    except PluginError as error:
        warnings.warn(str(error), stacklevel=3)
        return None


def versions() -> dict[str, dict[str, str]]:
    """Installed plugins: name -> where it comes from and its version."""
    found = {}
    for point in installed():
        dist = point.dist
        found[point.name] = {
            "module": point.value,
            "distribution": dist.name if dist else "",
            "version": dist.version if dist else "",
        }
    for package, path in registry.packages.items():
        if package.startswith(user_code.PREFIX):
            found[path] = {"module": package, "distribution": "", "version": "user directory"}
    return found


def provenance() -> dict[str, Any]:
    """What environment.json says: plugins with versions, and the names each one brought."""
    components: dict[str, list[str]] = {}
    for entry in {**registry.indexed, **registry.live}.values():
        components.setdefault(entry.plugin, []).append(f"{entry.kind} {entry.name}")
    return {
        "plugins": versions(),
        "components": {plugin: sorted(names) for plugin, names in sorted(components.items())},
    }
