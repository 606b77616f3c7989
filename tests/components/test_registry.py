"""Names -> classes: one place per name, near misses, and an index that is never wrong."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from support.paths import ROOT

from fwk import registry as public_registry
from fwk.components.discovery import discover
from fwk.components.index import package_folder, read_index
from fwk.components.registry import KINDS, register, registry
from fwk.components.write_index import build_index
from fwk.contracts.options import FieldSpec, convert, option, schema_of
from fwk.errors import PluginError, UnknownName


@pytest.fixture(autouse=True)
def plugins_known():
    discover()


@pytest.fixture
def scratch_package(tmp_path, monkeypatch):
    """Yield a package `scratch_fwk` with one component, and forget it after the test."""
    folder = tmp_path / "scratch_fwk"
    folder.mkdir()
    (folder / "__init__.py").write_text("from scratch_fwk import thing\n")
    (folder / "thing.py").write_text(
        textwrap.dedent('''
        from dataclasses import dataclass
        from fwk import option, register

        @register("schedule", "scratch_thing")
        class Thing:
            """A thing.

            More about it."""

            @dataclass(frozen=True, kw_only=True)
            class Config:
                share: float = option(0.5, "a share", low=0, high=1)
    ''')
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    registry.packages.pop("scratch_fwk", None)
    for table in (registry.live, registry.indexed):
        table.pop(("schedule", "scratch_thing"), None)
    for name in [n for n in sys.modules if n.split(".")[0] == "scratch_fwk"]:
        del sys.modules[name]


@pytest.mark.parametrize("package", ["fwk", "fwk_plugins"])
def test_index_equals_the_live_registry(package):
    made = read_index(package, package_folder(package))
    assert build_index(package) == made and made["components"]


def test_an_index_is_made_once_and_again_when_a_source_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("FWK_CACHE", str(tmp_path / "cache"))
    package = tmp_path / "fwk_plugins"
    package.mkdir()
    made = []
    monkeypatch.setattr(
        "fwk.components.index._fill_cache", lambda name, path: made.append(path.name)
    )
    for text in ("a = 1\n", "a = 1\n", "a = 2\n"):
        (package / "source.py").write_text(text)
        read_index("fwk_plugins", package)
    assert made[0] == made[1] != made[2]


@pytest.mark.slow
def test_without_a_usable_cache_components_are_imported(tmp_path, monkeypatch):
    monkeypatch.setenv("FWK_CACHE", "/dev/null/cache")
    code = (
        "import fwk; assert fwk.registry.get('criterion', 'masked_lm').cls.__name__ == 'MaskedLM'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_entry_says_where_it_came_from():
    for entry in registry:
        lines = Path(entry.file).read_text().splitlines()
        assert f'@register("{entry.kind}", "{entry.name}")' in lines[entry.line - 1]
        assert entry.cls.__qualname__ == entry.qualname and entry.cls.__module__ == entry.module


def test_one_registered_thing_one_file_named_as_it_is_registered():
    for entry in registry:
        if entry.plugin == "fwk" or entry.module.startswith("fwk_plugins."):
            assert Path(entry.file).stem == entry.name, (
                f"{entry.kind} {entry.name} is in {entry.file}"
            )


def test_every_first_party_option_is_documented():
    silent = [
        f"{e.kind} {e.name}.{f.name}"
        for e in registry
        if e.module.split(".")[0] in ("fwk", "fwk_plugins")
        for f in e.schema
        if not f.doc
    ]
    assert not silent


def test_every_default_keeps_its_own_schema():
    for entry in registry:
        for spec in entry.schema:
            if not spec.required:
                convert(spec.default, spec, f"{entry.name}.{spec.name}")


def test_public_names_are_the_same_objects():
    import fwk

    assert public_registry is registry
    for name in fwk.__all__:
        assert getattr(fwk, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Critreion'"):
        _ = fwk.Critreion


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(
        UnknownName, match="Unknown criterion 'maskedlm'. Did you mean 'masked_lm'"
    ) as caught:
        registry.get("criterion", "maskedlm")
    assert "masked_lm" in caught.value.known


def test_unknown_name_says_when_another_kind_has_it():
    with pytest.raises(UnknownName, match="'bert' is a model"):
        registry.get("task", "bert")


def test_unknown_kind():
    with pytest.raises(UnknownName, match="Did you mean 'criterion'"):
        registry.names("criteria")
    with pytest.raises(UnknownName):
        register("objective", "x")


def test_duplicate_names_both_places():
    with pytest.raises(PluginError) as caught:

        @register("criterion", "masked_lm")
        class Mine:
            pass

    message = str(caught.value)
    assert (
        "test_registry.py:" in message
        and "masked_lm.py:" in message
        and "registered twice" in message
    )


def test_duplicate_in_one_file_is_an_error(scratch_package):
    text = (scratch_package / "thing.py").read_text()
    (scratch_package / "thing.py").write_text(text + text)
    with pytest.raises(PluginError, match="registered twice"):
        importlib.import_module("scratch_fwk")


def test_reload_is_no_duplicate(scratch_package):
    module = importlib.import_module("scratch_fwk.thing")
    first = registry.get("schedule", "scratch_thing").cls
    importlib.reload(module)
    second = registry.get("schedule", "scratch_thing").cls
    assert first is not second and second is module.Thing
    (scratch_package / "thing.py").write_text(
        "# moved down\n" + (scratch_package / "thing.py").read_text()
    )
    importlib.reload(module)
    assert registry.get("schedule", "scratch_thing").cls is module.Thing


def test_registering_the_same_class_again_is_no_duplicate():
    entry = registry.get("criterion", "masked_lm")
    cls = entry.cls
    registry.add(registry.live[("criterion", "masked_lm")])
    assert registry.get("criterion", "masked_lm").cls is cls


def test_true_index_is_used_and_a_changed_source_is_not_believed(scratch_package):
    from fwk.components.write_index import write_index

    registry.packages["scratch_fwk"] = "scratch"
    write_index("scratch_fwk")
    registry.live.pop(("schedule", "scratch_thing"))
    for name in [n for n in sys.modules if n.split(".")[0] == "scratch_fwk"]:
        del sys.modules[name]
    assert registry.see_package("scratch_fwk", scratch_package, {"scratch_fwk": "scratch"}) == set()
    entry = registry.get("schedule", "scratch_thing")
    assert "scratch_fwk" not in sys.modules and entry.summary == "A thing."
    assert [(f.name, f.type, f.default, f.low, f.high) for f in entry.schema] == [
        ("share", "float", 0.5, 0, 1)
    ]
    assert entry.cls.__name__ == "Thing" and "scratch_fwk.thing" in sys.modules

    (scratch_package / "thing.py").write_text(
        (scratch_package / "thing.py").read_text() + "\n# changed\n"
    )
    assert registry.see_package("scratch_fwk", scratch_package, {"scratch_fwk": "scratch"}) == {
        "scratch_fwk"
    }


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sources": 3}', "\x00"])
def test_unreadable_index_is_an_absent_one(tmp_path, text):
    (tmp_path / "index.json").write_text(text)
    assert read_index("scratch_fwk", tmp_path) == {"sources": {}, "components": []}


def test_names_and_schemas_import_no_torch():
    code = (
        "import sys; from fwk.components.discovery import discover; discover();"
        "from fwk.components.registry import registry;"
        "options = [option for entry in registry for option in entry.schema];"
        "assert len(options) > 20; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_kind_has_something():
    assert all(registry.names(kind) for kind in KINDS)


# ---- schemas ----


@dataclass(frozen=True, kw_only=True)
class Everything:
    a: int = option(3, "an int", low=0, high=9)
    b: float | None = option(None, "a float", low=0)
    c: Literal["x", "y"] = option("x", "a choice")
    d: tuple[str, ...] = option((), "a list")
    e: dict[str, float] = option({}, "a mapping")
    f: Any = option(None, "anything")
    g: bool = option(False, "a truth value")
    h: tuple[int, float] = option((1, 2.0), "a pair")
    i: str = option(doc="text that must be given")
    j: int | float | str = option(0, "several")
    k: str = option("p", "a choice", choices=("p", "q"))


SPECS = {spec.name: spec for spec in schema_of(Everything)}


def test_schema_of_a_dataclass():
    assert {n: s.type for n, s in SPECS.items()} == {
        "a": "int",
        "b": "float | None",
        "c": "Literal['x', 'y']",
        "d": "tuple[str, ...]",
        "e": "dict[str, float]",
        "f": "Any",
        "g": "bool",
        "h": "tuple[int, float]",
        "i": "str",
        "j": "int | float | str",
        "k": "str",
    }
    assert SPECS["i"].required and not SPECS["a"].required
    for spec in SPECS.values():
        assert FieldSpec.from_mapping(json.loads(json.dumps(spec.to_mapping()))) == spec


@pytest.mark.parametrize(
    ("name", "given", "made"),
    [
        ("a", 4, 4),
        ("b", 1, 1.0),
        ("b", None, None),
        ("b", "1e-4", 1e-4),
        ("c", "y", "y"),
        ("d", ["p", "q"], ("p", "q")),
        ("d", [], ()),
        ("e", {"k": 1}, {"k": 1.0}),
        ("f", {"x": [1]}, {"x": [1]}),
        ("g", True, True),
        ("h", [3, 4], (3, 4.0)),
        ("j", 1, 1),
        ("j", 1.5, 1.5),
        ("j", "one", "one"),
        ("k", "q", "q"),
    ],
)
def test_values_that_fit(name, given, made):
    got = convert(given, SPECS[name], "key")
    assert got == made and type(got) is type(made)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("a", 10, "key: must be between 0 and 9, got 10"),
        ("a", -1, "between 0 and 9"),
        ("a", True, "a whole number, got true"),
        ("a", 3.0, "a whole number, got 3.0; write 3"),
        ("a", "3", "a whole number, got '3'"),
        ("a", None, "got null"),
        ("b", -0.5, "at least 0"),
        ("b", "fast", "a number or null, got 'fast'"),
        ("b", True, "got true"),
        ("b", float("nan"), "finite"),
        ("b", float("inf"), "finite"),
        ("b", 10**400, "finite"),
        ("c", "X", "one of 'x', 'y', got 'X'"),
        ("c", 1, "one of 'x', 'y'"),
        ("c", False, "YAML reads yes, no"),
        ("d", "p", "a list of text, got 'p'"),
        ("d", ["p", 3], "key.1: expected text, got 3; put it in quotes"),
        ("e", {"k": "v"}, "key.k: expected a number"),
        ("e", [1], "a mapping of names to a number, got a list"),
        ("g", 1, "true or false, got 1"),
        ("g", "true", "true or false"),
        ("h", [1], "a list of 2 values, got 1"),
        ("h", [1.5, 2], "key.0: expected a whole number"),
        ("j", None, "a whole number or a number or text, got null"),
        ("k", "r", "expected one of p, q"),
    ],
)
def test_values_that_do_not_fit(name, given, message):
    from fwk.errors import ConfigError

    with pytest.raises(ConfigError) as caught:
        convert(given, SPECS[name], "key")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_type_that_configurations_do_not_have_is_named():
    @dataclass(frozen=True)
    class Odd:
        when: complex = option(0j, "odd")

    with pytest.raises(PluginError, match="field 'when' of Config: <class 'complex'>"):
        schema_of(Odd, "criterion 'odd'")


def test_a_key_that_the_engine_reads_is_reserved():
    @dataclass(frozen=True)
    class Odd:
        weight: float = option(1.0, "clashes with the criterion's weight")

    with pytest.raises(PluginError, match="may not have a field 'weight'"):
        schema_of(Odd, "criterion 'odd'", ("name", "weight"))


def test_old_cached_indexes_of_a_package_do_not_pile_up(tmp_path):
    from fwk.components.index import KEPT_IN_CACHE, prune_cache

    for age in range(KEPT_IN_CACHE + 3):
        path = tmp_path / f"fwk-{age}.json"
        path.write_text("{}")
        os.utime(path, (1000 - age, 1000 - age))
    other = tmp_path / "fwk_plugins-1.json"
    other.write_text("{}")
    prune_cache("fwk", tmp_path)
    kept = {f"fwk-{age}.json" for age in range(KEPT_IN_CACHE)}
    assert {path.name for path in tmp_path.iterdir()} == {*kept, other.name}


def test_a_learned_noiser_without_apply_is_refused():
    from fwk import LearnedNoiser

    with pytest.raises(PluginError, match="leaves out apply; expected .*Silent to define it"):

        @register("noiser", "silent_for_a_test")
        class Silent(LearnedNoiser):
            """A learned noiser that forgets `apply`."""


@pytest.mark.slow
def test_a_wheel_ships_indexes_types_and_the_packages_of_plugins(tmp_path):
    pytest.importorskip("build")
    source = tmp_path / "source"
    copied = ("fwk", "plugins", "setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
    source.mkdir()
    for name in copied:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("index.json"))
        else:
            shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir"]
    subprocess.run([*command, tmp_path / "dist"], cwd=source, check=True, capture_output=True)

    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
        indexes = {
            package: json.loads(archive.read(f"{package}/index.json"))
            for package in ("fwk", "fwk_plugins")
        }
    assert {"fwk/py.typed", "fwk_plugins/py.typed"} <= files
    for package, index in indexes.items():
        registered = {entry.name for entry in registry if entry.module.startswith(f"{package}.")}
        assert {item["name"] for item in index["components"]} == registered
    for folder in ("plugins", "fwk"):
        for path in (ROOT / folder).rglob("*.py"):
            package = "fwk_plugins" if folder == "plugins" else "fwk"
            assert f"{package}/{path.relative_to(ROOT / folder).as_posix()}" in files
