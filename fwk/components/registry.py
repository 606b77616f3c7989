"""Names -> classes. One mechanism for every kind of component, first-party or not.

    @register("criterion", "masked_lm")
    class MaskedLM(Criterion):
        @dataclass(frozen=True, kw_only=True)
        class Config:
            label_smoothing: float = option(0.0, "share of the target mass spread over the vocabulary", low=0, high=1)

An entry knows its class, its config schema and the file and line it came from. Two plugins that claim one name are an
error naming both places. Entries of the built-in and first-party components are first read from an index that ships
beside the code (`index.json`), so that names, keys and types can be checked without importing torch; the class is
imported when it is asked for. A source file that differs from what the index was made from is imported instead, so an
index is never wrong, only slow. `fwk-plugins index` writes it anew.
"""

from __future__ import annotations

import importlib
import linecache
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from fwk.components.index import component_files, content_hash, read_index
from fwk.contracts.options import FieldSpec, schema_of
from fwk.errors import BrokenPlugin, PluginError, UnknownName

KINDS = ("task", "model", "criterion", "noiser", "optimizer", "schedule", "hook")


# keys that the engine reads from the same mapping as the component's own options
RESERVED = {
    "criterion": ("name", "weight"),
    "model": ("name", "tie"),
    "noiser": ("noiser", "of", "network", "mode", "ema", "encoder", "prepare"),
}


C = TypeVar("C", bound=type)


@dataclass(kw_only=True)
class Entry:
    """What is known of a registered name. `fields` is None until the schema has been read from the class, and so is
    `views`, the noiser of each view that a criterion brings.
    """

    kind: str
    name: str
    module: str
    qualname: str
    file: str
    line: int
    plugin: str
    summary: str = ""
    fields: tuple[FieldSpec, ...] | None = None
    views: dict[str, str] | None = None
    loaded: type | None = None

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def cls(self) -> type[Any]:
        """The class, imported when first asked for."""
        if self.loaded is None:
            found: Any = import_module(self.module, self.plugin)
            for name in self.qualname.split("."):
                found = getattr(found, name, None)
            if not isinstance(found, type):
                raise PluginError(
                    f"{self.place}: there is no class {self.qualname} in {self.module}, which registered "
                    f"{self.kind} '{self.name}' when the index was made"
                )
            self.loaded = found
        return self.loaded

    @property
    def schema(self) -> tuple[FieldSpec, ...]:
        """The fields of the component's `Config`."""
        if self.fields is None:
            config = getattr(self.cls, "Config", None)
            where = f"{self.kind} '{self.name}' ({self.place})"
            self.fields = (
                ()
                if config is None
                else schema_of(config, where, RESERVED.get(self.kind, ("name",)))
            )
        return self.fields

    @property
    def brings(self) -> dict[str, str]:
        """View -> noiser of the views that a criterion brings where no option says otherwise (none where one must)."""
        if self.views is None:
            cls: Any = self.cls
            known = self.kind == "criterion" and not any(spec.required for spec in self.schema)
            defaults = {
                name: read.default or {}
                for name, read in (cls.reads(cls.Config()) if known else {}).items()
            }
            self.views = {
                name: view["noiser"] for name, view in defaults.items() if "noiser" in view
            }
        return self.views


class Registry:
    """Every registered name. `live` holds what has been imported, `indexed` what is known from index files."""

    def __init__(self) -> None:
        self.live: dict[tuple[str, str], Entry] = {}
        self.indexed: dict[tuple[str, str], Entry] = {}
        self.pending: dict[
            str, str
        ] = {}  # module not covered by an index -> plugin; imported when a name is missing
        self.packages: dict[str, str] = {"fwk": "fwk"}  # module prefix -> plugin
        self._built_in = False
        self._lock = threading.RLock()

    # ---- asking ----

    def get(self, kind: str, name: str, where: str = "", advice: str = "") -> Entry:
        """Return the entry of a name. Raises UnknownName, with `where` and `advice` for the message."""
        _check_kind(kind)
        self.see_built_in()
        entry = self.live.get((kind, name)) or self.indexed.get((kind, name))
        if entry is None and self.pending:
            # one registered thing, one file, named as it is registered: try that file first
            self._import_pending(lambda module: module.rpartition(".")[2] == name)
            if (kind, name) not in self.live:
                self._import_pending()
            entry = self.live.get((kind, name))
        if entry is None:
            other_kinds = [k for k in KINDS if k != kind and name in self.known(k)]
            sentences = [f"'{name}' is a {other_kinds[0]}"] if other_kinds else []
            sentences += [advice] if advice else []
            raise UnknownName(kind, name, self.known(kind), where, ". ".join(sentences))
        return entry

    def names(self, kind: str) -> list[str]:
        """Every registered name of a kind, sorted."""
        _check_kind(kind)
        self.see_built_in()
        self._import_pending()
        return self.known(kind)

    def entries(self, kind: str | None = None) -> list[Entry]:
        """Every entry, of one kind or of all in the order of `KINDS`."""
        return [self.get(k, name) for k in ([kind] if kind else KINDS) for name in self.names(k)]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries())

    def known(self, kind: str) -> list[str]:
        return sorted({name for k, name in (*self.live, *self.indexed) if k == kind})

    # ---- filling ----

    def add(self, entry: Entry) -> None:
        """Enter a live class. Raises PluginError when another place has the name already."""
        _check_kind(entry.kind)
        self.see_built_in()
        key = (entry.kind, entry.name)
        with self._lock:
            other = self.live.get(key) or self.indexed.get(key)
            if other is not None and not _same_place(entry, other):
                raise PluginError(
                    f"{entry.kind} '{entry.name}' is registered twice: at {other.place} ({other.plugin}) and at "
                    f"{entry.place} ({entry.plugin}); rename one of them"
                )
            self.live[key] = entry

    def remove(self, kind: str, name: str) -> None:
        """Forget a live name (tests of plugins use it)."""
        self.live.pop((kind, name), None)

    def plugin_of(self, module: str) -> str:
        """The plugin a module belongs to: the longest package prefix that a plugin owns, else its top-level package."""
        parts = module.split(".")
        for end in range(len(parts), 0, -1):
            prefix = ".".join(parts[:end])
            if prefix in self.packages:
                return self.packages[prefix]
        return parts[0]

    def see_package(
        self, package: str, folder: Path, plugins: dict[str, str] | None = None
    ) -> set[str]:
        """Take a package's components into account, from its index where that is true to the sources.

        plugins: module prefix -> plugin name; only modules under these count (None: all, of plugin `package`).
        Returns the prefixes whose modules must be imported because the index does not cover them.
        """
        prefixes = {package: package} if plugins is None else plugins
        self.packages.update(prefixes)
        index = read_index(package, folder)
        stale: set[str] = set()
        sources = component_files(package, folder)
        for relative, module in sources.items():
            prefix = next((p for p in prefixes if module == p or module.startswith(p + ".")), None)
            if prefix is None:
                continue
            if index["sources"].get(relative) != content_hash(folder / relative):
                stale.add(prefix if plugins is not None else module)
        for item in index["components"]:
            module = item["module"]
            owned = [p for p in prefixes if module == p or module.startswith(p + ".")]
            if not owned or module in stale or owned[0] in stale or item["file"] not in sources:
                continue
            entry = Entry(
                **{
                    **item,
                    "file": str(folder / item["file"]),
                    "plugin": prefixes[owned[0]],
                    "fields": tuple(FieldSpec.from_mapping(f) for f in item["fields"]),
                }
            )
            other = self.live.get((entry.kind, entry.name)) or self.indexed.get(
                (entry.kind, entry.name)
            )
            if other is not None and not _same_place(entry, other):
                raise PluginError(
                    f"{entry.kind} '{entry.name}' is registered twice: at {other.place} "
                    f"({other.plugin}) and at {entry.place} ({entry.plugin})"
                )
            self.indexed[(entry.kind, entry.name)] = entry
        return stale

    def see_built_in(self) -> None:
        """Take the built-in components into account; every question does it first."""
        with self._lock:
            if not self._built_in:
                self._built_in = True
                for module in sorted(self.see_package("fwk", Path(__file__).parent.parent)):
                    self.pending[module] = "fwk"

    def _import_pending(self, wanted: Callable[[str], bool] = lambda module: True) -> None:
        for module in [m for m in self.pending if wanted(m)]:
            plugin = self.pending.pop(module, None)
            if plugin is not None:
                import_module(module, plugin)


def register(kind: str, name: str) -> Callable[[C], C]:
    """Class decorator: make a class available under a name. Its nested dataclass `Config` says its options. PluginError where the
    class leaves out a method that its base has none of (`abstractmethod`).
    """
    _check_kind(kind)
    frame = sys._getframe(1)
    file, line = frame.f_code.co_filename, frame.f_lineno

    def enter(cls: C) -> C:
        missing = [
            method
            for method in dir(cls)
            if getattr(getattr(cls, method, None), "__isabstractmethod__", False)
        ]
        if missing:
            raise PluginError(
                f"{file}:{line}: the {kind} '{name}' leaves out {', '.join(missing)}; expected {cls.__qualname__} to define "
                f"{'them' if len(missing) > 1 else 'it'}"
            )
        summary = (cls.__doc__ or "").strip().split("\n")[0]
        registry.add(
            Entry(
                kind=kind,
                name=name,
                module=cls.__module__,
                qualname=cls.__qualname__,
                file=file,
                line=line,
                plugin=registry.plugin_of(cls.__module__),
                summary=summary,
                loaded=cls,
            )
        )
        return cls

    return enter


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise UnknownName("kind of component", kind, KINDS)


def _same_place(new: Entry, old: Entry) -> bool:
    """The same class seen again: by its index, after a reload, or in a notebook cell that ran twice."""
    if new.loaded is not None and new.loaded is old.loaded:
        return True
    if new.qualname != old.qualname:
        return False
    if new.file.startswith("<") or "ipykernel" in new.file:
        return new.module == old.module
    if Path(new.file).resolve() != Path(old.file).resolve():
        return False
    if new.line == old.line or old.loaded is None:
        return True
    linecache.checkcache(
        new.file
    )  # two classes of one name in one file, unless the file has been edited since
    was = linecache.getline(new.file, old.line)
    return not ("register" in was and f"{old.name}" in was)


def import_module(module: str, plugin: str) -> ModuleType:
    """Import a module of a plugin. Raises BrokenPlugin where it does not import."""
    try:
        return importlib.import_module(module)
    except PluginError:
        raise
    except Exception as error:
        raise BrokenPlugin(plugin, module, error) from error


registry = Registry()
