"""Tests of `fwk-evaluate`, `fwk.load` and copies of a model: metrics equal those of training, and no file is lost."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from support.cases import CASES, SENTENCES, TREEBANK

import fwk
from fwk.cli.evaluate import main as evaluate_command
from fwk.data.preprocess import Options, build_store
from fwk.engine.saving.checkpoint import find_checkpoint
from fwk.errors import CheckpointError, DataError, UserError
from fwk.files import write_atomically
from fwk.runs import start
from fwk.runs.loaded import KEPT_STATE
from fwk.testing import merge_settings, tiny_config

RISING = {"from": 0.0, "to": 3.0}


def evaluated(capsys, *arguments) -> tuple[int, str, str]:
    status = evaluate_command([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return status, said.out, said.err


def metrics(capsys, *arguments) -> dict[str, float]:
    status, out, err = evaluated(capsys, *arguments)
    assert status == 0, err
    return json.loads(out)["metrics"]


def train(folder: Path, case: dict, **changes) -> dict[str, float]:
    """Train as the case describes and return the metrics of the last evaluation."""
    settings = merge_settings(
        merge_settings(case, {"train": {"precision": "fp32", "updates": None}}), changes
    )
    return start.train(tiny_config({**settings, "run": str(folder)})).metrics["valid"]


@pytest.fixture(scope="module")
def tagger(tmp_path_factory) -> Path:
    """A run of a tagger and parser with averaged weights, evaluated with the averages."""
    folder = tmp_path_factory.mktemp("tagger") / "run"
    train(
        folder,
        CASES["tagger and parser that are imitated"],
        train={"updates": 6, "ema": 0.5, "evaluate_average": True},
    )
    return folder


# -- the same numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits", [{"updates": 5}, {"tokens": 1500}, {"epochs": 0.6}, {"tokens": 1500, "epochs": 100}]
)
@pytest.mark.parametrize("batch", [None, 5])
@pytest.mark.slow
def test_the_loss_is_that_at_the_same_point_of_the_weights_schedule(
    limits, batch, tmp_path, capsys
):
    case = {"criterion": {"semantic_augment": {"weight": RISING}}}
    recorded = train(tmp_path / "run", case, train=limits)
    evaluated_metrics = metrics(
        capsys, tmp_path / "run", *([f"train.batch={batch}"] if batch else [])
    )
    assert evaluated_metrics == pytest.approx(recorded, rel=1e-5)
    plain = metrics(capsys, tmp_path / "run")["semantic_augment/masked_lm"]
    assert evaluated_metrics["loss"] > 2 * plain  # the weight has its final value, 3


def test_what_a_phase_has_switched_off_is_not_evaluated(tmp_path, capsys):
    case = (
        CASES["two stages"]
        if "two stages" in CASES
        else next(c for c in CASES.values() if "two_stage" in c.get("hooks", {}))
    )
    recorded = train(tmp_path / "run", case, train={"updates": 4})
    assert metrics(capsys, tmp_path / "run") == pytest.approx(recorded, rel=1e-5)


def test_an_empty_split_is_told(tmp_path, capsys, monkeypatch):
    train(tmp_path / "run", {"criterion": "masked_lm"}, train={"updates": 1})
    sources = fwk.load(tmp_path / "run").task.__class__.sources
    monkeypatch.setattr(
        fwk.load(tmp_path / "run").task.__class__,
        "sources",
        lambda self, split: {} if split == "valid" else sources(self, split),
    )
    status, out, err = evaluated(capsys, tmp_path / "run")
    assert status == 2 and not out and "--split: 'valid' holds no example" in err


# -- text that is held out ---------------------------------------------------------------------------------------------


@pytest.fixture
def texts(tmp_path) -> dict[str, Path]:
    settings = {
        "train": "the dog sees the cat .\nAnn likes Bo .\n\n" * 40,
        "one": "Bo sees Ann .\n\n" * 9,
        "two": "the cat likes the dog .\n\n" * 7,
    }
    for name, text in settings.items():
        (tmp_path / f"{name}.txt").write_text(text)
    return {name: tmp_path / f"{name}.txt" for name in settings}


def of_text(texts, **task) -> dict:
    return {
        "task": {
            "name": "mlm",
            "data": str(texts["train"]),
            "length": 12,
            "vocabulary": 40,
            **task,
        },
        "criterion": "masked_lm",
    }


def test_a_masked_language_model_is_evaluated_on_a_file_that_training_did_not_know(
    texts, tmp_path, capsys
):
    one = train(tmp_path / "one", of_text(texts, valid=str(texts["one"])), train={"updates": 3})
    two = train(tmp_path / "two", of_text(texts, valid=str(texts["two"])), train={"updates": 3})
    texts["train"].unlink()  # evaluation does not need it
    assert metrics(capsys, tmp_path / "one") == pytest.approx(one, rel=1e-5)
    assert (
        metrics(capsys, tmp_path / "one", f"task.valid={texts['two']}")
        == pytest.approx(two, rel=1e-5)
        != one
    )
    tokenizer = fwk.load(tmp_path / "one").tokenizer
    build_store([texts["two"]], tmp_path / "store", tokenizer, options=Options(valid_share=0.3))
    _, out, _ = evaluated(capsys, tmp_path / "one", f"task.valid={texts['two']}")
    of_text_file = json.loads(out)
    stream = 7 * (len(tokenizer.encode("the cat likes the dog .")) + 1)  # with a [SEP] each
    amounts = [of_text_file[name] for name in ("documents", "examples")]
    assert amounts == [7, -(-stream // 10)] and stream <= of_text_file["tokens"] < 1.2 * stream + 2
    _, out, _ = evaluated(capsys, tmp_path / "one", f"task.valid={tmp_path / 'store'}")
    assert json.loads(out) == of_text_file  # all of the store, in the order of its text
    fwk.load(tmp_path / "one").save(tmp_path / "copy")
    assert metrics(capsys, tmp_path / "copy", f"task.valid={texts['two']}") == pytest.approx(
        two, rel=1e-5
    )


def test_a_run_that_held_out_documents_is_evaluated_on_a_file_too(texts, tmp_path, capsys):
    train(tmp_path / "run", of_text(texts, valid_share=0.2), train={"updates": 3})
    evaluated_metrics = [
        metrics(capsys, tmp_path / "run", *of)
        for of in ([], [f"task.valid={texts['one']}"], [f"task.valid={texts['two']}"])
    ]
    assert len({one["loss"] for one in evaluated_metrics}) == 3
    status, _, err = evaluated(capsys, tmp_path / "run", "task.length=10")
    assert (
        status == 2
        and "was trained on other data than the task has now, or with other options of the task"
        in err
    )
    (tmp_path / "run" / "tokenizer" / "trained_on.json").write_text("[]")
    status, _, err = evaluated(capsys, tmp_path / "run", f"task.valid={texts['one']}")
    assert status == 2 and "trained_on.json is damaged: expected a JSON object" in err


# -- copies ------------------------------------------------------------------------------------------------------------


def test_a_copy_of_a_model_is_evaluated_as_its_run_is(tagger, tmp_path, capsys):
    fwk.load(tagger).save(tmp_path / "copy")
    assert metrics(capsys, tmp_path / "copy") == pytest.approx(metrics(capsys, tagger), rel=1e-6)
    fwk.load(tmp_path / "copy").save(tmp_path / "copy")  # over a copy
    status, _, err = evaluated(capsys, tmp_path / "copy", "--average")
    assert status == 2 and "it is a copy of one set of weights (a trained run)" in err


def test_a_copy_never_takes_the_place_of_a_run(tagger, tmp_path):
    before = (find_checkpoint(tagger) / "state.json").read_bytes()
    with pytest.raises(
        CheckpointError,
        match="holds a run that can resume from update-0+[0-9]; choose another folder",
    ):
        fwk.load(tagger).save(tagger)
    assert (find_checkpoint(tagger) / "state.json").read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file is not a folder; choose another place"):
        fwk.load(tagger).save(tmp_path / "file")


def test_a_copy_of_weights_of_others_knows_of_no_data(tagger, tmp_path, capsys):
    fwk.load(tagger).save(tmp_path / "copy")
    state = find_checkpoint(tmp_path / "copy") / "state.json"
    recorded = json.loads(state.read_text())
    manifest = json.loads((state.parent / "manifest.json").read_text())
    write_atomically(
        state, json.dumps({**recorded, "imported": "BertModel", "fingerprint": "x"}).encode()
    )
    from fwk.files import digest

    manifest["files"]["state.json"] = {"sha256": digest(state), "bytes": state.stat().st_size}
    write_atomically(state.parent / "manifest.json", json.dumps(manifest).encode())
    status, _, err = evaluated(capsys, tmp_path / "copy")
    assert (
        status == 2
        and "holds weights only (BertModel), without a record of the data that they were trained on"
        in err
    )


# -- files that are written --------------------------------------------------------------------------------------------


def test_predictions_replace_nothing_that_is_read_or_written_otherwise(tagger, tmp_path, capsys):
    gold, said = tmp_path / "gold.conllu", tmp_path / "said.conllu"
    shutil.copy(TREEBANK["valid"], gold)
    before = gold.read_bytes()
    (tmp_path / "link").symlink_to(gold)
    for target in (gold, tmp_path / "link"):
        status, out, err = evaluated(
            capsys, tagger, f"task.data.tiny.valid={gold}", "--predictions", target
        )
        assert (
            status == 2
            and not out
            and "is read or written as something else by the same command" in err
            and gold.read_bytes() == before
        )
    status, out, err = evaluated(capsys, tagger, "--predictions", said, "--output", said)
    assert status == 2 and not out and "--output: " in err and not said.exists()
    (tmp_path / "raw.txt").write_text("the dog sees Bo .\n")
    status, out, err = evaluated(
        capsys, tagger, "--text", tmp_path / "raw.txt", "--predictions", tmp_path / "raw.txt"
    )
    assert status == 2 and (tmp_path / "raw.txt").read_text() == "the dog sees Bo .\n"


def test_predictions_follow_a_link_and_refuse_what_is_no_file(tagger, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "said.conllu")
    assert evaluated(capsys, tagger, "--predictions", tmp_path / "link")[0] == 0
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "said.conllu").read_text()
    os.mkfifo(tmp_path / "pipe")
    for flag in ("--predictions", "--output"):
        status, out, err = evaluated(capsys, tagger, flag, tmp_path / "pipe")
        assert (
            status == 2
            and not out
            and f"{flag}: {tmp_path / 'pipe'} is not a regular file; expected a file" in err
        )
    assert (tmp_path / "pipe").is_fifo()


def test_the_files_of_several_sources_are_looked_at_before_anything_is_evaluated(
    tmp_path, capsys, monkeypatch
):
    criteria = {
        label: {"name": "cvt_tagging", "label": label, "students": "none"}
        for label in ("pos", "other")
    }
    for number, (name, message) in enumerate(
        {
            "a/b": "each source gets a file of its name, but 'a/b' cannot be a file's name",
            "b": "said.b.conllu is a folder; expected a file",
        }.items()
    ):
        data = {
            "a": {**TREEBANK, "labels": {"pos": "upos"}},
            name: {**TREEBANK, "labels": {"other": "upos"}},
        }
        run = tmp_path / f"run{number}"
        train(
            run,
            {**SENTENCES, "task": {**SENTENCES["task"], "data": data}, "criterion": criteria},
            train={"updates": 1},
        )
        (tmp_path / "said.b.conllu").mkdir(exist_ok=True)
        with monkeypatch.context() as patch:
            patch.setattr("fwk.runs.evaluating.evaluate_and_count", None)
            status, out, err = evaluated(capsys, run, "--predictions", tmp_path / "said.conllu")
        assert (
            status == 2 and not out and message in err and not (tmp_path / "said.a.conllu").exists()
        )


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "x", b"abc")
    assert list(tmp_path.iterdir()) == []


# -- raw text ----------------------------------------------------------------------------------------------------------


def test_raw_text_is_read_by_one_process(tagger, tmp_path, capsys, monkeypatch):
    (tmp_path / "raw.txt").write_text("the dog sees Bo .\n")
    monkeypatch.setenv("WORLD_SIZE", "2")
    status, out, err = evaluated(capsys, tagger, "--text", tmp_path / "raw.txt")
    assert (
        status == 2
        and not out
        and "--text is read by one process only; start the command without torchrun" in err
    )


@pytest.mark.parametrize(
    "texts, message",
    [
        (["a b", "\ud800 x"], r"texts\[1\]: UTF-8 cannot encode the word '\\ud800'"),
        ([["a\ud800"]], r"texts\[0\]: UTF-8 cannot encode the word 'a\\ud800'"),
        (None, "expected a list of texts, got None"),
        (3, "expected a list of texts, got 3"),
    ],
)
def test_what_is_no_text_is_named(texts, message, tagger):
    with pytest.raises((DataError, UserError), match=message):
        fwk.load(tagger).predict(texts)


def test_words_of_a_run_that_lack_a_label_are_told(tagger, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(tagger, copy, symlinks=True)
    path = copy / "tokenizer" / "sentences.json"
    recorded = json.loads(path.read_text())
    del recorded["labels"]["pos"]
    path.write_text(json.dumps(recorded))
    with pytest.raises(
        DataError, match=re.escape(f"{path} does not contain the label 'pos' of task.data.tiny")
    ):
        fwk.load(copy)


def test_a_copy_holds_how_far_the_run_had_come(tagger, tmp_path):
    fwk.load(tagger).save(tmp_path / "copy")
    original, copied = (
        json.loads((find_checkpoint(folder) / "state.json").read_text())
        for folder in (tagger, tmp_path / "copy")
    )
    assert [copied.get(key) for key in KEPT_STATE] == [original.get(key) for key in KEPT_STATE]
    weights = [fwk.load(folder).module.state_dict() for folder in (tagger, tmp_path / "copy")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
