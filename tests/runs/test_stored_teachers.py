"""Runs that learn from the stored outputs of another: matched by example, and refused where they are of other data."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from support.cases import TABLE, WINDOWS, config_of

from fwk.contracts.texts import teacher_label
from fwk.data.targets import pack_targets, read_targets
from fwk.errors import ConfigError, DataError, UserError
from fwk.runs.evaluating import evaluate_run
from fwk.testing import stopped_at, train_briefly, trainer_of

NAME = "classification"
OTHERS = ("multilabel", "multiple_choice", "similarity", "verbalizer", "regression", "answer_span")
ROWS = [json.loads(line) for line in Path(TABLE).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function of the name of a case: a file of what a briefly trained run computes for its examples."""
    folder = tmp_path_factory.mktemp("teachers")

    @cache
    def file_of(name: str) -> Path:
        train_briefly(config_of(name), folder / name, 2)
        evaluate_run(folder / name, "train", targets=folder / f"{name}.targets")
        return folder / f"{name}.targets"

    return file_of


def student(name: str, teacher: Path, **task: object):
    criterion = {name: {"gold": task.pop("gold")}} if "gold" in task else {}
    changes = {"task": {"teacher": str(teacher), **task}, "criterion": criterion}
    return config_of(name, changes)


def batch_of(name: str, teacher: Path, **task: object):
    """Return the first training batch of a student, and its examples' keys."""
    with trainer_of(student(name, teacher, **task)) as trainer:
        opened = trainer.run.task
        (source,) = opened.sources("train").values()
        size = len(source)
        zero = torch.zeros(size, dtype=torch.int64).numpy()
        batch = opened.collate([source[n] for n in range(size)], torch.arange(size).numpy(), zero)
        (name,) = opened.sources("train")
        return batch, opened.example_keys("train", name)


@pytest.mark.parametrize("changes", [{}, {"fraction": 0.5}, {"per_class": 2}, {"vocabulary": 90}])
def test_each_example_has_the_outputs_of_its_key(
    changes: dict, teachers: Callable[[str], Path]
) -> None:
    stored = read_targets(teachers(NAME))
    logits = dict(zip(map(str, range(40)), stored.tensors["examples"]["label"], strict=True))
    batch, keys = batch_of(NAME, teachers(NAME), **changes)
    expected = torch.stack([logits[key] for key in keys])
    assert torch.equal(batch.labels[teacher_label("label")], expected)


@pytest.mark.parametrize(
    "name", [NAME, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_all_of_the_label_is_supervised_training_and_none_of_it_is_not(
    name: str, teachers: Callable[[str], Path], tmp_path: Path
) -> None:
    plain = train_briefly(config_of(name), tmp_path / "plain", 3)
    label = train_briefly(student(name, teachers(name), gold=1.0), tmp_path / "label", 3)
    teacher = train_briefly(student(name, teachers(name), gold=0.0), tmp_path / "teacher", 3)
    assert all(torch.equal(plain[key], value) for key, value in label.items())
    assert any(not torch.equal(plain[key], value) for key, value in teacher.items())


def test_a_resumed_student_continues_with_the_same_share(
    teachers: Callable[[str], Path], tmp_path: Path
) -> None:
    config = student(NAME, teachers(NAME))
    whole = train_briefly(config, tmp_path / "whole", 4)
    with stopped_at(2):
        train_briefly(config, tmp_path / "resumed", 4)
    resumed = train_briefly(config, tmp_path / "resumed", 4)
    assert all(torch.equal(whole[name], value) for name, value in resumed.items())


def test_a_pure_student_learns_what_its_teacher_says(
    teachers: Callable[[str], Path], tmp_path: Path
) -> None:
    stored = read_targets(teachers(NAME))
    logits = stored.tensors["examples"]["label"]
    answers = torch.nn.functional.one_hot(torch.arange(40) % logits.shape[1], logits.shape[1])
    path = tmp_path / "certain.targets"
    rewrite(teachers(NAME), path, lambda tensors: {**tensors, "examples/label": 50.0 * answers})
    config = student(NAME, path, gold=0.0)
    with trainer_of(config) as trainer:
        # whatever the labels are, the target is the class that the teacher is certain of
        taught = trainer.run.task.sources("train")["examples"].taught["label"]
    assert taught.argmax(-1).tolist() == answers.argmax(-1).tolist()


def rewrite(path: Path, to: Path, change: Callable[[dict], dict], **origin: object) -> None:
    """Write a file of targets with other tensors or another origin."""
    stored = read_targets(path)
    metadata = {
        "format": "fwk targets 2",
        "origin": json.dumps({**stored.origin, **origin}),
    }
    tensors = {
        name: value.float() if "keys" not in name else value
        for name, value in change(load(path.read_bytes())).items()
    }
    to.write_bytes(save(tensors, metadata))


def first_rows(count: int) -> Callable[[dict], dict]:
    return lambda tensors: {name: value[:count].clone() for name, value in tensors.items()}


def with_nan(tensors: dict) -> dict:
    values = tensors["examples/label"].clone()
    values[7, 0] = torch.nan
    return {**tensors, "examples/label": values}


LABELS = {"label": {"kind": "class", "values": ["black", "blue", "green", "red"]}}


@pytest.mark.parametrize(
    ("change", "origin", "message"),
    [
        (first_rows(39), {}, "has no outputs for the example '39'"),
        (with_nan, {}, "has NaN for the example '7'"),
        (dict, {"labels": LABELS}, "is of 4 classes (black, blue, green, red), and the label 'label' has 4"),
        (dict, {"labels": {"label": {"kind": "choice", "values": []}}}, "of the kind 'choice'"),
        (dict, {"labels": {}}, "does not say what the label 'label' is"),
        (
            lambda tensors: {**tensors, "examples/label": tensors["examples/label"][:, :2].clone()},
            {},
            "has outputs of the shape [2] for each example",
        ),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused_in_one_sentence(
    change: Callable[[dict], dict],
    origin: dict,
    message: str,
    teachers: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    path = tmp_path / "other.targets"
    rewrite(teachers(NAME), path, change, **origin)
    with (
        pytest.raises(DataError, match=re.escape(message)) as refused,
        trainer_of(student(NAME, path)),
    ):
        pass
    assert "\n" not in str(refused.value) and str(refused.value).startswith("task.teacher: ")


@pytest.mark.parametrize("column", ["question", "colour"])
def test_other_texts_or_labels_are_refused(
    column: str, teachers: Callable[[str], Path], tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    rows = [dict(row) for row in ROWS]
    rows[5][column] = next(row[column] for row in ROWS if row[column] != ROWS[5][column])
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(DataError, match="the example '5' has other texts or another label"):
        with trainer_of(student(NAME, teachers(NAME), data=str(data))):
            pass


def test_classes_come_in_the_order_of_the_student(teachers: Callable[[str], Path]) -> None:
    stored = read_targets(teachers(NAME))
    names = stored.origin["labels"]["label"]["values"]
    batch, _ = batch_of(NAME, teachers(NAME), classes=names[::-1])
    logits = stored.tensors["examples"]["label"]
    assert torch.equal(batch.labels[teacher_label("label")], logits.flip(1))


def test_a_missing_file_an_old_one_and_a_criterion_that_does_not_learn_are_refused(
    teachers: Callable[[str], Path], tmp_path: Path
) -> None:
    with (
        pytest.raises(ConfigError, match="there is no file"),
        trainer_of(student(NAME, tmp_path / "none")),
    ):
        pass
    stored = read_targets(teachers(NAME))
    unknown = tmp_path / "unknown.targets"
    labels = {"label": dict(enumerate(stored.tensors["examples"]["label"]))}
    keys = {"examples": list(map(str, range(40)))}
    unknown.write_bytes(pack_targets({"examples": labels}, keys, stored.origin))
    with (
        pytest.raises(DataError, match="does not say which texts"),
        trainer_of(student(NAME, unknown)),
    ):
        pass
    config = config_of(
        "classification",
        {
            "task": {"teacher": str(teachers(NAME))},
            "criterion": {"classification": None, "masked_lm": {}},
        },
    )
    with pytest.raises(UserError, match="no criterion learns from them"), trainer_of(config):
        pass


def test_windows_of_answers_are_matched_in_their_order(tmp_path: Path) -> None:
    windows = {**WINDOWS, "criterion": {"answer_span": {"dropout": 0.0}}}
    config = config_of("answer_span", windows)
    train_briefly(config, tmp_path / "run", 2)
    path = tmp_path / "file.targets"
    evaluate_run(tmp_path / "run", "train", targets=path)
    changed = config_of(
        "answer_span", {**windows, "task": {**windows["task"], "teacher": str(path)}}
    )
    with trainer_of(changed) as trainer:
        source = trainer.run.task.sources("train")["examples"]
        taught, windows_of = source.taught["label"], source.windows
        sizes = windows_of.stops - windows_of.starts
        assert (torch.from_numpy(taught[:, 1:, 0]).isfinite().sum(1).numpy() == sizes).all()
    other = {**windows["task"], "teacher": str(path), "length": 24}
    with pytest.raises(DataError, match="windows of the example|tokens for the example"):
        with trainer_of(config_of("answer_span", {**windows, "task": other})):
            pass


def test_a_run_of_several_tasks_teaches_each_of_them(tmp_path: Path) -> None:
    name, path = "several tasks in a batch", tmp_path / "all.targets"
    train_briefly(config_of(name), tmp_path / "run", 2)
    evaluate_run(tmp_path / "run", "train", targets=path)
    stored = read_targets(path)
    tasks = {task: {"teacher": str(path)} for task in config_of(name).task.values["tasks"]}
    with trainer_of(config_of(name, {"task": {"tasks": tasks}})) as trainer:
        for task, opened in trainer.run.task.parts().items():
            (source,) = opened.sources("train").values()
            (values,) = stored.tensors[task].values()
            (taught,) = source.taught.values()
            assert torch.equal(torch.from_numpy(taught), values)
