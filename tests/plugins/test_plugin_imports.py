"""Imports within plugins point one way: no circle of modules or folders, late and type-only imports included."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import fwk_plugins

ROOT = Path(fwk_plugins.__path__[0])
PLUGINS = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))


def modules_of(plugin: str) -> dict[str, Path]:
    """Module name -> file."""
    modules = {}
    for path in sorted((ROOT / plugin).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        modules[".".join(["fwk_plugins", *parts])] = path
    return modules


def imports_of(module: str, path: Path, modules: dict[str, Path]) -> set[str]:
    """The modules of the same plugin that a file imports, at any depth of its code."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                imported.add(whole if whole in modules else base)
    return (imported & modules.keys()) - {module}


def graph_of(plugin: str) -> dict[str, set[str]]:
    modules = modules_of(plugin)
    return {module: imports_of(module, path, modules) for module, path in modules.items()}


def assert_no_circle(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


@pytest.mark.parametrize("plugin", PLUGINS)
def test_no_module_of_a_plugin_imports_itself_through_others(plugin):
    assert_no_circle(graph_of(plugin))


@pytest.mark.parametrize("plugin", PLUGINS)
def test_no_folder_of_a_plugin_imports_itself_through_others(plugin):
    """Modules that lie directly in the plugin count as one each."""
    graph: dict[str, set[str]] = {}
    for module, imported in graph_of(plugin).items():
        folder = ".".join(module.split(".")[:3])
        graph.setdefault(folder, set()).update(".".join(name.split(".")[:3]) for name in imported)
        graph[folder].discard(folder)
    assert_no_circle(graph)


def test_a_circle_is_found():
    with pytest.raises(pytest.fail.Exception, match="a -> b -> a|b -> a -> b"):
        assert_no_circle({"a": {"b"}, "b": {"a"}})


def test_the_graph_holds_the_imports_of_a_plugin():
    graph = graph_of("cvt")
    assert "fwk_plugins.cvt.corpora.tags" in graph["fwk_plugins.cvt.criteria.cvt_tagging"]
