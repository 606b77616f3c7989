"""The demo corpus: prose only, each paragraph once, built once, whatever the installation offers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support.commands import cache_with_index
from support.paths import ROOT

from fwk.data import demo
from fwk.errors import DataError

MODULE = '''"""Tools for walking over trees.

This module walks over the nodes of a tree in the order in which they were added to it.

    >>> walk(tree)
    [1, 2, 3]

Copyright (c) 2001 by the authors; all rights reserved under the terms of the license.
"""

TEMPLATE = """for (int i = 0; i < n; ++i) { out[i] = in[i] + 1; } // a kernel in another language"""


def walk(tree, order="pre"):
    """Return the nodes of the tree, one after the other, as a list that the caller may change.

    Parameters
    ----------
    tree : Tree
        The tree that is walked over; it must not be changed while the walk goes on.
    order : {"pre", "post"}

    Returns
    -------
    list of `Node`
    """
    return [node for node in tree]


add_docstr(walk, r"""
See :func:`walk` for what is returned when the tree is empty and *nothing* can be found in it.
""")
'''


@pytest.fixture
def installation(tmp_path, monkeypatch):
    (tmp_path / "site/tools/tests").mkdir(parents=True)
    (tmp_path / "site/tools/walk.py").write_text(MODULE)
    (tmp_path / "site/tools/again.py").write_text(MODULE)
    (tmp_path / "site/tools/broken.py").write_text(MODULE + "\ndef (:\n")
    (tmp_path / "site/tools/tests/test_walk.py").write_text(MODULE.replace("tree", "test"))
    (tmp_path / "site/tools/LICENSE.txt").write_text(
        "Permission is hereby granted to all who have got a copy. " * 9
    )
    (tmp_path / "site/tools/guide.rst").write_text(
        "Guide\n=====\n\nA guide to the trees that are in use here, written for those who have never seen one.\n\n"
        ".. code-block:: python\n\n    tree = Tree()\n    tree.walk()\n\n"
        "The last thing to know about a tree is that it has got a root, and that the root is not a leaf.\n"
    )
    monkeypatch.setenv("FWK_CACHE", cache_with_index(tmp_path / "cache"))
    monkeypatch.setattr(demo, "_preferred_roots", lambda: [("tools", tmp_path / "site/tools")])
    monkeypatch.setattr(demo, "_other_roots", lambda: [])
    return tmp_path


def test_only_prose_is_kept_and_each_paragraph_once(installation):
    paragraphs = [p for p in demo.corpus().read_text().split("\n") if p]
    assert sorted(paragraphs) == sorted(
        [
            "This module walks over the nodes of a tree in the order in which they were added to it.",
            "Return the nodes of the tree, one after the other, as a list that the caller may change.",
            "The tree that is walked over; it must not be changed while the walk goes on.",
            "See walk for what is returned when the tree is empty and nothing can be found in it.",
            "A guide to the trees that are in use here, written for those who have never seen one.",
            "The last thing to know about a tree is that it has got a root, and that the root is not a leaf.",
        ]
    )


def test_it_is_built_once_and_again_when_the_installation_changes(installation):
    first = demo.corpus()
    before = first.stat().st_mtime_ns
    assert demo.corpus() == first and first.stat().st_mtime_ns == before
    (installation / "site/tools/more.py").write_text(MODULE.replace("nodes", "leaves"))
    second = demo.corpus()
    assert second != first and "leaves" in second.read_text()


def test_an_installation_without_prose_is_one_sentence(installation, monkeypatch):
    monkeypatch.setattr(demo, "_preferred_roots", lambda: [])
    with pytest.raises(DataError, match="no English prose was found"):
        demo.corpus()


def test_a_cache_that_cannot_be_written_is_one_sentence(installation, monkeypatch):
    (installation / "file").write_text("")
    monkeypatch.setenv("FWK_CACHE", str(installation / "file"))
    with pytest.raises(DataError, match="set FWK_CACHE"):
        demo.corpus()


def test_several_processes_at_once_build_it_once(installation):
    code = f"""
import os, sys
from pathlib import Path
from fwk.data import demo
demo._preferred_roots = lambda: [("tools", Path({str(installation / "site/tools")!r}))]
demo._other_roots = lambda: []
build = demo.read_documents
def counted(*arguments):
    open({str(installation)!r} + "/built-" + str(os.getpid()), "w")
    return build(*arguments)
demo.read_documents = counted
print(demo.corpus())
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    paths = {p.communicate()[0] for p in processes}
    assert len(paths) == 1 and all(p.returncode == 0 for p in processes)
    builders = {p.name for p in installation.glob("built-*")}
    assert len(builders) == 1


@pytest.mark.slow
def test_this_installation_gives_a_corpus_to_train_on(tmp_path, monkeypatch):
    monkeypatch.setenv("FWK_CACHE", str(tmp_path))
    text = demo.corpus().read_text()
    assert len(text.split()) > 500_000
    assert os.path.getsize(demo.corpus()) == len(text)  # ASCII
    assert len(text.split("\n\n")) > 1000
