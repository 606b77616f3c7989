"""Imports point one way, inside every folder too: no circle of any kind, late and type-only imports included."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import fwk

ROOT = Path(fwk.__file__).parent

# a module may import from its own layer and from those below it; folders of one layer do not import each other
LAYERS = (
    ("cli",),
    ("scoring", "testing"),
    ("runs",),
    ("hf",),
    ("reporting",),
    ("hooks",),
    ("engine",),
    ("tasks", "models", "criteria", "noisers", "optimizers", "schedules"),
    ("data",),
    ("flops",),
    ("config", "nn"),
    ("components",),
    ("contracts",),
    ("files",),
    ("limits",),
    ("errors", "version"),
)
# the package itself looks up its public names, wherever they are defined, when they are first used
EXEMPT = "fwk"
LOOSE_FILES = 5


@cache
def modules() -> dict[str, Path]:
    """Module name -> file, for every module of fwk."""
    named = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


def imported_by(module: str, path: Path) -> dict[str, int]:
    """Imported module -> line, for every import statement at any depth."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    lines: dict[str, int] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            names = [_module_of(base, alias.name) for alias in node.names]
        else:
            continue
        for name in names:
            lines.setdefault(name, node.lineno)
    return lines


def _module_of(base: str, name: str) -> str:
    """The module that `from base import name` takes `name` from."""
    if base == "fwk" and name in fwk._PLACES:
        return fwk._PLACES[name]
    return f"{base}.{name}" if f"{base}.{name}" in modules() else base


@cache
def edges() -> dict[str, dict[str, int]]:
    """Importer -> imported module -> line, within fwk and without the exempt package itself."""
    return {
        module: {
            name: line
            for name, line in imported_by(module, path).items()
            if name.split(".")[0] == "fwk" and EXEMPT not in (module, name) and name != module
        }
        for module, path in modules().items()
        if module != EXEMPT
    }


def folder(module: str) -> str:
    return module.split(".")[1]


def layer(module: str) -> int:
    return next(number for number, folders in enumerate(LAYERS) if folder(module) in folders)


def test_every_folder_has_a_layer():
    folders = {folder(module) for module in modules() if module != EXEMPT}
    assert folders == {name for names in LAYERS for name in names}


def test_few_files_lie_outside_of_folders():
    assert len(list(ROOT.glob("*.py"))) <= LOOSE_FILES


def test_imports_point_down_the_layers():
    wrong = [
        f"{importer}:{line} imports {imported}"
        for importer, lines in edges().items()
        for imported, line in lines.items()
        if folder(importer) != folder(imported) and layer(importer) >= layer(imported)
    ]
    assert not wrong, "; ".join(wrong)


def test_no_module_imports_itself_through_others():
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        for imported in edges().get(module, ()):
            visit(imported, (*path, module))
        done.add(module)

    for module in edges():
        visit(module, ())


def test_type_checkers_see_the_public_names_that_are_looked_up():
    source = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (
        node
        for node in source.body
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    )
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen.pop("registry") == "fwk.components.registry"
    results = {seen.pop("Loaded"), seen.pop("Finished")}  # of fwk.load and fwk.train
    assert results == {"fwk.engine.loaded", "fwk.runs.start"}
    assert seen == fwk._PLACES


def test_fwk_never_imports_its_plugins():
    wrong = [
        f"{importer}:{line}"
        for importer, path in modules().items()
        for imported, line in imported_by(importer, path).items()
        if imported.split(".")[0] in ("fwk_plugins", "plugins")
    ]
    assert not wrong
