"""First-party plugins import only what docs/writing-a-plugin.md calls public."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(
    path.relative_to(ROOT)
    for folder in ("plugins", "user_dir_examples")
    for path in (ROOT / folder).rglob("*.py")
)


def public_modules() -> set[str]:
    """The modules that the section of the docs names."""
    text = (ROOT / "docs" / "writing-a-plugin.md").read_text(encoding="utf-8")
    section = text.split("## What a plugin may import")[1].split("\n## ")[0]
    return set(re.findall(r"`(fwk(?:\.[a-z_]+)*)`", section))


def imports_of(path: Path) -> list[tuple[int, str, str]]:
    """Line, module and name of everything that a file imports from fwk."""
    imports = []
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imports += [(node.lineno, alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imports += [(node.lineno, node.module or "", alias.name) for alias in node.names]
    return [entry for entry in imports if entry[1].split(".")[0] == "fwk"]


def is_public(module: str, public: set[str]) -> bool:
    parents = [module.rsplit(".", cut)[0] for cut in range(module.count("."))]
    return module == "fwk" or any(parent in public for parent in parents)


def test_the_docs_name_the_public_modules():
    assert {"fwk", "fwk.contracts", "fwk.nn", "fwk.errors", "fwk.testing"} <= public_modules()


def test_the_engine_is_not_public():
    assert not is_public("fwk.engine.module", public_modules())
    assert is_public("fwk.nn.softmax", public_modules())


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_plugin_imports_public_names_only(path):
    public = public_modules()
    private = [
        f"{path}:{line} imports {name} from {module}"
        for line, module, name in imports_of(path)
        if not is_public(module, public) or name.startswith("_")
    ]
    assert not private, "; ".join(private)
