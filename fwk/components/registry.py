"""The registry: names of components -> classes, by one mechanism for every kind, first-party or not.

    @register("criterion", "masked_lm")
    class MaskedLM(Criterion["MaskedLM.Config"]):
        @dataclass(frozen=True, kw_only=True)
        class Config:
            label_smoothing: float = option(0.0, "share of the target mass spread over the vocabulary", low=0, high=1)

An entry knows its class, its options and the file and line that it came from. Two plugins that claim one name are an
error that names both places. Entries of built-in and first-party components are first read from an index (see `index`),
so that names, keys and types can be checked without importing torch; a class is imported when it is asked for. A source
file that differs from the one that the index was made from is imported instead: an index is never wrong, only slow.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from fwk.components.entry import KINDS, Entry, import_module, same_place
from fwk.components.index import Index, component_files, content_hash, read_index
from fwk.contracts.options import FieldSpec
from fwk.errors import PluginError, UnknownName

__all__ = ["KINDS", "Entry", "Registry", "import_module", "register", "registry"]

C = TypeVar("C", bound=type)


class Registry:
    """Every registered name."""

    def __init__(self) -> None:
        self.live: dict[tuple[str, str], Entry] = {}  # (kind, name): imported
        self.indexed: dict[tuple[str, str], Entry] = {}  # (kind, name): known from an index
        # module that no index covers -> plugin; imported when a name is missing
        self.pending: dict[str, str] = {}
        self.packages: dict[str, str] = {"fwk": "fwk"}  # module prefix -> plugin
        self._built_in = False
        self._lock = threading.RLock()

    # ---- asking ----

    def get(self, kind: str, name: str, where: str = "", advice: str = "") -> Entry:
        """Return the entry of a name. Raises UnknownName, with `where` and `advice` for the message."""
        _check_kind(kind)
        self.see_built_in()
        entry = self._entry(kind, name)
        if entry is None and self.pending:
            # a component's file is named as it is registered, so that file is tried first
            self._import_pending(lambda module: module.rpartition(".")[2] == name)
            if (kind, name) not in self.live:
                self._import_pending()
            entry = self._entry(kind, name)
        if entry is None:
            other_kinds = [k for k in KINDS if k != kind and name in self.known(k)]
            sentences = [f"'{name}' is a {other_kinds[0]}"] if other_kinds else []
            sentences += [advice] if advice else []
            raise UnknownName(kind, name, self.known(kind), where, ". ".join(sentences))
        return entry

    def _entry(self, kind: str, name: str) -> Entry | None:
        return self.live.get((kind, name)) or self.indexed.get((kind, name))

    def names(self, kind: str) -> list[str]:
        """Return every registered name of a kind, sorted."""
        _check_kind(kind)
        self.see_built_in()
        self._import_pending()
        return self.known(kind)

    def known(self, kind: str) -> list[str]:
        """Return the names of a kind that are known without importing anything, sorted."""
        return sorted({name for k, name in (*self.live, *self.indexed) if k == kind})

    def entries(self, kind: str | None = None) -> list[Entry]:
        """Return every entry of a kind, or of all kinds in the order of `KINDS`."""
        return [self.get(k, name) for k in ([kind] if kind else KINDS) for name in self.names(k)]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries())

    # ---- filling ----

    def add(self, entry: Entry) -> None:
        """Enter a live class. Raises PluginError where the name is registered elsewhere."""
        _check_kind(entry.kind)
        self.see_built_in()
        with self._lock:
            self._refuse_second_place(entry)
            self.live[(entry.kind, entry.name)] = entry

    def _refuse_second_place(self, entry: Entry) -> None:
        other = self._entry(entry.kind, entry.name)
        if other is not None and not same_place(entry, other):
            raise PluginError(
                f"{entry.kind} '{entry.name}' is registered twice: at {other.place} "
                f"({other.plugin}) and at {entry.place} ({entry.plugin}); rename one of them"
            )

    def remove(self, kind: str, name: str) -> None:
        """Forget a live name (tests of plugins use it)."""
        self.live.pop((kind, name), None)

    def plugin_of(self, module: str) -> str:
        """Return the plugin that owns the longest prefix of a module's name, else its top-level package."""
        parts = module.split(".")
        for end in range(len(parts), 0, -1):
            prefix = ".".join(parts[:end])
            if prefix in self.packages:
                return self.packages[prefix]
        return parts[0]

    def see_built_in(self) -> None:
        """Make the built-in components known; every question does it first."""
        with self._lock:
            if not self._built_in:
                self._built_in = True
                for module in sorted(self.see_package("fwk", Path(__file__).parent.parent)):
                    self.pending[module] = "fwk"

    def see_package(
        self, package: str, folder: Path, plugins: Mapping[str, str] | None = None
    ) -> set[str]:
        """Make a package's components known, from its index where the sources are those that it was made from.

        plugins: module prefix -> plugin name; only modules under these count (None: all, of plugin `package`).
        Returns the prefixes (with None: the modules) that must be imported because the index does not cover them.
        """
        prefixes = {package: package} if plugins is None else dict(plugins)
        self.packages.update(prefixes)
        index = read_index(package, folder)
        sources = component_files(package, folder)

        stale: set[str] = set()
        for relative, module in sources.items():
            prefix = _owner(module, prefixes)
            if prefix is None:
                continue
            if index["sources"].get(relative) != content_hash(folder / relative):
                stale.add(module if plugins is None else prefix)
        self._add_indexed(index, folder, set(sources), prefixes, stale)
        return stale

    def _add_indexed(
        self,
        index: Index,
        folder: Path,
        sources: set[str],
        prefixes: Mapping[str, str],
        stale: set[str],
    ) -> None:
        """Enter the components of an index whose source files are unchanged."""
        for item in index["components"]:
            prefix = _owner(item["module"], prefixes)
            if prefix is None or item["file"] not in sources:
                continue
            if item["module"] in stale or prefix in stale:
                continue
            entry = Entry(
                **{
                    **item,
                    "file": str(folder / item["file"]),
                    "plugin": prefixes[prefix],
                    "fields": tuple(FieldSpec.from_mapping(field) for field in item["fields"]),
                }
            )
            self._refuse_second_place(entry)
            self.indexed[(entry.kind, entry.name)] = entry

    def _import_pending(self, wanted: Callable[[str], bool] = lambda module: True) -> None:
        for module in [module for module in self.pending if wanted(module)]:
            plugin = self.pending.pop(module, None)
            if plugin is not None:
                import_module(module, plugin)


def register(kind: str, name: str) -> Callable[[C], C]:
    """Return a class decorator that makes a class available under a name.

    The nested dataclass `Config` declares its options. Raises PluginError where the class leaves out a method that its
    base class declares abstract.
    """
    _check_kind(kind)
    frame = sys._getframe(1)
    file, line = frame.f_code.co_filename, frame.f_lineno

    def enter(cls: C) -> C:
        _require_methods(cls, f"{file}:{line}: the {kind} '{name}'")
        registry.add(
            Entry(
                kind=kind,
                name=name,
                module=cls.__module__,
                qualname=cls.__qualname__,
                file=file,
                line=line,
                plugin=registry.plugin_of(cls.__module__),
                summary=(cls.__doc__ or "").strip().split("\n")[0],
                loaded=cls,
            )
        )
        return cls

    return enter


def _require_methods(cls: type, subject: str) -> None:
    """Raise PluginError where an abstract method is not overridden."""
    missing = [method for method in dir(cls) if _is_left_out(cls, method)]
    if missing:
        raise PluginError(
            f"{subject} leaves out {', '.join(missing)}; expected {cls.__qualname__} to define "
            f"{'them' if len(missing) > 1 else 'it'}"
        )


def _is_left_out(cls: type, method: str) -> bool:
    """Return whether a method that a base class declares abstract has no definition.

    A method of torch's modules that only happens to have the same name, such as `nn.Module.apply`, is none.
    """
    owners = [base for base in cls.__mro__ if method in vars(base)]
    abstract = [getattr(vars(base)[method], "__isabstractmethod__", False) for base in owners]
    return any(abstract) and (abstract[0] or owners[0].__module__.startswith("torch."))


def _owner(module: str, prefixes: Mapping[str, str]) -> str | None:
    """Return the first prefix that a module is under."""
    return next((p for p in prefixes if module == p or module.startswith(f"{p}.")), None)


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise UnknownName("kind of component", kind, KINDS)


registry = Registry()
