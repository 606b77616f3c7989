"""Code that a file names is imported only with the user's word, now or before; nothing else brings code along."""

from __future__ import annotations

import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import cache_with_index

import fwk
from fwk.cli import evaluate, export, score, train
from fwk.components import discovery, trust, working_directory
from fwk.components.entry import Entry
from fwk.config.resolve import read, resolve
from fwk.errors import PluginError, UntrustedCode
from fwk.files import private
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

    def factor(self, update, total, progress):
        return 1.0
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FWK_CACHE", cache_with_index(tmp_path / "cache"))
    monkeypatch.setattr(trust, "private_folder", private.private_folder)


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


def allow(config_file: Path) -> None:
    with trust.trusting(True):
        resolve([config_file])


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
    allow(config_file)
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


def test_neither_a_copy_of_trusted_code_nor_an_addition_to_it_is_trusted(
    tmp_path, config_file, code
):
    allow(config_file)
    assert trust.is_remembered(code)
    assert not trust.is_remembered(shutil.copytree(code, tmp_path / "copy"))
    (code / "deep").mkdir()
    (code / "deep" / "more.py").write_text("")
    assert not trust.is_remembered(code)
    shutil.rmtree(code / "deep")
    assert trust.is_remembered(code)
    (code / "__pycache__").mkdir()
    (code / "__pycache__" / "steady.cpython-311.pyc").touch()
    assert trust.is_remembered(code)
    (code / "__pycache__" / "__init__.py").write_text(f"open({str(tmp_path / 'other')!r}, 'w')\n")
    assert not trust.is_remembered(code)
    discovery.load_user_dirs([code])
    assert not (tmp_path / "other").exists()


def test_earlier_versions_of_trusted_code_stay_trusted(config_file, code):
    source = code / "steady.py"
    first = source.read_text()
    for text in (first, first + "\n"):
        source.write_text(text)
        trust.remember(code)
    source.write_text(first)
    assert trust.is_remembered(code)


def test_the_word_covers_what_is_read_inside(tmp_path, code):
    name = f"steady_{tmp_path.name}".replace("-", "_")
    (tmp_path / "config.yaml").write_text(
        f"user_dirs: [{code}]\ntask: synthetic\nschedule: {name}\n"
    )
    with trust.trusting(True), trust.trusting(False):  # as a plugin's `fwk.load(run)` in a run
        assert read(tmp_path / "config.yaml").schedule.name == name
    assert not trust._word.get()


def test_a_folder_of_too_many_files_is_not_remembered(tmp_path, config_file, code, monkeypatch):
    monkeypatch.setattr(trust, "MOST_ENTRIES", 1)
    (code / "data.txt").touch()
    allow(config_file)
    assert ran(tmp_path) and not trust.is_remembered(code)
    with pytest.raises(UntrustedCode):
        resolve([config_file])


def test_without_a_cache_the_word_is_enough_and_is_not_remembered(
    tmp_path, config_file, code, monkeypatch
):
    monkeypatch.setattr(trust, "private_folder", lambda name: None)
    with pytest.raises(UntrustedCode):
        resolve([config_file])
    allow(config_file)
    assert ran(tmp_path) and not trust.is_remembered(code)


def test_records_in_the_working_directory_are_not_believed(
    tmp_path, config_file, code, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FWK_CACHE", "unpacked")
    allow(config_file)
    assert not trust.is_remembered(code) and not (tmp_path / "unpacked").exists()


def test_a_user_without_a_home_has_no_private_folder(monkeypatch):
    monkeypatch.delenv("FWK_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert private.private_folder("index") is None


def test_code_that_is_not_allowed_does_not_keep_allowed_code_from_a_run(tmp_path, code):
    other = tmp_path / "other"
    other.mkdir()
    (other / "other.py").write_text(f"open({str(tmp_path / 'other_ran')!r}, 'w')\n")
    trust.remember(code)
    name = f"steady_{tmp_path.name}".replace("-", "_")
    (tmp_path / "config.yaml").write_text(
        f"user_dirs: [{code}, {other}, {tmp_path / 'gone'}]\ntask: synthetic\nschedule: {name}\n"
    )
    assert read(tmp_path / "config.yaml").user_dirs == (str(code),)
    assert not (tmp_path / "other_ran").exists()


@pytest.mark.parametrize(("local", "printed"), [("0", True), ("1", False)])
def test_one_rank_of_every_host_says_what_is_not_allowed(
    config_file, local, printed, monkeypatch, capsys
):
    monkeypatch.setenv("RANK", "8")
    monkeypatch.setenv("LOCAL_RANK", local)
    assert train.main(["--config", str(config_file)]) == 2
    assert ("error: rank 8: " in capsys.readouterr().err) == printed


@pytest.mark.parametrize("mode", [0o666, 0o620])
def test_a_record_that_others_could_write_is_none(config_file, code, mode):
    allow(config_file)
    folder = Path(os.environ["FWK_CACHE"]) / f"trusted-code-{os.getuid()}"
    (record,) = folder.iterdir()
    content = record.read_text()
    assert record.stat().st_mode & 0o777 == 0o600 and folder.stat().st_mode & 0o777 == 0o700
    record.chmod(mode)
    assert not trust.is_remembered(code)
    record.chmod(0o600)
    assert trust.is_remembered(code)
    folder.chmod(0o777)
    assert not trust.is_remembered(code)
    folder.chmod(0o700)
    (folder / "linked").write_text(content)
    record.unlink()
    record.symlink_to("linked")
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
    with trust.trusting(True):
        assert read(tmp_path / "config.yaml").schedule.name == name


def test_hooks_of_a_run_are_not_needed_to_use_its_model(tmp_path, config_file, code):
    with config_file.open("a") as file:
        file.write("hooks: {theirs: {}}\n")
    with pytest.raises(UntrustedCode):
        read(config_file)
    assert "theirs" not in read(config_file, needs_hooks=False).hooks
    assert not ran(tmp_path)


def test_a_run_from_elsewhere_loads_without_its_code(tmp_path, code):
    run = tmp_path / "run"
    fwk.train(tiny_config({"train": {"updates": 1}, "run": str(run)}))
    text = (run / "config.yaml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("user_dirs")]
    (run / "config.yaml").write_text("\n".join([*lines, f"user_dirs: [{code}]\n"]))
    assert fwk.load(run).update == 1 and not ran(tmp_path)
    fwk.load(run, trust=True)
    assert ran(tmp_path)


def test_a_run_of_ones_own_needs_no_word_until_its_code_changes(tmp_path, code, capsys):
    name = f"steady_{tmp_path.name}".replace("-", "_")
    run = tmp_path / "run"
    settings = {"train": {"updates": 1}, "run": str(run), "schedule": {"name": name}}
    fwk.train(tiny_config(settings, [str(code)]))
    assert fwk.load(run).config.user_dirs == (str(code),)
    shutil.copytree(run, tmp_path / "copy")
    assert fwk.load(tmp_path / "copy").update == 1
    assert fwk.train(str(run / "config.yaml"), **{"train.updates": 2}).update == 2

    with (code / "steady.py").open("a") as source:
        source.write("\n# changed\n")
    fwk.registry.remove("schedule", name)  # as in another process
    commands = [
        (evaluate, [str(run)]),
        (export, [str(run), str(tmp_path / "exported")]),
        (score, [str(run), "--text", __file__]),
        (train, ["--config", str(run / "config.yaml")]),
    ]
    for command, words in commands:
        assert command.main(words) == 2, command
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "was changed since you allowed it" in said


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
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", object())  # as under python -m
    assert "planted" not in [point.name for point in discovery.installed()]


@pytest.mark.parametrize(
    ("words", "entry", "stays"),
    [
        (["python", "-m", "fwk.cli.train", "x"], ".", False),
        (["python", "-um", "fwk.flops"], "", False),
        (["python", "-mfwk.flops"], ".", False),
        (["python", "-m", "fwk.flops"], "elsewhere", True),
        (["python", "-m", "mine.train", "fwk.flops"], ".", True),  # imports fwk as it is located
    ],
)
def test_a_module_of_fwk_leaves_the_working_directory(tmp_path, words, entry, stays, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["-m"])
    monkeypatch.setattr(sys, "orig_argv", words)
    monkeypatch.setattr(sys, "path", [entry, "/a"])
    monkeypatch.setattr(working_directory, "_left", False)
    working_directory.leave()
    assert sys.path == ([entry] if stays else []) + ["/a"]


def test_a_checkout_that_is_not_installed_runs_from_its_root(monkeypatch):
    monkeypatch.chdir(Path(fwk.__file__).parents[1])
    monkeypatch.setattr(sys, "argv", ["-m"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "fwk.flops"])
    monkeypatch.setattr(sys, "path", [os.getcwd()])
    working_directory.leave()
    assert sys.path == [os.getcwd()]


@pytest.mark.parametrize("before", [None, "0"])
def test_the_environment_of_children_is_put_back(before, monkeypatch):
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    if before is not None:
        monkeypatch.setenv("PYTHONSAFEPATH", before)
    with working_directory.kept_from_children():
        assert os.environ["PYTHONSAFEPATH"] == "1"
    assert os.environ.get("PYTHONSAFEPATH") == before


# of the standard library: imported by the process that makes an index, by processes of a pool, by everything
PLANTED = ("json", "multiprocessing", "struct")


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no safe path")
def test_no_process_of_a_command_imports_from_the_working_directory(tmp_path):
    for name in PLANTED:
        (tmp_path / f"{name}.py").write_text(
            f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\n"
        )
    (tmp_path / "text.txt").write_text("a line of text\n\n" * 200)
    bin_folder = Path(sys.executable).parent
    commands = [
        [bin_folder / "fwk-train", "--task", "synthetic", "--print-config"],  # makes an index
        [bin_folder / "fwk-preprocess", "text.txt", "--output", "store", "--processes", "2"],
    ]
    for command in commands:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert not ran(tmp_path), (tmp_path / "ran").read_text()


def test_an_index_cannot_name_a_class_that_a_module_only_imports():
    entry = Entry(
        kind="task",
        name="planted",
        module="fwk.components.index",
        qualname="subprocess.Popen",
        file="index.py",
        line=1,
        plugin="fwk",
    )
    with pytest.raises(PluginError, match="no class"):
        _ = entry.cls


def test_a_private_file_is_read_only_from_a_private_folder(tmp_path):
    file = tmp_path / "folder" / "file"
    private.write_private(file, "text")
    assert private.read_private(file) == "text"
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    file.parent.chmod(0o770)
    assert private.read_private(file) is None
    private.write_private(file, "other")
    file.parent.chmod(0o700)
    assert private.read_private(file) == "text"
    (tmp_path / "link").symlink_to(file.parent)
    assert private.read_private(tmp_path / "link" / "file") is None


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
    assert revision is not None and len(revision) == 41 and revision.endswith("+")
    assert not mark.exists()


def test_a_partial_clone_does_not_fetch_what_it_lacks(tmp_path, repository):
    mark = tmp_path / "ran"
    git(tmp_path, "init", "-q", "--bare", "other")
    for key, value in (
        ("promisor", "true"),
        ("url", str(tmp_path / "other")),
        ("uploadpack", f"touch {mark}; git-upload-pack"),
    ):
        git(repository, "config", f"remote.origin.{key}", value)
    command = ["git", "rev-parse", "HEAD^{tree}"]
    tree = subprocess.run(command, cwd=repository, check=True, capture_output=True, text=True)
    (repository / ".git" / "objects" / tree.stdout[:2] / tree.stdout[2:].strip()).unlink()
    revision = git_revision(repository)
    assert revision is not None and revision.endswith("?")
    assert not mark.exists()


def test_a_work_tree_is_asked_for_its_own_changes(tmp_path, repository):
    git(repository, "worktree", "add", "-q", str(tmp_path / "beside"))
    clean = git_revision(repository)
    (tmp_path / "beside" / "file").write_text("b")
    assert git_revision(tmp_path / "beside") == f"{clean}+"
    assert git_revision(repository) == clean


def test_variables_of_git_do_not_point_elsewhere(repository, tmp_path, monkeypatch):
    clean = git_revision(repository)
    assert len(clean) == 40
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert git_revision(repository) == clean
