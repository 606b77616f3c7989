"""Shared by all tests: one thread (two cores carry several test processes), and where the real data lies, if it
does."""

from __future__ import annotations

import hashlib
import os
import subprocess
from itertools import count
from pathlib import Path

from support.paths import ROOT, SHARED

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tenth",
        metavar="N",
        help="run a tenth of the tests: 0 to 9, or 'commit' for one that changes with each commit",
    )


@pytest.hookimpl(tryfirst=True)  # before tests are selected by marker
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort tests into tiers, then keep those of one tenth if asked to.

    `mostly_slow("a", "b")` on a parametrized test: the fast tier runs the parameter sets whose ids contain one of the
    words (or are the word, "=word"), the slow tier all; a word that belongs to no parameter set is an error. Which
    tenth a test belongs to follows from its name alone.
    """
    _skip_without_gpu(items)
    words_used: dict[tuple[str, str], bool] = {}  # (test function, word) -> whether a set has it
    for item in items:
        mark = item.get_closest_marker("mostly_slow")
        if mark is None:
            continue
        used = {word: _is_named(word, item.callspec.id) for word in mark.args}
        if not any(used.values()):
            item.add_marker(pytest.mark.slow)
        for word, is_used in used.items():
            key = item.nodeid.partition("[")[0], word
            words_used[key] = is_used or words_used.get(key, False)

    unused = [f"{test}: {word!r}" for (test, word), is_used in words_used.items() if not is_used]
    if unused and not any("::" in argument for argument in config.args):
        raise pytest.UsageError(f"mostly_slow names no parameter set in {'; '.join(unused)}")
    chosen = config.getoption("--tenth")
    if chosen is None:
        return
    number = _tenth_of_commit() if chosen == "commit" else int(chosen)
    kept = [item for item in items if _tenth_of(item.nodeid) == number % 10]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


def _skip_without_gpu(items: list[pytest.Item]) -> None:
    """Skip the tests that need a CUDA device on a machine without one."""
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu:
        import torch

        if not torch.cuda.is_available():
            for item in on_gpu:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _is_named(word: str, parameters: str) -> bool:
    """Return whether a word is part of the id of a parameter set, or is the whole of it ("=word")."""
    return word in parameters or word == f"={parameters}"


_test_numbers = count()


def _tenth_of(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big") % 10


def _tenth_of_commit() -> int:
    command = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return _tenth_of(commit.strip())


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the folder of real data sets is absent")
    return SHARED


@pytest.fixture(autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_user_code_stays():
    """What a test loads from a user directory is forgotten after it: another test may load a copy from elsewhere, and
    one name from two places is an error."""
    yield
    import sys

    from fwk.components.user_dirs import PREFIX

    registry = getattr(sys.modules.get("fwk"), "registry", None)
    if registry is None:
        return
    for kind, name in [
        key for key, entry in registry.live.items() if entry.module.startswith(PREFIX)
    ]:
        registry.remove(kind, name)
    for module in [name for name in sys.modules if name.startswith(PREFIX)]:
        del sys.modules[module]


@pytest.fixture(autouse=True)
def no_word_is_remembered(tmp_path_factory, monkeypatch):
    """Code that the user, or another test, allowed before is not allowed in this test."""
    from fwk.components import trust

    records = tmp_path_factory.getbasetemp() / f"records-{next(_test_numbers)}"
    monkeypatch.setattr(trust, "private_folder", lambda name: records / name)


@pytest.fixture
def plugin(monkeypatch):
    """A function that makes every run in this test load one more plugin."""

    from fwk.runs import start

    def add(instance, name="plugin under test"):
        load = start.load_plugins

        def loaded(*arguments, **keywords):
            hooks = load(*arguments, **keywords)
            hooks.register(instance, name=name)
            return hooks

        monkeypatch.setattr(start, "load_plugins", loaded)

    return add
