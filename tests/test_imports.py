"""Imports point one way: cli -> engine -> (criteria, noisers, models, tasks, optim, reporting) -> (data, registry, ...)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import fwk

ROOT = Path(__file__).parent.parent / "fwk"

# a module may import from its own layer and from those below it
LAYERS = (
    ("cli",),
    ("testing", "scoring", "hf"),  # the conformance kit runs everything but the commands
    ("engine",),
    ("criteria", "noisers", "models", "tasks", "optim", "reporting"),
    (
        "data",
        "registry",
        "config",
        "schema",
        "keyed",
        "context",
        "views",
        "errors",
        "files",
        "hookspecs",
        "plugins",
        "yaml_text",
        "user_code",
        "version",
        "apex",
        "compiled",
        "flops",
    ),
)
# rooms of one layer that know nothing of each other, but for these
NEIGHBOURS = {
    ("reporting", "criteria"),
    ("reporting", "tasks"),
    *((room, room) for room in LAYERS[3]),
}

# importer -> imported, where not at run time of the module: "type" under TYPE_CHECKING, "late" inside a function
EXEMPT = {
    ("fwk", "fwk.engine.api", "late"): "fwk.train and fwk.load are the public names of the engine",
    (
        "fwk.context",
        "fwk.models.base",
        "type",
    ): "a component is handed its encoder; the annotation says so",
    ("fwk.data.loader", "fwk.tasks.base", "type"): "the loader is handed a task",
    ("fwk.hookspecs", "fwk.engine.run", "type"): "the reference of hooks says what they are handed",
    ("fwk.hookspecs", "fwk.engine.phases", "type"): "a hook may return a phase",
    (
        "fwk.config",
        "fwk.noisers.base",
        "late",
    ): "views are checked against what kind of noiser makes them",
    (
        "fwk.reporting.summary",
        "fwk.engine.module",
        "type",
    ): "the closing screen is handed the module",
    (
        "fwk.reporting.summary",
        "fwk.engine.module",
        "late",
    ): "the closing screen runs the module it is handed on a batch",
}
"""Every exemption has a reason, and is needed (the last test)."""


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


class Imports(ast.NodeVisitor):
    """(imported module, how, line) of every import; how: "", "type" (under TYPE_CHECKING) or "late" (in a function)."""

    def __init__(self, module: str, path: Path):
        self.module, self.how = module, ""
        self.package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        self.found: list[tuple[str, str, int]] = []
        self.visit(ast.parse(path.read_text(encoding="utf-8")))

    def inside(self, how: str, nodes: list[ast.stmt]) -> None:
        before, self.how = self.how, self.how or how
        for node in nodes:
            self.visit(node)
        self.how = before

    def visit_FunctionDef(self, node):
        self.inside("late", node.body)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node):
        test = (
            node.test.attr if isinstance(node.test, ast.Attribute) else getattr(node.test, "id", "")
        )
        self.inside("type" if test == "TYPE_CHECKING" else "", node.body)
        self.inside("", node.orelse)

    def visit_Import(self, node):
        self.found += [(alias.name, self.how, node.lineno) for alias in node.names]

    def visit_ImportFrom(self, node):
        base = node.module or ""
        if node.level:
            parts = self.package.split(".")
            base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
        for alias in (
            node.names
        ):  # `from fwk import errors` imports a module, `from fwk.errors import nearest` does not
            whole = fwk._PLACES.get(alias.name, "") if base == "fwk" else f"{base}.{alias.name}"
            whole = whole or f"{base}.{alias.name}"
            self.found.append((whole if whole in MODULES else base, self.how, node.lineno))

    def visit_Call(self, node):
        name = (
            node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        )
        if name.endswith("import_module") and node.args and isinstance(node.args[0], ast.Constant):
            self.found.append((node.args[0].value, self.how, node.lineno))
        self.generic_visit(node)


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def layer(module: str) -> int:
    return next(number for number, rooms in enumerate(LAYERS) if room(module) in rooms)


def allowed(importer: str, imported: str) -> bool:
    if (
        importer == "fwk" or imported == "fwk"
    ):  # the package itself: its version, and its public names on demand
        return imported == "fwk" or layer(imported) == len(LAYERS) - 1
    if layer(importer) == layer(imported) == 3:
        return (room(importer), room(imported)) in NEIGHBOURS
    return layer(importer) <= layer(imported)


def imports() -> list[tuple[str, str, str, int]]:
    return [
        (module, imported, how, line)
        for module, path in MODULES.items()
        for imported, how, line in Imports(module, path).found
    ]


def test_every_room_is_in_the_order():
    assert {room(module) for module in MODULES if module != "fwk"} == {
        name for rooms in LAYERS for name in rooms
    }


def test_imports_point_one_way():
    wrong = [
        f"{importer}:{line} imports {imported}{f' ({how})' if how else ''}"
        for importer, imported, how, line in imports()
        if imported.split(".")[0] == "fwk"
        and not allowed(importer, imported)
        and (importer, imported, how) not in EXEMPT
    ]
    assert not wrong, "; ".join(wrong)


def test_fwk_never_imports_its_plugins():
    assert not [
        f"{importer}:{line}"
        for importer, imported, _, line in imports()
        if imported.split(".")[0] in ("fwk_plugins", "plugins")
    ]


@pytest.mark.parametrize("exemption", EXEMPT, ids=str)
def test_every_exemption_has_a_reason_and_is_needed(exemption):
    importer, imported, how = exemption
    assert EXEMPT[exemption] and how in ("type", "late") and not allowed(importer, imported)
    assert (importer, imported, how) in {(a, b, c) for a, b, c, _ in imports()}
