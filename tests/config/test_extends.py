"""Config files that extend another one, and that those under configs/ state only what differs from their base."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.paths import ROOT

from fwk.components.trust import trusting
from fwk.config import yaml_text
from fwk.config.extending import read_with_bases
from fwk.config.identity import to_yaml
from fwk.config.paths import dotted, leaves_with_whole_lists
from fwk.config.resolve import from_python, read, resolve
from fwk.errors import ConfigError

CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
EXTENDING = [path for path in CONFIGS if "extends" in yaml_text.read(path).values]

# files of each kind; another test of the fast tier resolves all of papers/
SAMPLE = (
    "bam_",
    "lm_bff_rte",
    "fine_tuning/electra_squad",
    "coco_lm_mnli",
    "electra_rte",
    "cvt_multi",
)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return name

    return write


def test_a_file_changes_some_values_of_the_file_that_it_extends(write):
    write("base.yaml", "task: synthetic\ntrain: {batch: 8, clip: 0.5}\n")
    file = write("ablation.yaml", "extends: base.yaml\ntrain: {clip: 0.0}\n")
    config = read(file)
    assert (config.task.name, config.train.batch, config.train.clip) == ("synthetic", 8, 0.0)
    assert from_python(file) == config


def test_the_base_is_found_relative_to_the_file_and_may_extend_another(write):
    write("shared/first.yaml", "train: {batch: 8, updates: 10, clip: 0.5}\n")
    write("shared/second.yaml", "extends: first.yaml\ntrain: {updates: 20, clip: 0.25}\n")
    file = write("runs/third.yaml", "extends: ../shared/second.yaml\ntrain: {clip: 0.0}\n")
    train = read(file).train
    assert (train.batch, train.updates, train.clip) == (8, 20, 0.0)
    assert [Path(layer.name).stem for layer in read_with_bases(file)] == [
        "first",
        "second",
        "third",
    ]


def test_extends_may_stand_anywhere_in_the_file_and_the_file_wins(write):
    write("base.yaml", "train: {batch: 8}\n")
    assert read(write("late.yaml", "train: {batch: 4}\nextends: base.yaml\n")).train.batch == 4


def test_naming_another_component_drops_the_options_of_the_base(write):
    write("base.yaml", "optimizer: {name: adamw, betas: [0.5, 0.6], lr: 0.7}\n")
    file = write("sgd.yaml", "extends: base.yaml\noptimizer: {name: sgd}\n")
    assert read(file).optimizer.values["lr"] != 0.7


def test_null_removes_a_criterion_of_the_base(write):
    write("base.yaml", "criterion: {masked_lm: {}, semantic_augment: {}}\n")
    file = write("one.yaml", "extends: base.yaml\ncriterion: {semantic_augment: null}\n")
    assert list(read(file).criterion) == ["masked_lm"]


def test_the_origin_of_each_value_is_its_own_file_and_line(write):
    write("base.yaml", "task: synthetic\ntrain:\n  batch: 8\n  clip: 0.5\n")
    resolved = resolve([write("ablation.yaml", "extends: base.yaml\ntrain: {clip: 0.0}\n")])
    assert resolved.provenance["train.batch"] == "base.yaml:3"
    assert resolved.provenance["train.clip"] == "ablation.yaml:2"


def test_the_written_config_is_whole(write):
    write("base.yaml", "train: {batch: 8}\n")
    text = to_yaml(read(write("ablation.yaml", "extends: base.yaml\n")))
    assert "extends" not in text and "batch: 8" in text


def test_user_directories_of_both_files_are_loaded_unless_others_are_given(write, tmp_path):
    for name in ("a", "b", "c"):
        write(f"{name}/thing.py", "")
    write("base.yaml", "user_dirs: [a]\n")
    file = write("ablation.yaml", "extends: base.yaml\nuser_dirs: [b]\n")
    with trusting(True):
        assert [Path(folder).name for folder in read(file).user_dirs] == ["a", "b"]
    assert [Path(folder).name for folder in read(file, user_dirs=["c"]).user_dirs] == ["c"]


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ("bsae.yaml", r"ablation.yaml extends bsae.yaml, which does not exist. Did you mean 'base"),
        ("sub/base.yaml", r"ablation.yaml:1: ablation.yaml extends sub/base.yaml, which does not"),
        ("folder", r"ablation.yaml extends folder, which is a folder; expected a file"),
        (
            "[base.yaml]",
            r"ablation.yaml:1: expected the name of the config file that ablation.yaml",
        ),
        ("3", r"expected the name of the config file that ablation.yaml extends, got 3"),
        ("null", r"expected the name of the config file that ablation.yaml extends, got null"),
        ("ablation.yaml", r"in a circle: ablation.yaml extends ablation.yaml"),
        ("other.yaml", r"circle: ablation.yaml extends other.yaml extends ablation.yaml"),
        ('"a\\0b"', r"ablation.yaml extends 'a.x00b', which cannot be read"),
        ("x" * 5000, r"ablation.yaml extends 'xxx.*, which cannot be read .*too long"),
        ("broken.yaml/x", r"ablation.yaml extends .*broken.yaml/x', which cannot be read"),
        ("broken.yaml", r"broken.yaml:1: not valid YAML"),
    ],
)
def test_a_base_that_cannot_be_read_is_one_sentence(write, tmp_path, extends, message):
    (tmp_path / "folder").mkdir()
    write("base.yaml", "train: {batch: 8}\n")
    write("broken.yaml", "train: [")
    write("other.yaml", "extends: ablation.yaml\n")
    with pytest.raises(ConfigError, match=message) as caught:
        read(write("ablation.yaml", f"extends: {extends}\n"))
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_base_of_a_base_names_both_files(write):
    write("middle.yaml", "extends: gone.yaml\n")
    with pytest.raises(ConfigError, match=r"middle.yaml:1: middle.yaml extends gone.yaml"):
        read(write("top.yaml", "extends: middle.yaml\n"))


def test_only_a_file_extends_another():
    with pytest.raises(ConfigError, match="extends: only a config file extends another one"):
        resolve(overrides=["extends=base.yaml"])


# ---- the files of this project ----


def resolved(path: Path):
    """The file's config; what it leaves to the user is a token store, or a set that no file names."""
    task: dict[str, object] = {}
    for layer in read_with_bases(path):
        values = layer.values.get("task") or {}
        task |= {"name": values} if isinstance(values, str) else values
    overrides = ["task.data=store"] if task.get("data") == "???" else []
    if task.get("name") == "glue" and "set" not in task:
        overrides.append("task.set=wnli")
    with trusting(True):  # one of them names an example of this repository
        return resolve([path], overrides=overrides)


@pytest.mark.parametrize("path", CONFIGS, ids=relative)
@pytest.mark.mostly_slow(*SAMPLE)
def test_every_file_resolves(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert resolved(path).config


def test_ablations_extend_their_base():
    assert len(EXTENDING) >= 30


@pytest.mark.parametrize("path", EXTENDING, ids=relative)
@pytest.mark.mostly_slow(*SAMPLE)
def test_a_file_states_only_what_differs_from_its_base(path):
    values = dict(yaml_text.read(path).values)
    base = resolved(path.parent / values.pop("extends"))
    stated = dict(leaves_with_whole_lists(base.config.to_mapping()))

    def renamed(key: tuple[str, ...]) -> bool:
        """Whether the file names another component there, so that its options begin anew."""
        names = [(*key[:end], word) for end in (1, 2) for word in ("name", "noiser")]
        mine = dict(leaves_with_whole_lists(values))
        return any(name in mine and mine[name] != stated.get(name) for name in names)

    restated = [
        dotted(key)
        for key, value in leaves_with_whole_lists(values)
        if key in stated
        and stated[key] == value
        and base.provenance.get(dotted(key)) != "default"
        and not renamed(key)
    ]
    removed = [dotted(key) for key, value in leaves_with_whole_lists(values) if value is None]
    tables = base.config.to_mapping()
    needless = [key for key in removed if key.split(".")[1] not in tables[key.split(".")[0]]]
    assert not restated and not needless
