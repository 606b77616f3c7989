"""One registered component: its name, its place in the sources, its options, its class."""

from __future__ import annotations

import importlib
import linecache
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from fwk.contracts.options import FieldSpec, schema_of
from fwk.errors import BrokenPlugin, PluginError
from fwk.limits import SystemLimit, explain

KINDS = ("task", "model", "criterion", "noiser", "optimizer", "schedule", "hook")

# keys that the engine reads from the same mapping as the component's own options
RESERVED = {
    "criterion": ("name", "weight"),
    "model": ("name", "tie"),
    "noiser": ("noiser", "of", "network", "mode", "ema", "encoder", "prepare"),
}


@dataclass(kw_only=True)
class Entry:
    """A registered component. What an index does not tell is read from the class when it is first asked for."""

    kind: str
    name: str
    module: str
    qualname: str
    file: str
    line: int
    plugin: str
    summary: str = ""  # the first line of the class's docstring
    fields: tuple[FieldSpec, ...] | None = None  # see `schema`
    views: dict[str, str] | None = None  # see `brings`
    loaded: type[Any] | None = None  # see `cls`

    @property
    def place(self) -> str:
        """The file and line of the registration."""
        return f"{self.file}:{self.line}"

    @property
    def cls(self) -> type[Any]:
        """The class, imported when it is first asked for; Any because each kind has a base class of its own."""
        if self.loaded is None:
            value: object = import_module(self.module, self.plugin)
            for name in self.qualname.split("."):
                value = getattr(value, name, None)
            # a class that the module merely imports was registered by nobody
            if not isinstance(value, type) or value.__module__ != self.module:
                raise PluginError(
                    f"{self.place}: there is no class {self.qualname} in {self.module}, which "
                    f"registered {self.kind} '{self.name}' when the index was made"
                )
            self.loaded = value
        return self.loaded

    @property
    def schema(self) -> tuple[FieldSpec, ...]:
        """The options of the component, in the order of its `Config`."""
        if self.fields is None:
            config = getattr(self.cls, "Config", None)
            where = f"{self.kind} '{self.name}' ({self.place})"
            reserved = RESERVED.get(self.kind, ("name",))
            self.fields = () if config is None else schema_of(config, where, reserved)
        return self.fields

    @property
    def brings(self) -> dict[str, str]:
        """View -> noiser of the views that a criterion defines by default; empty where an option is required."""
        if self.views is None:
            self.views = {}
            if self.kind == "criterion" and not any(spec.required for spec in self.schema):
                for name, read in self.cls.reads(self.cls.Config()).items():
                    if "noiser" in (read.default or {}):
                        self.views[name] = read.default["noiser"]
        return self.views


def same_place(new: Entry, old: Entry) -> bool:
    """Return whether both entries are one class: from its index, after a reload, or from a notebook cell run twice."""
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
    # two classes of one name in one file, unless the file has been edited since
    linecache.checkcache(new.file)
    line = linecache.getline(new.file, old.line)
    return not ("register" in line and old.name in line)


def import_module(module: str, plugin: str) -> ModuleType:
    """Import a module of a plugin. Raises BrokenPlugin where it does not import."""
    try:
        return importlib.import_module(module)
    except (PluginError, SystemLimit):
        raise
    except Exception as error:
        limit = explain(error)
        if limit is not None:
            raise SystemLimit(limit) from error
        raise BrokenPlugin(plugin, module, error) from error
