"""Code that a file names is imported only with the user's word, now or before; nothing else brings code along."""

from __future__ import annotations

import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fwk
from fwk.cli import train
from fwk.components import discovery, trust
from fwk.config.resolve import read, resolve
from fwk.errors import UntrustedCode
from fwk.runs.revision import git_revision
from fwk.testing import tiny_config

SCHEDULE = """
from pathlib import Path
from dataclasses import dataclass
from fwk import register

Path({mark!r}).touch()

@register("schedule", {name!r})
class Steady:
    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    def __init__(self, config, updates=None):
        pass

    def at(self, progress, update=0):
        return 1.0
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FWK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def code(tmp_path) -> Path:
    """A folder of code that leaves a file `ran` behind when it is imported."""
    folder = tmp_path / "code"
    folder.mkdir()
    name = f"steady_{tmp_path.name}".replace("-", "_")
    text = SCHEDULE.format(mark=str(tmp_path / "ran"), name=name)
    (folder / "steady.py").write_text(text)
    return folder


@pytest.fixture
def config_file(tmp_path, code) -> Path:
    """A config that names the code, and needs none of it."""
    path = tmp_path / "config.yaml"
    path.write_text(f"user_dirs: [{code}]\ntask: synthetic\ncriterion: masked_lm\n")
    return path


def ran(tmp_path: Path) -> bool:
    return (tmp_path / "ran").exists()


@pytest.mark.parametrize("flags", [[], ["--print-config"], ["--help"], ["--allow-broken-plugins"]])
def test_code_that_only_a_config_names_is_refused(tmp_path, config_file, code, flags, capsys):
    status = train.main(["--config", str(config_file), *flags])
    said = capsys.readouterr().err
    assert status == 2 and not ran(tmp_path)
    assert f"config.yaml:1: user_dirs names the code in {code} (steady.py)" in said
    assert f"--user-dir {code}" in said and "--trust" in said


@pytest.mark.parametrize(
    "spelling", ["code", "./code", "~/code", "/proc/self/cwd/code", "code/steady.py"]
)
def test_every_spelling_of_a_place_is_refused(tmp_path, code, spelling, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base.yaml").write_text(f"user_dirs: ['{spelling}']\ntask: synthetic\n")
    (tmp_path / "a.yaml").write_text("extends: base.yaml\n")
    for file in ("base.yaml", "a.yaml"):
        with pytest.raises(UntrustedCode):
            resolve([tmp_path / file])
        with pytest.raises(UntrustedCode):
            fwk.train(str(tmp_path / file))
    assert not ran(tmp_path)


def test_the_users_word_runs_the_code_and_is_remembered_for_this_code_only(
    tmp_path, config_file, code
):
    resolve([config_file], trust=True)
    assert ran(tmp_path)
    resolve([config_file])  # the same code
    (code / "steady.py").write_text((code / "steady.py").read_text() + "\n# changed\n")
    with pytest.raises(UntrustedCode, match="was changed since you allowed it"):
        resolve([config_file])


@pytest.mark.parametrize(
    "word",
    [
        lambda code: {"user_dirs": [code]},
        lambda code: {"overrides": [f"user_dirs=[{code}]"]},
        lambda code: {"layers": [("from Python", {"user_dirs": [str(code)]})]},
    ],
    ids=["--user-dir", "override", "mapping"],
)
def test_each_way_of_naming_the_code_oneself_is_a_word(tmp_path, config_file, code, word):
    resolve([config_file], **word(code))
    assert ran(tmp_path)


def test_a_copy_of_trusted_code_is_trusted_and_an_addition_is_not(tmp_path, config_file, code):
    resolve([config_file], trust=True)
    copy = tmp_path / "copy"
    shutil.copytree(code, copy)
    assert trust.is_remembered(copy)
    (copy / "deep").mkdir()
    (copy / "deep" / "more.py").write_text("")
    assert not trust.is_remembered(copy)


@pytest.mark.parametrize("mode", [0o666, 0o620])
def test_a_record_that_others_could_write_is_none(config_file, code, mode):
    resolve([config_file], trust=True)
    folder = Path(os.environ["FWK_CACHE"]) / f"trusted-code-{os.getuid()}"
    (record,) = folder.iterdir()
    assert record.stat().st_mode & 0o777 == 0o600 and folder.stat().st_mode & 0o777 == 0o700
    record.chmod(mode)
    assert not trust.is_remembered(code)
    record.chmod(0o600)
    assert trust.is_remembered(code)
    folder.chmod(0o777)
    assert not trust.is_remembered(code)


def test_a_compiled_file_with_other_code_is_not_run(tmp_path, code):
    source = code / "steady.py"
    other = tmp_path / "other.py"
    other.write_text(f"open({str(tmp_path / 'planted')!r}, 'w')\n")
    planted = code / "__pycache__" / f"steady.{sys.implementation.cache_tag}.pyc"
    py_compile.compile(
        str(other), str(planted), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    before = planted.read_bytes()
    discovery.load_user_dirs([source.parent])
    assert ran(tmp_path) and not (tmp_path / "planted").exists()
    assert planted.read_bytes() == before


def test_a_run_is_read_without_code_that_none_of_its_components_needs(tmp_path, config_file, code):
    config = read(config_file)
    assert config.user_dirs == () and not ran(tmp_path)
    shutil.rmtree(code)
    assert read(config_file).user_dirs == ()


def test_a_run_that_needs_code_is_refused_without_the_word(tmp_path, code):
    name = f"steady_{tmp_path.name}".replace("-", "_")
    (tmp_path / "config.yaml").write_text(
        f"user_dirs: [{code}]\ntask: synthetic\nschedule: {name}\n"
    )
    with pytest.raises(UntrustedCode):
        read(tmp_path / "config.yaml")
    assert not ran(tmp_path)
    assert read(tmp_path / "config.yaml", trust=True).schedule.name == name


def test_a_run_from_elsewhere_loads_without_its_code(tmp_path, code):
    run = tmp_path / "run"
    fwk.train(tiny_config({"train": {"updates": 1}, "run": str(run)}))
    text = (run / "config.yaml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("user_dirs")]
    (run / "config.yaml").write_text("\n".join([*lines, f"user_dirs: [{code}]\n"]))
    assert fwk.load(run).update == 1 and not ran(tmp_path)
    fwk.load(run, trust=True)
    assert ran(tmp_path)


# -- the working directory -------------------------------------------------------------------------------------------


def plant_distribution(folder: Path, mark: Path) -> None:
    """Write an unpacked distribution that claims to be a plugin."""
    info = folder / "planted-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fwk.plugins]\nplanted = planted_plugin\n")
    (folder / "planted_plugin.py").write_text(f"open({str(mark)!r}, 'w')\n")


@pytest.mark.slow
def test_a_distribution_in_the_working_directory_is_no_plugin(tmp_path):
    plant_distribution(tmp_path, tmp_path / "ran")
    command = ["--task", "synthetic", "--criterion", "masked_lm", "--print-config"]
    done = subprocess.run(
        [sys.executable, "-m", "fwk.cli.train", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not ran(tmp_path)


def test_a_distribution_on_the_path_is_a_plugin(tmp_path, monkeypatch):
    plant_distribution(tmp_path, tmp_path / "ran")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert "planted" in [point.name for point in discovery.installed()]


@pytest.mark.parametrize("entry", ["", "."])
def test_the_working_directory_that_python_added_is_not_searched(tmp_path, monkeypatch, entry):
    plant_distribution(tmp_path, tmp_path / "ran")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry, *sys.path])
    assert "planted" not in [point.name for point in discovery.installed()]


# -- git -------------------------------------------------------------------------------------------------------------


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "file").write_text("a")
    (folder / ".gitattributes").write_text("file filter=evil\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    return folder


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("core.fsmonitor", "touch {mark}; false"),
        ("filter.evil.clean", "touch {mark}; cat"),
        ("core.sshCommand", "touch {mark}"),
        ("core.pager", "touch {mark}"),
        ("include.path", "{folder}/more"),
    ],
)
def test_a_repository_that_names_a_program_does_not_have_it_run(tmp_path, repository, key, value):
    mark = tmp_path / "ran"
    (repository / "more").write_text(f'[core]\n\tfsmonitor = "touch {mark}; false"\n')
    git(repository, "config", key, value.format(mark=mark, folder=repository))
    mark.unlink(missing_ok=True)  # git config may have asked the monitor
    (repository / "file").write_text("b")
    revision = git_revision(repository)
    assert revision is not None and len(revision) == 41 and revision.endswith("?")
    assert not mark.exists()


def test_variables_of_git_do_not_point_elsewhere(repository, tmp_path, monkeypatch):
    clean = git_revision(repository)
    assert len(clean) == 40
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert git_revision(repository) == clean
