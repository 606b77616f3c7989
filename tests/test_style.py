"""Functions do one thing, classes stay readable, and `Any` is the exception."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from support.paths import ROOT

LONGEST_FUNCTION = 40  # lines, docstring included
LONGEST_CLASS = 250
MOST_ANY = 240  # uses of the name in fwk and plugins together


def sources(*folders: str) -> Iterator[tuple[str, str]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "kinds, most",
    [((ast.FunctionDef, ast.AsyncFunctionDef), LONGEST_FUNCTION), ((ast.ClassDef,), LONGEST_CLASS)],
    ids=["functions", "classes"],
)
def test_nothing_is_too_long(kinds, most):
    long = [
        f"{path}:{node.lineno} {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path, text in sources("fwk", "plugins")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, kinds) and node.end_lineno - node.lineno + 1 > most
    ]
    assert not long, "; ".join(long)


def test_any_is_the_exception():
    uses = sum(
        isinstance(node, ast.Name) and node.id == "Any"
        for _, text in sources("fwk", "plugins")
        for node in ast.walk(ast.parse(text))
    )
    assert uses < MOST_ANY
