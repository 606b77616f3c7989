"""Paths that a user gives: `~`, what relative paths are relative to, and a run's config.yaml in any folder."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

import pytest
from support.commands import cache_with_index

import fwk
from fwk.config.identity import to_yaml
from fwk.config.resolve import read, resolve
from fwk.config.user_paths import with_absolute_paths, with_names_of_files
from fwk.data.text import find_files
from fwk.errors import CheckpointError, ConfigError, UserError
from fwk.files import cache_folder, expand_user, user_path

TINY = {
    "task.data": "text.txt",
    "task.length": 16,
    "task.vocabulary": 64,
    "model.layers": 1,
    "model.width": 16,
    "model.heads": 1,
    "train.batch": 4,
    "train.device": "cpu",
    "train.validate_every": 0,
    "hooks": {"terminal": None, "tensorboard": None, "summary": None},
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder, and another folder that is the current one."""
    monkeypatch.setenv("FWK_CACHE", cache_with_index(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for folder in ("home", "here"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def no_entry(uid):
    raise KeyError(uid)


def task_of(*overrides, task=None):
    return resolve([], flags={"task": task} if task else {}, overrides=overrides).config.task


def test_a_tilde_is_the_home_folder_and_any_other_path_stays_as_it_is(home):
    Path("~draft").touch()  # a file, not the home of a user
    for given, expected in (
        ("~", str(home)),
        ("~/a", f"{home}/a"),
        ("a/~/b", "a/~/b"),
        ("", ""),
        ("~draft", "~draft"),
    ):
        assert expand_user(given) == expected
    assert user_path("~/a") == user_path(Path("~/a")) == home / "a"
    (home / "a.txt").touch()
    assert find_files(["~/*.txt"]) == [f"{home}/a.txt"]
    with pytest.raises(UserError, match=r"^~nobody\.at\.all/x: no home folder is known"):
        expand_user("~nobody.at.all/x")


def test_a_user_without_home_is_told_what_to_set(home, monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("FWK_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    with pytest.raises(UserError, match=r"HOME is not set.*set FWK_CACHE"):
        cache_folder()
    with pytest.raises(ConfigError, match=r"^task\.data: ~/t\.txt: no home .*set HOME.*task\.data"):
        resolve(overrides=["task.data=~/t.txt"])
    monkeypatch.setenv("FWK_CACHE", str(home))
    assert cache_folder() == home


def test_a_tilde_is_replaced_in_every_option_that_holds_paths(home):
    assert resolve(flags={"run": "~/r"}).config.run == f"{home}/r"
    values = task_of(
        "task.data={a: ~/a, b: {path: [~/b, c], weight: 2}}", "task.valid=[~/v]"
    ).values
    assert values["data"] == {"a": f"{home}/a", "b": {"path": [f"{home}/b", "c"], "weight": 2}}
    assert values["valid"] == (f"{home}/v",)
    assert task_of("task.tokenizer=~/t").values["tokenizer"] == f"{home}/t"
    sets = "task.data={pos: {path: ~/p, valid: ~/v, test: ~/t, labels: {pos: upos}}}"
    values = task_of(sets, "task.vectors=~/w", "task.unlabelled=[~/u]", task="sentences").values
    read_from = values["data"]["pos"]
    assert [read_from[key] for key in ("path", "valid", "test")] == [f"{home}/{x}" for x in "pvt"]
    assert read_from["labels"] == {"pos": "upos"}
    assert (values["vectors"], values["unlabelled"]) == (f"{home}/w", (f"{home}/u",))
    (home / "base.yaml").write_text("seed: 7")
    Path("config.yaml").write_text("extends: ~/base.yaml")
    assert read("config.yaml").seed == resolve(["~/base.yaml"]).config.seed == 7


def test_an_option_of_a_noiser_may_hold_paths_too(home):
    (home / "n.py").write_text(
        "from dataclasses import dataclass\n"
        "from fwk import Noiser, option, register\n\n\n"
        '@register("noiser", "listed_for_a_test")\n'
        "class Listed(Noiser):\n"
        "    @dataclass(frozen=True, kw_only=True)\n"
        "    class Config:\n"
        '        words: str = option("", "a list of words", paths=())\n\n'
        "    def apply(self, view, key):\n        return view\n"
    )
    masked = {"noiser": "listed_for_a_test"}
    for words, expected in (("~/w", f"{home}/w"), ("w", f"{os.getcwd()}/w")):
        layer = ("given", {"views": {"masked": {**masked, "words": words}}})
        config = resolve(layers=[layer], user_dirs=["~/n.py"]).config
        assert with_absolute_paths(config).views_by_name["masked"].component.values == {
            "words": expected
        }


def test_absolute_paths_mean_the_same_files(home, monkeypatch):
    folder = home / "[draft]"
    (folder / "bpe").mkdir(parents=True)
    for name in ("a.txt", "b.txt"):
        (folder / name).touch()
    monkeypatch.chdir(folder)
    config = resolve(overrides=["task.data=['*.txt', a.txt]", "task.tokenizer=bpe", "run=r"]).config
    absolute = with_absolute_paths(config)
    values = absolute.task.values
    assert values["tokenizer"] == "bpe"  # the kind, although a folder has that name
    assert absolute.run == f"{folder}/r" and values["data"][1] == f"{folder}/a.txt"
    expected = [f"{folder}/{name}" for name in os.listdir(folder) if name.endswith(".txt")]
    monkeypatch.chdir(home)
    assert sorted(find_files(values["data"])) == sorted(expected)
    assert with_absolute_paths(absolute) == absolute
    published = with_names_of_files(absolute)
    assert published.task.values["data"][1] == "a.txt" and str(home) not in to_yaml(published)


def test_a_run_goes_on_from_its_config_in_any_folder_and_after_it_was_moved(home, monkeypatch):
    words = ["cat", "dog", "mat", "sun"]
    sentences = [f"the {a} saw the {b} and {i}" for i, a in enumerate(words) for b in words]
    Path("text.txt").write_text("\n\n".join(sentences))
    run = fwk.train(run="run", **TINY, **{"train.updates": 1}).folder.resolve()
    stored = (run / "config.yaml").read_text()
    assert f"run: {run}\n" in stored and f"data: {Path('text.txt').resolve()}\n" in stored

    monkeypatch.chdir(home)
    again = fwk.train(run / "config.yaml", **{"train.updates": 2})
    assert (again.folder, again.update) == (run, 2) and not list(home.iterdir())
    moved = shutil.copytree(run, home / "moved", symlinks=True)
    assert fwk.train("moved/config.yaml", **{"train.updates": 3}).folder == moved
    assert fwk.train(run / "config.yaml").update == 2

    (home / "other.yaml").write_text(f"extends: {run}/config.yaml\nseed: 3\n")
    assert read("other.yaml").run is None  # another run
    monkeypatch.chdir(home.parent / "here")
    relative = stored.replace(str(run), "run").replace(str(run.parent / "text.txt"), "text.txt")
    (run / "config.yaml").write_text(relative)  # as earlier versions wrote it
    assert fwk.train(run="run", **TINY, **{"train.updates": 3}).update == 3
    with pytest.raises(CheckpointError, match=r"task\.data was /.*/text\.txt, is now /.*/no\.txt"):
        fwk.train(run="run", **{**TINY, "task.data": "no.txt"})


def test_a_project_that_was_moved_with_its_data_goes_on(home, monkeypatch):
    Path("text.txt").write_text("\n\n".join(f"the cat saw the dog and {n}" for n in range(16)))
    run = fwk.train(run="runs/a", **TINY, **{"train.updates": 1}).folder.resolve()
    project = run.parents[1]
    shutil.copytree(project, home / "project", symlinks=True)
    monkeypatch.chdir(home / "project")
    again = fwk.train(run="runs/a", **TINY, **{"train.updates": 2})
    assert again.update == 2 and again.folder.resolve() == home / "project" / "runs" / "a"
    shutil.copy("text.txt", "copy.txt")
    with pytest.raises(CheckpointError, match=r"task\.data was .*text\.txt, is now .*copy\.txt"):
        fwk.train(run="runs/a", **{**TINY, "task.data": "copy.txt"}, **{"train.updates": 3})
