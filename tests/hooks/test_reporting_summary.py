import json
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fwk.config.spec import Component, TrainConfig
from fwk.contracts.context import BuildContext
from fwk.criteria.masked_lm import MaskedLM
from fwk.engine.module import ObjectiveModule
from fwk.hooks import summary
from fwk.hooks.blanks import fill_in, readable, with_blanks
from fwk.hooks.examples import documents
from fwk.hooks.summary import Summary, screen, twice_as_long
from fwk.models.bert import Bert
from fwk.noisers.bert_mask import BertMask
from fwk.noisers.identity import Identity
from fwk.tasks.synthetic import Synthetic

FOUND = {
    "term": "masked_lm",
    "masked_lm": 4.67,
    "unigram": 6.44,
    "entropy": 6.3,
    "bigram": 5.02,
    "sentences": [
        {
            "text": "return the [1] of the array along the [2] axis ...",
            "blanks": [
                {"original": "shape", "guesses": [["shape", 0.31], ["size", 0.22], ["-s", 0.1]]},
                {"original": "given", "guesses": [["first", 0.2], ["given", 0.11], ["last", 0.1]]},
            ],
        }
    ],
}


@pytest.fixture(autouse=True)
def commands_on_path(monkeypatch):
    """As in an activated environment; where it is not, `command` says the path, which is tested by itself."""
    monkeypatch.setattr(summary.shutil, "which", lambda name: f"/usr/bin/{name}")


def test_a_command_that_is_not_on_the_path_is_named_by_its_own(monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("python", "fwk-train"):
        (tmp_path / "bin" / name).touch()
    monkeypatch.setattr(summary.shutil, "which", lambda name: None)
    monkeypatch.setattr(summary.sys, "executable", str(tmp_path / "bin" / "python"))
    assert summary.command("fwk-train") == str(tmp_path / "bin" / "fwk-train")
    assert summary.command("tensorboard") == "tensorboard"  # not there either
    monkeypatch.chdir(tmp_path)
    assert summary.command("fwk-train") == "bin/fwk-train"


class Tokenizer:
    kind, mask, words = "sentencepiece", 0, ("[MASK]", "▁the", "▁shape", "s", ".", "▁")

    def token(self, index):
        return self.words[index]

    def decode(self, ids):
        return "".join(self.words[i] for i in ids).replace("▁", " ").strip()


def test_the_screen_compares_with_unigram_and_bigram_and_says_what_next():
    lines = screen(FOUND, Path("runs/demo"), "train.updates=3000", 100, True)
    text = "\n".join(lines)
    assert len(lines) <= 24  # one screen
    for part in (
        "unigram    6.440",
        "bigram     5.020",
        "this run   4.670",
        "1.63 below the best unigram",
        "+ [1] shape  shape 31%, size 22%",
        "  [2] given  first 20%",
        "runs/demo",
    ):
        assert part in text


def test_the_commands_survive_a_folder_with_spaces():
    lines = screen(FOUND, Path("my runs/a"), "train.updates=3000", 100, True)
    commands = [line.split("   #")[0] for line in lines if line.startswith("  fwk-train")]
    assert shlex.split(commands[0]) == [
        "fwk-train",
        "--config",
        "my runs/a/config.yaml",
        "--run",
        "my runs/a",
        "train.updates=3000",
    ]
    assert "my runs/a-mine" in shlex.split(commands[1])


@pytest.mark.parametrize("width", [1, 20, 40, 100])
def test_the_screen_fits_but_for_paths_and_commands(width):
    lines = screen(FOUND, Path("r"), "", width, True)
    prose = [
        line for line in lines if not line.startswith(("  fwk-train", "  tensorboard", "The run"))
    ]
    assert max(map(len, prose)) <= max(20, width)


def test_the_screen_names_what_the_run_has_and_advises_what_its_task_reads(tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    text = "\n".join(screen(FOUND, tmp_path, "", 100, reads_text=False))
    assert f"The run is in {tmp_path}: metrics.jsonl\n" in text
    assert not any(word in text for word in ("tensorboard", "checkpoints", "task.data"))
    for name in ("tensorboard", "checkpoints/best"):
        (tmp_path / name).mkdir(parents=True)
    text = "\n".join(screen(FOUND, tmp_path, "", 100, reads_text=True))
    assert "metrics.jsonl, tensorboard, checkpoints/best\n" in text
    assert f"--logdir {tmp_path}/tensorboard" in text and "task.data=FILE.txt" in text


def test_a_longer_run_raises_every_limit():
    train = TrainConfig(updates=4, epochs=0.5)
    assert twice_as_long(train) == "train.updates=8 train.epochs=1.0"


def test_a_run_without_a_loss_or_sentences_still_has_a_screen():
    assert screen({**FOUND, "masked_lm": None, "sentences": []}, Path("r"), "", 80, False)


def test_blanks_are_numbered_in_the_text():
    assert with_blanks([1, 0, 3, 0, 4], Tokenizer()) == "the [1] s [2] ."
    assert with_blanks([0], Tokenizer()) == "[1]"


def test_tokens_are_shown_without_the_marks_of_their_library():
    assert [readable(Tokenizer(), index) for index in (1, 3, 4, 5)] == ["the", "-s", ".", "' '"]


# -- with a real module ----------------------------------------------------------------------------------------------


class Words:
    """A tokenizer for the synthetic task's numbers."""

    kind, mask, special = "words", 4, (0, 1, 2, 3, 4)

    def token(self, index):
        return f"w{index}"

    def decode(self, ids):
        return " ".join(self.token(i) for i in ids if i not in self.special)


@pytest.fixture(scope="module")
def run():
    torch.manual_seed(1)
    task = Synthetic(Synthetic.Config(sequences=200, shortest=8), seed=1)
    task.tokenizer = Words()
    build = BuildContext(vocabulary=task.vocabulary(), length=task.length())
    encoder = Bert(Bert.Config(width=16, heads=2, layers=1), build)
    criterion = MaskedLM(MaskedLM.Config(), replace(build, encoder=encoder))
    spec = SimpleNamespace(
        of=None, encoder="main", mode="train", ema=False, prepare=False, fields=(), part=None
    )
    module = ObjectiveModule(
        networks={"main": encoder},
        noisers={"masked": BertMask(BertMask.Config(ratio=0.3), build)},
        criteria={"masked_lm": criterion},
        weights={},
        views={"masked": spec},
        reads={"masked_lm": ("masked",)},
        encodes={"masked_lm": ("masked",)},
        seed=1,
    )
    return SimpleNamespace(
        module=module,
        task=task,
        rank=0,
        update=7,
        skipped=0,
        out_of_patience=False,
        config=SimpleNamespace(train=TrainConfig(updates=9), task=Component("task", "synthetic")),
        last_metrics={"valid": {"masked_lm/masked_lm": 4.0}},
    )


def test_documents_are_the_content_of_every_example(run):
    rows = list(documents(run.task, "valid"))
    assert len(rows) == len(run.task.sources("valid")["a"])
    assert all((tokens != 0).all() for tokens in rows) and {len(tokens) for tokens in rows} != {32}
    assert sum(map(len, documents(run.task, "train", 100))) < 100 + 32


def test_blanks_are_filled_in_where_the_criterions_view_has_masks(run):
    sentences = fill_in(run.module, "masked_lm", run.task, run.task.tokenizer, 3)
    assert len(sentences) == 3
    for entry in sentences:
        assert entry["text"].count("[") == len(entry["blanks"]) and 1 <= len(entry["blanks"]) <= 3
        for blank in entry["blanks"]:
            chances = [chance for _, chance in blank["guesses"]]
            assert (
                chances == sorted(chances, reverse=True) and 0 < sum(chances) <= 1.001
            )  # rounded to 4 digits
            assert blank["original"] not in ("w0", "w2", "w3", "w4")


def test_filling_in_leaves_the_module_in_its_mode_and_is_the_same_every_time(run):
    run.module.train()
    first = fill_in(run.module, "masked_lm", run.task, run.task.tokenizer, 2)
    assert (
        run.module.training
        and fill_in(run.module, "masked_lm", run.task, run.task.tokenizer, 2) == first
    )


@pytest.mark.parametrize(
    "metrics, loss",
    [
        ({"loss": 9.0, "masked_lm/masked_lm": 4.5, "masked_lm/masked_lm_a": 4.4}, 4.5),
        ({"loss": 9.0, "other/masked_lm": 4.5}, None),
    ],
)
def test_the_loss_is_the_criterions_own_masked_lm(run, metrics, loss):
    hook = Summary(Summary.Config(sentences=0))
    ended = SimpleNamespace(**{**vars(run), "last_metrics": {"valid": metrics}})
    content = hook.summarise(ended, "masked_lm", "masked_lm", run.task.tokenizer)
    assert content["term"] == "masked_lm" and content["masked_lm"] == loss


def test_a_view_without_chosen_positions_has_no_blanks(run, monkeypatch):
    plain = Identity(Identity.Config(), BuildContext(vocabulary=run.task.vocabulary()))
    monkeypatch.setitem(run.module.static_of_this_phase.noisers, "masked", plain)
    assert fill_in(run.module, "masked_lm", run.task, run.task.tokenizer, 3) == []


def test_a_finished_run_ends_with_its_screen_and_a_file(run, tmp_path, capsys):
    run.folder = tmp_path
    Summary(Summary.Config()).fwk_run_end(run=run, status="finished")
    assert "the best unigram" in (text := capsys.readouterr().out) and "[1]" in text
    content = json.loads((tmp_path / "summary.json").read_text())
    assert (
        content["masked_lm"] == 4.0
        and content["bigram"] < content["unigram"]
        and len(content["sentences"]) == 3
    )


@pytest.mark.parametrize(
    "change, status", [({}, "stopped"), ({}, "failed"), ({"rank": 1}, "finished")]
)
def test_otherwise_it_is_silent(run, tmp_path, capsys, change, status):
    Summary(Summary.Config()).fwk_run_end(
        run=SimpleNamespace(**{**vars(run), "folder": tmp_path, **change}), status=status
    )
    assert not capsys.readouterr().out and not list(tmp_path.iterdir())


def test_a_run_out_of_patience_goes_on_with_more_of_it(run, tmp_path, capsys):
    ended = SimpleNamespace(**{**vars(run), "folder": tmp_path, "out_of_patience": True})
    Summary(Summary.Config()).fwk_run_end(run=ended, status="finished")
    text = capsys.readouterr().out
    assert "train.patience=0   # continue" in text and "train.updates=18" not in text


def test_a_task_without_a_tokenizer_has_no_screen(run, tmp_path, capsys):
    task = Synthetic(Synthetic.Config(), seed=1)
    Summary(Summary.Config()).fwk_run_end(
        run=SimpleNamespace(**{**vars(run), "folder": tmp_path, "task": task}), status="finished"
    )
    assert not capsys.readouterr().out
