"""Starting from Python and from the command line: `fwk.train`, `fwk.load`, and what the command's exit status says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.commands import cache_with_index

import fwk
from fwk.cli.train import main
from fwk.errors import CheckpointError, ConfigError, UnknownName

TINY = {
    "task": "synthetic",
    "task.sequences": 32,
    "task.length": 12,
    "task.vocabulary": 24,
    "model.layers": 1,
    "model.width": 16,
    "model.heads": 2,
    "train.updates": 3,
    "train.batch": 6,
    "train.device": "cpu",
    "optimizer.lr": 0.003,
    "train.validate_every": 0,
    "train.log_every": 1,
    "hooks": {"terminal": None, "tensorboard": None, "summary": None},
}
WORDS = [
    "--task",
    "synthetic",
    *(f"{key}={value}" for key, value in TINY.items() if key not in ("task", "hooks")),
    "hooks.terminal=null",
    "hooks.tensorboard=null",
    "hooks.summary=null",
]


def test_train_from_python_returns_the_run_and_load_gives_what_it_made(tmp_path):
    done = fwk.train(run=str(tmp_path / "run"), criterion="semantic_augment", **TINY)
    assert (done.status, done.exit_status, done.update, done.folder) == (
        "finished",
        0,
        3,
        tmp_path / "run",
    )
    assert done.metrics["valid"]["loss"] > 0
    loaded = fwk.load(done.folder)
    assert loaded.update == 3 and loaded.config.criterion.keys() == {"semantic_augment"}
    assert loaded.tokenizer is None  # made-up tokens have none
    assert not loaded.module.training and loaded.model is loaded.module.networks["main"]
    with torch.no_grad():
        encoded = loaded.model({"tokens": torch.tensor([[2, 7, 8, 3]])}, None)
    assert encoded.features.shape == (1, 4, 16)


@pytest.mark.parametrize(
    "name", ["", "checkpoints/latest", "checkpoints/best", "checkpoints/update-000000003"]
)
def test_load_takes_a_run_a_checkpoint_or_a_link(tmp_path, name):
    done = fwk.train(run=str(tmp_path / "run"), **TINY)
    assert fwk.load(done.folder / name).folder == done.folder / "checkpoints" / "update-000000003"


def test_load_reads_no_example(tmp_path, monkeypatch):
    from fwk.tasks.synthetic import _Sequences

    done = fwk.train(run=str(tmp_path / "run"), **TINY)

    def absent(self, index):
        raise AssertionError("loading looked at the data")

    monkeypatch.setattr(_Sequences, "__getitem__", absent)
    assert fwk.load(str(done.folder)).model.width == 16


def test_load_makes_a_text_task_from_the_run_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("FWK_CACHE", cache_with_index(tmp_path / "cache"))
    text = tmp_path / "text.txt"
    text.write_text(
        "\n\n".join(
            f"The {a} {b} reads a {c} file of plain words."
            for a in ("small", "old", "new", "red")
            for b in ("cat", "dog", "fox")
            for c in ("long", "short", "dull", "fine")
        )
    )
    own = {key: value for key, value in TINY.items() if not key.startswith("task")}
    done = fwk.train(
        run=str(tmp_path / "run"),
        task="mlm",
        **{"task.data": str(text), "task.vocabulary": 60},
        **own,
    )
    text.unlink()
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "run").rename(elsewhere)
    monkeypatch.setenv("FWK_CACHE", cache_with_index(tmp_path / "empty"))
    loaded = fwk.load(elsewhere)
    ids = loaded.tokenizer.encode("The old fox reads a file.")
    assert len(ids) > 3 and "fox" in loaded.tokenizer.decode(ids)
    assert done.status == "finished"


def test_what_is_loaded_computes_what_was_trained(tmp_path):
    from fwk.engine.evaluate import evaluate
    from fwk.engine.ranks.world import World
    from fwk.testing import trainer_of

    done = fwk.train(run=str(tmp_path / "run"), **TINY)
    loaded = fwk.load(done.folder)
    with trainer_of(loaded.config, World()) as trainer:
        trainer.run.module.load_state_dict(loaded.module.state_dict())
        trainer.run.update = loaded.update
        assert evaluate(trainer.run, "valid")["loss"] == done.metrics["valid"]["loss"]


def test_python_and_the_command_are_the_same_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = fwk.train(**TINY)
    assert done.folder.parent == Path("runs")
    lines = (done.folder / "metrics.jsonl").read_text()
    assert main(WORDS) == 0  # finds the same folder, by the config's hash, and has nothing to do
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [done.folder.name]
    assert len((done.folder / "metrics.jsonl").read_text().splitlines()) == len(lines.splitlines())


def test_a_config_file_a_mapping_and_keys_say_the_same(tmp_path):
    first = fwk.train(run=str(tmp_path / "a"), **TINY)
    second = fwk.train(first.folder / "config.yaml", run=str(tmp_path / "b"))
    nested: dict = {"task": {"name": "synthetic"}, "hooks": TINY["hooks"]}
    for key, value in TINY.items():
        if "." in key:
            part, name = key.split(".")
            nested.setdefault(part, {})[name] = value
    third = fwk.train(nested, run=str(tmp_path / "c"))
    weights = [
        (run.folder / "checkpoints/latest/model.safetensors").read_bytes()
        for run in (first, second, third)
    ]
    assert weights[0] == weights[1] == weights[2]


def test_python_raises_what_the_command_reports(tmp_path):
    with pytest.raises(UnknownName, match="Did you mean 'masked_lm'"):
        fwk.train(criterion="maskd_lm", **TINY)
    with pytest.raises(ConfigError, match="train.bacth"):
        fwk.train(**TINY, **{"train.bacth": 3})
    with pytest.raises(CheckpointError, match="there is no checkpoint or run at"):
        fwk.load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="is neither a checkpoint nor a run's folder"):
        fwk.load(tmp_path)


def test_the_command_trains_and_its_status_is_0(tmp_path, capsys):
    assert main([*WORDS, f"run={tmp_path / 'run'}"]) == 0
    run = tmp_path / "run"
    promised = {"config.yaml", "environment.json", "metrics.jsonl", "checkpoints", "tokenizer"}
    assert promised <= {path.name for path in run.iterdir()}
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["event"] == "finished"
    line = records[0]
    assert {
        "split",
        "update",
        "epoch",
        "loss",
        "terms",
        "lr",
        "grad_norm",
        "tokens",
        "sequences",
        "tokens_per_second",
        "seconds",
    } <= line.keys()
    assert json.loads((run / "environment.json").read_text())["world_size"] == 1


@pytest.mark.parametrize(
    "words, status, said",
    [
        (["train.bacth=3"], 2, "Did you mean 'batch'"),
        (
            ["optimizer.no_decay=[nothing.like.it]"],
            2,
            "optimizer.no_decay: 'nothing.like.it' matches no parameter",
        ),
        (["train.device=cuda:99"], 2, "train.device: 'cuda:99'"),
        (["train.micro_batch=0"], 2, "train.micro_batch"),
        (
            [
                "optimizer.lr=1e6",
                "optimizer.weight_decay=1e6",
                "schedule.warmup=0",
                "train.updates=8",
                "train.clip=0",
            ],
            1,
            "is not finite",
        ),
    ],
)
def test_the_status_says_whose_fault_it_was(tmp_path, capsys, words, status, said):
    assert main([*WORDS, f"run={tmp_path / 'run'}", *words]) == status
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("fwk-train: error: ") and said in error


def test_a_changed_config_is_status_2_and_overwrite_starts_anew(tmp_path, capsys):
    words = [*WORDS, f"run={tmp_path / 'run'}"]
    assert main(words) == 0
    assert main([*words, "optimizer.lr=0.5"]) == 2
    assert "optimizer.lr was 0.003, is now 0.5" in capsys.readouterr().err
    assert main([*words, "optimizer.lr=0.5", "--overwrite"]) == 0


def test_a_command_that_was_wrong_leaves_no_folder(tmp_path, capsys):
    from fwk.cli.train import main

    for wrong in ("task.data=/nowhere/text.txt", "views.masked.of=nothing"):
        assert main(["--run", str(tmp_path / "new"), wrong]) == 2
        assert not (tmp_path / "new").exists()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine.txt").write_text("mine")
    assert main(["--run", str(tmp_path / "kept"), "task.data=/nowhere/text.txt"]) == 2
    assert (tmp_path / "kept" / "mine.txt").read_text() == "mine"
