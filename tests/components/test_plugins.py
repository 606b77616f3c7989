"""Plugins: entry points, user directories, hooks. A fault in any of them is fatal and named."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fwk.cli.train import main
from fwk.components import discovery
from fwk.components import user_dirs as user_code
from fwk.components.discovery import (
    PluginManager,
    discover,
    hook_signatures,
    load_plugins,
    load_user_dirs,
    provenance,
)
from fwk.components.registry import registry
from fwk.components.trust import trusting
from fwk.config.identity import required
from fwk.config.resolve import resolve
from fwk.contracts.hooks import hookimpl
from fwk.errors import BrokenPlugin, PluginError

COMPONENT = '''
from dataclasses import dataclass
from fwk import option, register

@register("schedule", "{name}")
class {name}:
    """A schedule for a test."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        share: float = option(0.5, "a share", low=0, high=1)
'''


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """Forget the names, packages and modules that a test registered or imported."""
    discover()
    monkeypatch.setenv(user_code.VARIABLE, "")
    yield
    mine = (user_code.PREFIX, "fake_plugin")
    for table in (registry.live, registry.indexed):
        for key in [k for k, entry in table.items() if entry.module.startswith(mine)]:
            del table[key]
    for table in (registry.packages, sys.modules):
        for name in [n for n in table if n.startswith(mine)]:
            del table[name]
    discovery._discovered -= {name for name in discovery._discovered if name.startswith("fake")}


@pytest.fixture
def folder(tmp_path):
    """Return a function that writes files into a user directory."""

    def write(name: str = "mine", **files: str) -> Path:
        for file, text in files.items():
            path = tmp_path / name / (file.replace("__slash__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return tmp_path / name

    return write


# ---- user directories ----


def test_a_folder_its_modules_and_packages_are_loaded_under_a_private_name(folder):
    place = folder(
        one=COMPONENT.format(name="one_u") + "\nfrom .helper import VALUE\nfrom .sub import deep\n",
        helper="VALUE = 3\n",
        sub__slash____init__="from . import deep\n",
        sub__slash__deep=COMPONENT.format(name="deep_u"),
        test_one="raise Exception('a test is not loaded')",
        conftest="raise Exception('not loaded')",
        setup="raise Exception('not loaded')",
    )
    (place / "notes.txt").write_text("not code")
    (package,) = load_user_dirs([place])
    assert package.startswith("fwk_user_") and sys.modules[f"{package}.one"].VALUE == 3
    entry = registry.get("schedule", "one_u")
    assert (
        entry.module == f"{package}.one"
        and entry.plugin == str(place)
        and entry.place.startswith(f"{place}/one.py:")
    )
    assert registry.get("schedule", "deep_u").summary == "A schedule for a test."
    assert "one" not in sys.modules and "helper" not in sys.modules


def test_one_file_is_a_user_directory_too(folder):
    place = folder(single=COMPONENT.format(name="single_u")) / "single.py"
    (package,) = load_user_dirs([str(place)])
    assert registry.get("schedule", "single_u").module == package


@pytest.mark.parametrize(
    "kind, base, missing",
    [
        ("criterion", "Criterion", "forward, normalizers, reads"),
        ("noiser", "Noiser", "apply"),
        ("model", "Encoder", "forward"),
        ("task", "Task", "collate, fingerprint, sources, splits"),
        ("optimizer", "OptimizerFactory", "build"),
    ],
)
def test_a_class_that_leaves_out_what_its_base_needs_is_refused_by_name(
    folder, kind, base, missing
):
    module = {"OptimizerFactory": "fwk.contracts.optimizer", "Task": "fwk.contracts.task"}.get(
        base, "fwk"
    )
    place = folder(
        bare=f"from fwk import register\nfrom {module} import {base}\n\n"
        f"@register('{kind}', 'bare_u')\nclass Bare({base}):\n    pass\n"
    )
    with pytest.raises(PluginError) as refused:
        load_user_dirs([place])
    assert f"bare.py:4: the {kind} 'bare_u' leaves out {missing}; expected Bare to define" in str(
        refused.value
    )


def test_a_folder_with_an_init_file_is_a_package(folder):
    place = folder(__init__="NAME = 'mine'\n", one="from . import NAME\n")
    (package,) = load_user_dirs([place])
    assert sys.modules[f"{package}.one"].NAME == "mine"


def test_loading_again_does_nothing(folder):
    place = folder(one=COMPONENT.format(name="again_u"))
    assert load_user_dirs([place]) == load_user_dirs([str(place), place / ".." / "mine"])[:1]
    assert registry.get("schedule", "again_u").cls.__module__ in sys.modules


def test_two_folders_may_hold_files_of_one_name(folder):
    load_user_dirs(
        [
            folder("a", one=COMPONENT.format(name="a_u")),
            folder("b", one=COMPONENT.format(name="b_u")),
        ]
    )
    assert registry.get("schedule", "a_u").cls is not registry.get("schedule", "b_u").cls


def test_a_name_that_is_taken_names_both_files(folder):
    with pytest.raises(PluginError) as caught:
        load_user_dirs(
            [
                folder("a", one=COMPONENT.format(name="same_u")),
                folder("b", two=COMPONENT.format(name="same_u")),
            ]
        )
    assert "a/one.py:" in str(caught.value) and "b/two.py:" in str(caught.value)
    with pytest.raises(PluginError, match=r"masked_lm.py:\d+ .*c/mine.py:\d+"):
        load_user_dirs(
            [
                folder(
                    "c",
                    mine="from fwk import register\n@register('criterion', 'masked_lm')\nclass M: pass\n",
                )
            ]
        )


def test_classes_pickle_into_processes_that_have_not_loaded_the_folder(folder):
    place = folder(one=COMPONENT.format(name="pickled_u"))
    load_user_dirs([place])
    cls = registry.get("schedule", "pickled_u").cls
    data = pickle.dumps((Path, cls, cls.Config(share=0.25)))
    code = (
        "import sys, pickle, fwk; _, cls, config = pickle.loads(sys.stdin.buffer.read());"
        "assert config.share == 0.25 and cls.__name__ == 'pickled_u';"
        "from fwk.components.registry import registry; assert registry.get('schedule', 'pickled_u').cls is cls"
    )
    import os

    subprocess.run([sys.executable, "-c", code], input=data, check=True, env={**os.environ})


@pytest.mark.slow
def test_user_code_in_data_loading_workers(folder):
    import torch.utils.data

    place = folder(
        data="""
        from fwk import Source, register
        class Numbers(Source):
            def __len__(self): return 6
            def __getitem__(self, i): return i * i
    """
    )
    (package,) = load_user_dirs([place])
    source = sys.modules[f"{package}.data"].Numbers()
    for method in ("fork", "spawn"):
        loader = torch.utils.data.DataLoader(
            _Wrapped(source), num_workers=1, multiprocessing_context=method, batch_size=None
        )
        assert list(loader) == [0, 1, 4, 9, 16, 25]


class _Wrapped:
    """An object of a module that imports fwk, like the data sets of the engine."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        return self.source[index]


def test_config_files_name_user_directories_too(folder, tmp_path):
    place = folder(one=COMPONENT.format(name="from_file_u"))
    (tmp_path / "a.yaml").write_text(
        f"user_dirs: ['{place}']\nschedule: {{name: from_file_u, share: 0.1}}\ntask: synthetic\n"
    )
    with trusting(True):
        config = resolve([tmp_path / "a.yaml"]).config
    assert config.user_dirs == (str(place),) and config.schedule.config.share == 0.1
    assert resolve([tmp_path / "a.yaml"], {}, [], [place]).config.user_dirs == (str(place),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import nothing_of_this_name\n",
            "ModuleNotFoundError: No module named 'nothing_of_this_name'",
        ),
        ("x = 1\nx.y\n", "AttributeError"),
        ("def f(:\n", "SyntaxError"),
        ("import sys; sys.exit(3)\n", "SystemExit: 3"),
        ("raise RuntimeError\n", "RuntimeError: no message"),
        ("raise RuntimeError('two\\nlines')\n", "RuntimeError: two lines"),
        ("import helper\n", "a file beside it is imported with 'from . import helper'"),
        ("from fwk import Critreion\n", "ImportError: cannot import name 'Critreion' from 'fwk'"),
    ],
)
def test_a_user_directory_that_does_not_import_is_fatal_and_named(folder, text, message, capsys):
    place = folder(broken=text, helper="")
    with pytest.raises(BrokenPlugin) as caught:
        load_user_dirs([place])
    assert (
        message in str(caught.value)
        and "broken.py:" in str(caught.value)
        and str(place) in str(caught.value)
    )
    assert main(["--user-dir", str(place), "--task", "synthetic"]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert err[-1].startswith("fwk-train: error: plugin '") and "broken.py" in "".join(err[:-1])
    assert not any(
        "importlib" in line or "fwk/components/discovery.py" in line for line in err[:-1]
    )


def test_allow_broken_plugins_makes_it_a_warning(folder, capsys):
    place = folder(broken="1 / 0\n")
    arguments = [
        "--user-dir",
        str(place),
        "--task",
        "synthetic",
        "--print-config",
        "--allow-broken-plugins",
    ]
    assert main(arguments[:-1]) == 2
    capsys.readouterr()
    assert main(arguments) == 0
    assert "fwk-train: warning: plugin '" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="ZeroDivisionError"):
        load_plugins([place], allow_broken=True)


# ---- entry points ----


class _Point:
    def __init__(self, name, module):
        self.name, self.value, self.module, self.dist = name, module, module, None


def test_an_installed_plugin_is_found_by_its_entry_point(folder, monkeypatch):
    place = folder(
        "fake_plugin_a",
        __init__="from fake_plugin_a import one\n",
        one=COMPONENT.format(name="installed_u"),
    )
    monkeypatch.syspath_prepend(str(place.parent))
    monkeypatch.setattr(discovery, "installed", lambda: [_Point("fake_a", "fake_plugin_a")])
    discover()
    assert registry.get("schedule", "installed_u").plugin == "fake_a"
    assert provenance()["components"]["fake_a"] == ["schedule installed_u"]


def test_an_installed_plugin_with_an_index_is_not_imported_before_it_is_needed(folder, monkeypatch):
    place = folder(
        "fake_plugin_b",
        __init__="from fake_plugin_b import one\n",
        one=COMPONENT.format(name="indexed_u"),
    )
    monkeypatch.syspath_prepend(str(place.parent))
    code = (
        "from fwk.components.registry import registry;"
        "from fwk.components.write_index import write_index;"
        "registry.packages['fake_plugin_b'] = 'fake_b'; write_index('fake_plugin_b')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=place.parent)
    monkeypatch.setattr(discovery, "installed", lambda: [_Point("fake_b", "fake_plugin_b")])
    discover()
    entry = registry.get("schedule", "indexed_u")
    assert (
        entry.plugin == "fake_b"
        and entry.schema[0].name == "share"
        and "fake_plugin_b" not in sys.modules
    )
    assert entry.cls.__name__ == "indexed_u" and "fake_plugin_b" in sys.modules


def test_an_installed_plugin_that_does_not_import_is_fatal(folder, monkeypatch, capsys):
    place = folder("fake_plugin_c", __init__="import nothing_of_this_name\n")
    monkeypatch.syspath_prepend(str(place.parent))
    monkeypatch.setattr(
        discovery,
        "installed",
        lambda: [_Point("fake_c", "fake_plugin_c"), _Point("fake_d", "fake_gone")],
    )
    for _ in range(2):  # again, not only the first time
        with pytest.raises(BrokenPlugin, match="plugin 'fake_c' does not import"):
            discover()
    with pytest.warns(UserWarning, match="does not import") as warned:
        manager = load_plugins(allow_broken=True)
    assert {"fake_c", "fake_d"} == {w.message.args[0].split("'")[1] for w in warned}
    assert isinstance(manager, PluginManager)
    assert main(["--task", "synthetic"]) == 2 and "plugin 'fake_c'" in capsys.readouterr().err


def test_first_party_plugins_come_through_the_same_door():
    points = {point.name: point.value for point in discovery.installed()}
    assert points["tied_mlm"] == "fwk_plugins.tied_mlm"
    assert registry.get("criterion", "semantic_augment").plugin == "tied_mlm"
    assert provenance()["plugins"]["tied_mlm"]["distribution"] == "fwk"


def test_the_engine_names_no_plugin_and_no_objective():
    root = Path(discovery.__file__).parent.parent
    for path in root.rglob("*.py"):
        text = path.read_text()
        assert "import fwk_plugins" not in text and "from fwk_plugins" not in text, path
        if path.parent.name == "engine":
            assert not any(
                f"'{n}'" in text or f'"{n}"' in text for n in registry.names("criterion")
            ), path


# ---- hooks ----


class Good:
    @hookimpl
    def fwk_logged(self, record):
        record["seen"] = True

    @hookimpl(trylast=True)
    def fwk_run_end(self, run, status):
        pass

    def helper(self):
        pass


def test_a_hook_takes_any_subset_of_the_arguments():
    manager = PluginManager()
    manager.register(Good(), name="good")
    record = {}
    manager.hook.fwk_logged(run=None, record=record)
    assert record == {"seen": True} and manager.get_name(manager.get_plugin("good")) == "good"


def _with(name: str, function, mark: bool = True):
    return type("Bad", (), {name: hookimpl(function) if mark else function})()


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (
            _with("fwk_logged", lambda self, run, recrd: 0),
            "argument 'recrd' that the hook does not pass; the hook is fwk_logged(run: 'RunView'",
        ),
        (
            _with("fwk_logged", lambda self, recrd: 0),
            "record: 'dict[str, Any]'). Did you mean 'record'",
        ),
        (_with("fwk_loged", lambda self, run: 0), "implements fwk_loged"),
        (_with("fwk_loged", lambda self, run: 0), "no hook of fwk. Did you mean 'fwk_logged'"),
        (_with("fwk_logged", lambda self, run: 0, mark=False), "not marked with @fwk.hookimpl"),
        (
            _with("fwk_update_start", lambda self, run: 0, mark=False),
            "no hook of fwk. Did you mean 'fwk_update_",
        ),
    ],
)
def test_a_wrong_hook_is_fatal_and_named(plugin, message):
    with pytest.raises(PluginError) as caught:
        PluginManager().register(plugin, name="mine")
    assert (
        message in str(caught.value)
        and "plugin 'mine'" in str(caught.value)
        and "test_plugins.py:" in str(caught.value)
    )


def test_hook_functions_of_a_module_are_called(folder):
    place = folder(
        hooks="""
        from fwk import hookimpl
        from fwk.contracts.hooks import fwk_run_begin  # imported, not implemented
        @hookimpl
        def fwk_logged(run, record):
            record["from"] = "module"
    """
    )
    manager = load_plugins([place])
    record = {}
    manager.hook.fwk_logged(run=None, record=record)
    assert record == {"from": "module"}


def test_a_wrong_hook_in_a_module_is_one_message(folder, capsys, tmp_path):
    place = folder(
        hooks="from fwk import hookimpl\n@hookimpl\ndef fwk_logged(run, recrod):\n    pass\n"
    )
    status = main(
        [
            "--user-dir",
            str(place),
            "--task",
            "synthetic",
            "--run",
            str(tmp_path / "run"),
            "train.updates=1",
        ]
    )
    err = capsys.readouterr().err
    assert status == 2 and len(err.strip().splitlines()) == 1
    assert (
        "mine.hooks" in err
        and "'recrod'" in err
        and "Did you mean 'record'" in err
        and "hooks.py:2" in err
    )


def test_every_hook_is_documented():
    from fwk.contracts import hooks as hookspecs

    assert hook_signatures() and all(getattr(hookspecs, name).__doc__ for name in hook_signatures())


def test_provenance_says_versions_and_components(folder):
    place = folder(one=COMPONENT.format(name="provenance_u"))
    load_user_dirs([place])
    found = provenance()
    assert found["plugins"][str(place)]["version"] == "user directory"
    assert found["components"][str(place)] == ["schedule provenance_u"]
    assert "criterion masked_lm" in found["components"]["fwk"]


def test_what_a_run_needs_includes_what_its_criteria_bring(folder):
    place = folder(
        brings='''
        from dataclasses import dataclass
        from fwk import Criterion, Encoded, Encoder, LearnedNoiser, Output, Read, register

        @register("noiser", "brought_noiser")
        class Brought(LearnedNoiser):
            """A noiser for a test."""

            def apply(self, source, key, context, prepared=None):
                return source

        @register("model", "brought_model")
        class Network(Encoder):
            """A network for a test."""

            def forward(self, inputs, mask, embedding_change=None, states=()):
                return Encoded(inputs["tokens"])

        @register("criterion", "bringing")
        class Bringing(Criterion):
            """A criterion for a test."""

            @classmethod
            def reads(cls, config):
                return {"new": Read({"noiser": "brought_noiser", "network": {"name": "brought_model"}})}

            def normalizers(self, views, context):
                return {}

            def forward(self, views, context):
                return Output({})
    '''
    )
    needs = required(
        resolve(flags={"criterion": ["bringing"], "task": "synthetic"}, user_dirs=[place]).config
    )
    assert needs[str(place)]["names"] == [
        "criterion bringing",
        "model brought_model",
        "noiser brought_noiser",
    ]


def test_a_hook_that_a_module_imports_is_called_once(folder):
    place = folder(
        first="""
        from fwk import hookimpl
        @hookimpl
        def fwk_logged(run, record):
            record["calls"] = record.get("calls", 0) + 1
    """,
        second="from .first import fwk_logged\n",
    )
    record = {}
    load_plugins([place]).hook.fwk_logged(run=None, record=record)
    assert record == {"calls": 1}


def test_a_refused_hook_leaves_nothing_registered():
    manager, plugin = PluginManager(), _with("fwk_logged", lambda self, recrd: 0)
    with pytest.raises(PluginError):
        manager.register(plugin, name="mine")
    assert not manager.is_registered(plugin) and manager.get_plugin("mine") is None
