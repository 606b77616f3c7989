"""`needs:`: which runs a config needs, as files, mappings, patterns and overrides state them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fwk.config import yaml_text
from fwk.config.chain import depends_on, mentions
from fwk.config.identity import identity
from fwk.config.resolve import from_mapping, resolve
from fwk.errors import ConfigError, UntrustedCode

TINY = {"task": {"name": "synthetic"}, "model": {"layers": 1, "width": 16, "heads": 2}}


def resolved(needs: dict, *overrides: str, **others):
    config = {"run": "out/main", **TINY, "needs": needs, **others}
    return resolve(layers=[("test", config)], overrides=overrides).config


def names(config) -> list[str]:
    return [needed.name for needed in config.needs.runs]


def by_name(config) -> dict:
    return {needed.name: needed for needed in config.needs.runs}


def test_a_needed_run_is_made_beside_the_run_and_values_refer_to_it():
    config = resolved({"first": {**TINY, "targets": "train"}}, "model.from=${needs.first.run}")
    (first,) = config.needs.runs
    assert (first.run, first.targets) == ("out/first", "out/first/train.targets")
    assert config.weights_from() == {"model": "out/first"}
    assert first.config.run == "out/first" and first.config.model.values["width"] == 16


def test_without_a_folder_of_its_own_the_run_needs_others_in_runs():
    config = resolve(layers=[("test", {"needs": {"first": TINY}})]).config
    assert config.needs.runs[0].run == "runs/first"


def test_a_file_is_relative_to_the_file_that_names_it_and_later_values_win(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/first.yaml").write_text("run: out/elsewhere\nseed: 2\ntrain: {batch: 8}\n")
    (tmp_path / "inner/base.yaml").write_text("needs: {first: {config: first.yaml, seed: 3}}\n")
    (tmp_path / "main.yaml").write_text("extends: inner/base.yaml\nneeds: {first: {seed: 4}}\n")
    config = resolve([tmp_path / "main.yaml"], overrides=["needs.first.optimizer.lr=0.5"]).config
    first = config.needs.runs[0]
    assert (first.run, first.config.seed, first.config.train.batch) == ("out/elsewhere", 4, 8)
    assert first.config.optimizer.values["lr"] == 0.5


def test_a_pattern_gives_a_run_per_combination_and_members_may_differ():
    over = {"task": ["mlm", "synthetic"], "seed": [1, 2]}
    entry = {"over": over, "task": "{task}", "seed": "{seed}", "run": "out/{task}/{seed}"}
    config = resolved({"t_{task}_{seed}": entry}, "needs.t_mlm_2.train.batch=6")
    known = by_name(config)
    assert list(known) == ["t_mlm_1", "t_mlm_2", "t_synthetic_1", "t_synthetic_2"]
    assert known["t_mlm_2"].run == "out/mlm/2" and known["t_mlm_2"].config.seed == 2
    assert known["t_mlm_2"].config.train.batch == 6 and known["t_mlm_1"].config.train.batch == 32


def test_braces_that_are_no_placeholders_stay():
    entry = {"over": ["a"], "task": {"name": "examples", "data": "x.tsv", "texts": ["t"]}}
    entry["task"] |= {"label": "{task}", "templates": {"first": "{t} is [MASK], {task}"}}
    task = resolved({"{task}": entry}).needs.runs[0].config.task
    assert (task.values["label"], task.values["templates"]["first"]) == ("a", "{t} is [MASK], a")


def test_null_removes_a_needed_run():
    assert names(resolved({"a": TINY, "b": TINY}, "needs.a=null")) == ["b"]


def test_siblings_and_nested_runs_depend_on_what_their_values_lead_to():
    nested = {**TINY, "needs": {"deep": TINY}, "networks": {"n": {"from": "${needs.deep.run}"}}}
    config = resolved(
        {
            "student": {**TINY, "model": {"from": "${needs.teacher.run}/checkpoints/best"}},
            "teacher": nested,
            "other": TINY,
        },
        "model.from=${needs.student.run}",
    )
    known, runs = by_name(config), config.needs.runs
    needed = {name: [n.name for n in depends_on(known[name].config, runs)] for name in known}
    assert needed == {"student": ["teacher"], "teacher": ["deep"], "deep": [], "other": []}
    # `other` is read by nobody, so the run itself is what needs it
    assert [n.name for n in depends_on(config, runs)] == ["student", "other"]


def test_a_path_that_is_written_for_each_of_several_tasks_leads_to_each_of_their_runs():
    every = {"name": "examples", "data": "{task}.tsv", "texts": ["a"], "label": "label"}
    every["teacher"] = "out/teacher_{task}/train.targets"
    tasks = {"{task}": every, "rte": {}, "mrpc": {}}
    entry = {**TINY, "over": ["rte", "mrpc"], "targets": "train"}
    config = resolved({"teacher_{task}": entry}, task={"name": "several", "tasks": tasks})
    found = mentions(config, config.needs.runs)
    assert {m.path for m in found} == {needed.targets for needed in config.needs.runs}


def test_the_same_run_asked_for_twice_is_one_run():
    needs = {"deep": TINY}
    config = resolved({"a": {**TINY, "needs": needs}, "b": {**TINY, "needs": needs}})
    assert names(config) == ["deep", "a", "b"]


def test_what_a_needed_run_states_says_the_same_without_the_chain():
    entry = {
        "seed": 5,
        "criterion": "masked_lm",
        "hooks": {"terminal": None},
        "train": {"batch": 8},
    }
    entry["optimizer"] = {"lr": "${train.batch}"}
    config = resolved({"a": TINY, "b": {**entry, "model": {"from": "${needs.a.run}"}}})
    b = by_name(config)["b"]
    assert "train" in b.stated and "updates" not in b.stated["train"]
    assert from_mapping(dict(b.stated)) == b.config


def test_the_printed_form_is_the_same_chain(tmp_path):
    config = resolved({"a": TINY, "b": {**TINY, "model": {"from": "${needs.a.run}"}}})
    file = tmp_path / "printed.yaml"
    file.write_text(yaml_text.dump({**config.to_mapping(), **config.needs.to_mapping()}))
    again = resolve([file]).config
    assert [n.config for n in again.needs.runs] == [n.config for n in config.needs.runs]
    assert depends_on(by_name(again)["b"].config, again.needs.runs)


def test_needed_runs_are_no_part_of_the_identity_of_a_run():
    assert identity(resolved({"a": TINY})) == identity(resolved({}))
    assert "needs" not in resolved({"a": TINY}).to_mapping()


WRONG = {
    "misspelt key": ({"a": {"modle": "bert"}}, (), "needs.a.modle: .*Did you mean 'model'"),
    "misspelt option": ({"a": {"model": {"widht": 8}}}, (), r"needs.a.model.widht: .*'width'"),
    "misspelt name": ({"a": {"model": "brt"}}, (), "needs.a: Unknown model 'brt'.*'bert'"),
    "wrong type": ({"a": {"seed": "x"}}, (), "needs.a.seed: expected a whole number"),
    "no mapping": ({"a": "runs/a"}, (), "needs.a: expected a mapping"),
    "no such file": ({"a": {"config": "no.yaml"}}, (), "needs.a.config: there is no file"),
    "no such run": (
        {"a": {}},
        ("model.from=${needs.b.run}",),
        "names no key .*Did you mean 'needs.a",
    ),
    "no targets": ({"a": {}}, ("task.valid=${needs.a.targets}",), "add needs.a.targets=train"),
    "pattern": ({"a_{x}": {}}, (), "needs.a_{x}: a pattern needs the values"),
    "no pattern": ({"a": {"over": [1]}}, (), "needs.a.over: belongs to a name with {...}"),
    "wrong pattern": ({"a_{x}": {"over": {"y": [1]}}}, (), r"expected {x: \[...\]}"),
    "empty pattern": ({"a_{x}": {"over": []}}, (), "needs.a_{x}.over.x: expected a list"),
    "name twice": (
        {"a_{x}": {"over": [1]}, "{y}_1": {"over": ["a"]}},
        (),
        "needs.a_1: 'a_{x}' and '{y}_1' both name",
    ),
    "bad label": ({"a_{x}": {"over": ["b/c"]}}, (), "needs.a_b/c: a label is made of"),
    "interpolated folder": ({"a": {"run": "out/${seed}"}}, (), "needs.a.run: cannot be an interp"),
    "circle of siblings": (
        {"a": {"model": {"from": "${needs.b.run}"}}, "b": {"model": {"from": "${needs.a.run}"}}},
        (),
        "circle: a needs b needs a",
    ),
    "circle through the run": ({"a": {"needs": {"main": TINY}}}, (), "out/main needs out/a needs"),
    "two runs in one folder": (
        {"a": {"run": "out/x", "seed": 1}, "b": {"run": "out/x", "seed": 2}},
        (),
        "needs.b.run: out/x is the folder of two different runs .seed is 1 for a and 2 for b",
    ),
    "parallel": ({}, ("runs.parallel=0",), "runs.parallel: must be at least 1"),
    "misspelt parallel": ({}, ("runs.paralel=1",), "runs.paralel: .*Did you mean 'parallel'"),
}


@pytest.mark.parametrize(("needs", "overrides", "message"), WRONG.values(), ids=WRONG)
def test_wrong_needs_are_refused_with_the_key(needs, overrides, message):
    with pytest.raises(ConfigError, match=message):
        resolved(needs, *overrides)


def test_files_that_need_each_other_are_a_circle(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        text = f"run: out/{name}\nneeds: {{{other}: {{config: {other}.yaml}}}}\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(ConfigError, match="circle: out/a needs out/b needs out/a"):
        resolve([tmp_path / "a.yaml"])


def test_code_that_a_needed_run_names_needs_the_users_word(tmp_path):
    code = tmp_path / "code"
    code.mkdir()
    (code / "mine.py").write_text("raise AssertionError('imported')\n")
    (tmp_path / "inner.yaml").write_text(f"user_dirs: [{code}]\n")
    (tmp_path / "main.yaml").write_text("needs: {a: {config: inner.yaml}}\n")
    with pytest.raises(UntrustedCode, match="you have not allowed"):
        resolve([tmp_path / "main.yaml"])


def test_user_directories_of_the_run_are_those_of_needed_runs_too(tmp_path):
    code = tmp_path / "code"
    code.mkdir()
    (code / "nothing_in_it.py").write_text("")
    config = resolve(layers=[("test", {"needs": {"a": TINY}})], user_dirs=[code]).config
    assert config.needs.runs[0].config.user_dirs == config.user_dirs == (str(code),)
    assert config.needs.runs[0].stated["user_dirs"] == [str(code)]


@pytest.mark.slow  # a process of its own
def test_a_chain_is_checked_without_torch(tmp_path):
    file = Path(tmp_path, "main.yaml")
    file.write_text("needs: {a: {train: {batch: 4}}}\nmodel: {from: '${needs.a.run}'}\n")
    code = (
        "import sys; from fwk.config.resolve import resolve; "
        f"resolve([{str(file)!r}]); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0


def test_values_that_are_the_same_are_those_of_the_run_that_needs_them():
    entry = {"same": ["task.length", "seed", "train.updates"]}
    needs = {
        "a": {**TINY, **entry, "train": {"batch": 4}},
        "b": {**TINY, "same": ["seed", "train.batch"]},
    }
    own = {"task": {"name": "mlm", "length": 24}, "seed": 7, "train": {"batch": 8}, "needs": needs}
    a, b = (run.config for run in resolve(layers=[("test", own)]).config.needs.runs)
    assert (a.task.values["length"], a.seed, a.train.batch) == (24, 7, 4)
    assert (b.seed, b.train.batch) == (7, 8)  # of this run, not of 'a'
    assert a.train.updates == 600  # the default, because this run does not state it
