"""Checkpoints: intact or skipped, never executed, refused where they do not fit; and which of them are kept."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.commands import cache_with_index

import fwk
from fwk.components.discovery import load_plugins
from fwk.config.identity import differences
from fwk.config.resolve import read as read_config
from fwk.engine.evaluate import Evaluation
from fwk.engine.ranks.world import World
from fwk.engine.saving import checkpoint, optimizer_state
from fwk.errors import CheckpointError, FwkError, RunError
from fwk.runs import start
from fwk.testing import batches_of, merge_settings, stopped_at, tiny_config, trainer_of

BASE = {
    "criterion": {"masked_lm": {}},
    "hooks": {"jsonl": {}},
    "train": {
        "updates": 4,
        "save_every": 2,
        "validate_every": 0,
        "keep_best": 0,
        "precision": "fp32",
        "ema": 0.9,
    },
}
FILES = (
    "model.safetensors",
    "optimizer.safetensors",
    "average.safetensors",
    "meters.safetensors",
    "state.json",
    "manifest.json",
)


def config_in(folder: Path, changes: dict | None = None):
    return tiny_config(merge_settings(BASE, {**(changes or {}), "run": str(folder)}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "trained"
    assert start.train(config_in(folder)).status == "finished"
    assert [path.name for path in checkpoint.list_checkpoints(folder)] == [
        "update-000000002",
        "update-000000004",
    ]
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run", symlinks=True))


def newest(run: Path) -> Path:
    return checkpoint.list_checkpoints(run)[-1]


# -- damage ----------------------------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    """Flip one bit: of a sha256 in the manifest, in the middle of any other file."""
    content = bytearray(path.read_bytes())
    place = (
        content.index(b'"sha256": "') + 12 if path.name == "manifest.json" else len(content) // 2
    )
    content[place] ^= 1
    path.write_bytes(bytes(content))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES = [truncate, flip, empty, zeros, Path.unlink]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage", DAMAGES, ids=["truncated", "bit-flipped", "emptied", "zeroed", "missing"]
)
def test_a_damaged_file_is_passed_over_with_a_sentence(run, name, damage):
    damage(newest(run) / name)
    intact, complaints = checkpoint.newest_intact(run)
    assert intact.name == "update-000000002"
    assert len(complaints) == 1 and "\n" not in complaints[0]
    assert name in complaints[0] or (
        damage is flip and "its sha256 is not the one" in complaints[0]
    )


@pytest.mark.parametrize("key", ["files", "bytes", "sha256", "format", "model.safetensors"])
def test_a_misspelt_manifest_is_passed_over(run, key):
    path = newest(run) / "manifest.json"
    path.write_text(path.read_text().replace(f'"{key}"', f'"{key[:-1]}_"'))
    assert checkpoint.newest_intact(run)[0].name == "update-000000002"


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "1",
        "null",
        '{"format": 1, "files": []}',
        '{"format": 1, "files": {}}',
        '{"format": 1, "files": {"model.safetensors": 3}}',
    ],
)
def test_a_manifest_of_another_shape_is_passed_over(run, content):
    (newest(run) / "manifest.json").write_text(content)
    assert checkpoint.newest_intact(run)[0].name == "update-000000002"


def test_a_manifest_cannot_point_out_of_its_folder(run):
    path = newest(run) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../../config.yaml"] = manifest["files"]["state.json"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="'../../config.yaml' is not the name of a file"):
        checkpoint.verify(newest(run))


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_and_ends_the_same(
    run, trained, caplog
):
    truncate(newest(run) / "model.safetensors")
    assert start.train(config_in(run)).status == "finished"
    assert "skipped a checkpoint" in caplog.text
    same = [
        (folder / "checkpoints/latest/model.safetensors").read_bytes() for folder in (run, trained)
    ]
    assert same[0] == same[1]


def test_loading_a_run_says_what_it_passes_over(run):
    truncate(newest(run) / "model.safetensors")
    with pytest.warns(UserWarning, match="skipped a checkpoint.*model.safetensors"):
        assert fwk.load(run).update == 2


def test_none_whole_ends_the_command_with_status_2(run, capsys):
    for folder in checkpoint.list_checkpoints(run):
        truncate(folder / "state.json")
    with pytest.raises(CheckpointError, match="no checkpoint of .* is intact") as caught:
        start.train(config_in(run))
    assert caught.value.exit_status == 2


def test_a_newer_format_is_refused_rather_than_passed_over(run):
    path = newest(run) / "manifest.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(
        CheckpointError, match="has format 2, but this version of fwk reads formats up to 1"
    ) as caught:
        start.train(config_in(run))
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("in_background", [True, False])
def test_a_full_disk_is_one_sentence_and_keeps_the_previous_checkpoint(
    run, monkeypatch, in_background
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_hashed", full)
    message = (
        "cannot write the checkpoint .*update-000000006: No space left on device; "
        "the last intact checkpoint is update-000000004"
    )
    with pytest.raises(RunError, match=message) as caught:
        start.train(config_in(run, {"train": {"updates": 6, "async_save": in_background}}))
    assert caught.value.exit_status == 1
    assert checkpoint.newest_intact(run)[0].name == "update-000000004"
    assert not list((run / "checkpoints").glob(".writing*"))


def test_what_a_killed_write_left_is_cleaned_up(run):
    (run / "checkpoints" / ".writing-update-000000003").mkdir()
    start.train(config_in(run, {"train": {"updates": 5}}))
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "latest",
        "update-000000004",
        "update-000000005",
    ]


def test_a_checkpoint_written_again_is_never_absent(run, monkeypatch):
    tensors, state = checkpoint.read_checkpoint(newest(run))
    checkpoint.remove(checkpoint.list_checkpoints(run)[0])
    rename, seen = checkpoint.rename, []

    def watched(source, target):
        seen.append(checkpoint.newest_intact(run)[0])
        rename(source, target)
        seen.append(checkpoint.newest_intact(run)[0])

    monkeypatch.setattr(checkpoint, "rename", watched)
    checkpoint.write_checkpoint(run, 4, tensors, json.dumps(state))
    assert len(seen) == 4 and None not in seen


# -- nothing is executed ---------------------------------------------------------------------------------------------


class Malicious:
    def __reduce__(self):
        return os.mkdir, (str(self.path),)

    def __init__(self, path: Path):
        self.path = path


@pytest.fixture
def no_pickle(monkeypatch):
    def refused(*_, **__):
        raise AssertionError("a pickle was read")

    monkeypatch.setattr(pickle, "loads", refused)
    monkeypatch.setattr(pickle, "load", refused)
    monkeypatch.setattr(pickle, "Unpickler", refused)
    monkeypatch.setattr(torch, "load", refused)
    load = np.load
    monkeypatch.setattr(
        np, "load", lambda *a, allow_pickle=False, **k: refused() if allow_pickle else load(*a, **k)
    )


def test_going_on_and_loading_read_no_pickle(run, no_pickle):
    assert start.train(config_in(run, {"train": {"updates": 5}})).status == "finished"
    assert fwk.load(run).update == 5


def test_tokenizer_store_and_config_are_read_without_pickle(tmp_path, monkeypatch, no_pickle):
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
    changes = {
        "task": {"name": "mlm", "data": str(text), "length": 16, "vocabulary": 60},
        "train": {"updates": 1},
    }
    folder = tmp_path / "run"
    for _ in range(2):  # the second time from the store that the first one built
        shutil.rmtree(folder, ignore_errors=True)
        assert start.train(config_in(folder, changes)).status == "finished"
    assert fwk.load(folder).tokenizer is not None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "vouched", [False, True], ids=["as it is", "with a manifest that vouches for it"]
)
def test_a_malicious_pickle_in_any_file_is_not_executed(run, name, vouched, tmp_path, capfd):
    bomb = pickle.dumps(Malicious(tmp_path / "executed"))
    (newest(run) / name).write_bytes(bomb)
    if vouched and name != "manifest.json":
        manifest = json.loads((newest(run) / "manifest.json").read_text())
        manifest["files"][name] = {"sha256": hashlib.sha256(bomb).hexdigest(), "bytes": len(bomb)}
        (newest(run) / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(CheckpointError):
            start.train(config_in(run))
        with pytest.raises(CheckpointError):
            fwk.load(run)
    else:
        assert checkpoint.newest_intact(run)[0].name == "update-000000002"
        with pytest.warns(UserWarning, match="skipped"):
            fwk.load(run)
    assert not (tmp_path / "executed").exists()


# -- what is in it ---------------------------------------------------------------------------------------------------


def test_tied_weights_are_saved_once_and_tied_again(run):
    saved = load_file(newest(run) / "model.safetensors")
    twice = [
        name for name in saved if name.endswith(("embeddings.token.weight", "head.output.weight"))
    ]
    assert twice == ["networks.main.embeddings.token.weight"]
    loaded = fwk.load(run)
    output = loaded.module.criteria["masked_lm"].head.output.weight
    assert output is loaded.model.embedding().weight
    assert torch.equal(output, saved[twice[0]])


def test_every_number_of_the_state_comes_back(run):
    config = config_in(run, {"train": {"updates": 6}})
    with trainer_of(config) as trainer:
        trainer.restore(newest(run))
        tensors, state = checkpoint.read_checkpoint(newest(run))
        moments, numbers = optimizer_state.pack_optimizer(trainer.run.optimizer)
        assert moments.keys() == tensors["optimizer"].keys() and numbers == state["optimizer"]
        assert all(torch.equal(moments[name], tensors["optimizer"][name]) for name in moments)
        average = trainer.run.average.values
        assert all(torch.equal(average[name], value) for name, value in tensors["average"].items())
        assert (trainer.run.update, trainer.run.tokens, trainer.run.sequences) == (
            4,
            state["tokens"],
            48,
        )


# -- what is kept ----------------------------------------------------------------------------------------------------


def kept_checkpoints(run: Path) -> tuple[list[int], dict[str, str]]:
    links = {
        name: os.readlink(run / "checkpoints" / name)
        for name in ("latest", "best")
        if (run / "checkpoints" / name).is_symlink()
    }
    return [checkpoint.update_of(path) for path in checkpoint.list_checkpoints(run)], links


def test_the_last_ones_are_kept(tmp_path):
    start.train(
        config_in(tmp_path / "run", {"train": {"updates": 7, "save_every": 1, "keep_last": 3}})
    )
    assert kept_checkpoints(tmp_path / "run") == ([5, 6, 7], {"latest": "update-000000007"})


def test_milestones_are_kept_for_good_also_by_a_run_that_is_resumed(tmp_path):
    changes = {"train": {"updates": 8, "save_every": 1, "keep_last": 1, "keep_at": [0.25, 0.5]}}
    with stopped_at(3):
        start.train(config_in(tmp_path / "run", changes))
    assert kept_checkpoints(tmp_path / "run")[0] == [2, 3]
    start.train(config_in(tmp_path / "run", changes))
    assert kept_checkpoints(tmp_path / "run") == ([2, 4, 8], {"latest": "update-000000008"})


def test_a_milestone_is_saved_whatever_else_is_due(tmp_path):
    start.train(
        config_in(
            tmp_path / "run", {"train": {"updates": 10, "save_every": 0, "keep_at": [0.25, 0.301]}}
        )
    )
    assert kept_checkpoints(tmp_path / "run")[0] == [
        3,
        4,
        10,
    ]  # the first updates at which 25% and 30.1% of the run are done


@pytest.mark.parametrize("mode, best", [("min", {2: 1.0, 3: 2.0}), ("max", {1: 5.0, 5: 4.0})])
def test_the_best_ones_are_kept_by_metric_and_mode(tmp_path, monkeypatch, mode, best):
    from fwk.engine import bookkeeping, selection

    values = {1: 5.0, 2: 1.0, 3: 2.0, 4: 3.0, 5: 4.0, 6: float("nan"), 7: 3.0}
    monkeypatch.setattr(
        bookkeeping, "evaluate", lambda run, split, stop: {"loss": 0.0, "score": values[run.update]}
    )
    monkeypatch.setattr(
        selection,
        "evaluate_and_count",
        lambda run, split, stop, batches: Evaluation({"loss": 0.0, "score": 0.0}, 1, 1),
    )
    start.train(
        config_in(
            tmp_path / "run",
            {
                "train": {
                    "updates": 7,
                    "save_every": 1,
                    "keep_last": 1,
                    "keep_best": 2,
                    "best_metric": "score",
                    "best_mode": mode,
                    "validate_every": 1,
                }
            },
        )
    )
    first = min(best, key=best.get) if mode == "min" else max(best, key=best.get)
    assert kept_checkpoints(tmp_path / "run") == (
        sorted({*best, 7}),
        {"latest": "update-000000007", "best": f"update-{first:09d}"},
    )


def test_an_unknown_best_metric_names_those_there_are(tmp_path):
    with pytest.raises(
        FwkError,
        match="train.best_metric: validation gives no 'nll'. Available: loss, masked_lm/accuracy",
    ):
        start.train(
            config_in(
                tmp_path / "run",
                {"train": {"keep_best": 1, "best_metric": "nll", "validate_every": 1}},
            )
        )


def test_a_kill_between_writing_and_linking_is_put_right_by_the_next_start(run):
    checkpoint.point(run, "latest", checkpoint.list_checkpoints(run)[0])
    start.train(config_in(run))
    assert kept_checkpoints(run)[1]["latest"] == "update-000000004"


# -- what does not fit -----------------------------------------------------------------------------------------------


def test_changed_data_are_refused(run, monkeypatch):
    from fwk.tasks.synthetic import Synthetic

    monkeypatch.setattr(Synthetic, "fingerprint", lambda self: "0" * 64)
    with pytest.raises(
        CheckpointError,
        match="was trained on other data: the fingerprint was .*, and is now 000000000000",
    ):
        start.train(config_in(run))


def test_a_changed_config_is_refused_by_key_and_accepted_with_overwrite(run):
    changed = config_in(run, {"optimizer": {"lr": 0.5}, "model": {"width": 8}})
    before = (run / "config.yaml").read_text()
    message = "model.width was 16, is now 8; optimizer.lr was 0.001, is now 0.5"
    with pytest.raises(CheckpointError, match=message) as caught:
        start.train(changed)
    assert caught.value.exit_status == 2 and (run / "config.yaml").read_text() == before
    (run / "mine.txt").write_text("a note")
    assert start.train(changed, overwrite=True).status == "finished"
    assert (
        load_file(newest(run) / "model.safetensors")["networks.main.embeddings.token.weight"].shape[
            1
        ]
        == 8
    )
    assert (run / "mine.txt").read_text() == "a note"
    assert not [path.name for path in run.iterdir() if path.name.startswith(".repl")]


@pytest.mark.parametrize(
    "change",
    [
        {"updates": 5},
        {"log_every": 1},
        {"micro_batch": 5},
        {"workers": 0, "minutes": 5.0},
        {"updates": None, "epochs": 1.0},
    ],
)
def test_length_logging_and_micro_batch_may_change(run, change):
    assert start.train(config_in(run, {"train": change})).status == "finished"


def test_overwriting_a_folder_that_is_no_run_deletes_nothing(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("x")
    with pytest.raises(CheckpointError, match="nothing was deleted"):
        start.train(config_in(tmp_path / "precious"), overwrite=True)
    assert (tmp_path / "precious" / "thesis.tex").exists()


def test_a_run_folder_that_is_a_file_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot use the run folder .*file"):
        start.train(config_in(tmp_path / "file"))


# -- another world size ----------------------------------------------------------------------------------------------


def test_other_ranks_and_micro_batches_see_the_same_draws_in_the_same_order(run):
    """One epoch is 64 sequences of one source; a run resumes at update 4 with one rank, three or five."""
    seen = {}
    for size in (1, 3, 5):
        for micro in (None, 2):
            config = config_in(
                run, {"task": {"second_source": 0.0}, "train": {"micro_batch": micro}}
            )
            ranks = []
            for rank in range(size):
                one = start.build_run(config, run, load_plugins(), World(rank=rank, size=size))
                batches = batches_of(one, 4)
                ranks.append(
                    [
                        torch.cat([views["batch"].draws for views in next(batches)]).tolist()
                        for _ in range(3)
                    ]
                )
            seen[size, micro] = [
                [draw for rank in ranks for draw in rank[update]] for update in range(3)
            ]
    assert all(
        draws == [list(range(u * 12, u * 12 + 12)) for u in (4, 5, 6)] for draws in seen.values()
    )
    _, indices, _ = one.order.locate(np.arange(64))
    assert sorted(indices.tolist()) == list(range(64))


def test_a_window_saved_by_three_ranks_goes_on_with_one():
    from fwk.engine.meters import Meters

    saved = {
        f"{rank}/sum:x": torch.tensor(float(rank + 1), dtype=torch.float64) for rank in range(3)
    }
    alone = Meters()
    alone.load(saved, World(), 3)
    assert float(alone.window["sum:x"]) == 6.0
    two = [Meters(), Meters()]
    for rank, meters in enumerate(two):
        meters.load(saved, World(rank=rank, size=2), 3)
    assert sum(float(meters.window.get("sum:x", 0)) for meters in two) == 6.0


def test_the_saved_config_is_the_config(run):
    assert differences(read_config(run / "config.yaml"), config_in(run)) == {}
