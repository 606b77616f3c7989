"""Tests of user errors with taggers and parsers.

Each ends with one sentence that names the key or the file, exit status 2, and no run folder.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import yaml
from support.cases import SENTENCES, TREEBANK, config_of

from fwk.cli.train import main
from fwk.engine.update import Update
from fwk.errors import ConfigError
from fwk.testing import batches_of, begin_update, merge_settings, trainer_of

BASE = {
    **SENTENCES,
    "criterion": {"pos": {"name": "cvt_tagging", "label": "pos"}, "tree": {"name": "cvt_parsing"}},
    "train": {"updates": 2, "batch": 4, "precision": "fp32", "device": "cpu"},
    "hooks": {"terminal": None},
}
SUPERVISED = {"students": "none"}


def treebank(**options):
    return {"task": {"data": {"tiny": options}}}


def criterion(which, /, **options):
    return {"criterion": {which: options}}


def columns(**options):
    """Return changes that leave only a set of columns, and a tagger of one of them."""
    return {
        "task": {
            "data": {
                "tiny": None,
                "x": {
                    "path": "FOLDER/columns.txt",
                    "columns": ["word", "tag", "pos"],
                    "labels": {"ner": {"spans": "tag"}},
                    **options,
                },
            }
        },
        "criterion": {
            "pos": None,
            "tree": None,
            "ner": {"name": "cvt_tagging", "label": "ner", **SUPERVISED},
        },
    }


BERT = {"model": {"name": "bert", "layers": 1, "width": 8, "heads": 2, "positions": "learned"}}
FULL = {"criterion": {label: {"modules": ["full"]} for label in ("pos", "tree")}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("strange")
    blocks = Path(TREEBANK["path"]).read_text().split("\n\n")
    cyclic = (
        blocks[0].replace("\t4\tdet\t", "\t2\tdet\t", 1).replace("\t4\tamod\t", "\t1\tamod\t", 1)
    )
    (folder / "cyclic.conllu").write_text("\n\n".join([cyclic, *blocks[1:]]))
    (folder / "headless.conllu").write_text("1\tthe\tthe\tDET\t_\t_\t_\t_\t_\t_\n\n" * 20)
    (folder / "columns.txt").write_text("a B-X N\nb O V\n\nc O N\n\n" * 10)
    (folder / "empty.conllu").write_text("# nothing\n\n")
    (folder / "empty.txt").write_text("\n\n")
    return folder


@pytest.mark.parametrize(
    "changes, message",
    [
        # no sentences to imitate on
        (
            treebank(fraction=1.0),
            "views.unlabelled.sources: the task has no source 'unlabelled': task.unlabelled names no file and every "
            "set keeps all of its labels; name files, give a set a fraction below 1, or train on labelled sentences "
            "alone",
        ),
        (
            {**treebank(fraction=1.0), **criterion("pos", students="primary")},
            "criterion.LABEL.students=none",
        ),
        (
            {"task": {"unlabelled_share": 0.0}},
            "the task has no source 'unlabelled': task.unlabelled_share is 0; raise it",
        ),
        (
            {"task": {"unlabelled_share": 1.0}},
            "task.unlabelled_share: is 1, which leaves no update for labelled sentences",
        ),
        (treebank(weight=0), "task.data: every set has weight 0 (tiny)"),
        (
            treebank(weight=float("nan")),
            "task.data.tiny.weight: must be a finite number, got nan",
        ),
        # labels
        (
            criterion("pos", label="tree"),
            "criterion.pos.label: 'tree' is a tree, which 'cvt_parsing' predicts; expected one value per word: pos",
        ),
        (
            criterion("pos", label="tree_head"),
            "criterion.pos.label: 'tree_head' has no fixed values",
        ),
        (
            criterion("tree", label="pos"),
            "criterion.tree.label: 'pos' is one value per word, which 'cvt_tagging' predicts; expected a tree: tree",
        ),
        (
            criterion("pos", label="poss"),
            "criterion.pos: reads the label 'poss', and task 'sentences' has no such label. Did you mean 'pos'",
        ),
        (
            treebank(labels={"words": "upos"}),
            "task.data.tiny.labels.words: this name is reserved for the words themselves",
        ),
        (
            treebank(labels={"tree": {"spans": "tree"}}),
            "task.data.tiny.labels.tree: expected a column, {spans: COLUMN} or tree, got {'spans': 'tree'}",
        ),
        (
            treebank(labels={"pos": {"spans": "upos"}}),
            "the tag is 'PROPN', expected O or PREFIX-TYPE",
        ),
        (
            treebank(labels=["pos"]),
            "task.data.tiny.labels: expected a mapping, got a list",
        ),
        # columns
        (
            treebank(labels={"pos": "uposs"}),
            "tiny.conllu has no column 'uposs'. Did you mean 'upos'",
        ),
        (
            columns(columns="word tag pos"),
            "task.data.x.columns: expected a list of text, got 'word tag pos'",
        ),
        (
            columns(columns=["form", "tag", "pos"]),
            "task.data.x.columns: no column is called 'word', got form, tag, pos",
        ),
        (columns(columns=["word", "tag"]), "columns.txt:1: expected 2 columns (word, tag)"),
        (columns(separator=""), "task.data.x.separator: is empty"),
        (
            columns(labels={"ner": "tag", "parse": "tree"}),
            "task.data.x.columns: a tree needs columns called head, deprel and upos",
        ),
        # files
        (treebank(path=3), "task.data.tiny.path: expected text, got 3"),
        (treebank(valid=3), "task.data.tiny.valid: expected text or null, got 3"),
        (
            treebank(path="FOLDER/cyclic.conllu"),
            "cyclic.conllu:2: word 1 is its own ancestor (1 -> 2 -> 1); expected a tree",
        ),
        (treebank(path="FOLDER/headless.conllu"), "headless.conllu has no heads"),
        (treebank(path="FOLDER/empty.conllu"), "empty.conllu contains no sentence"),
        (treebank(valid="FOLDER/empty.conllu"), "empty.conllu contains no sentence"),
        (columns(path="FOLDER/empty.txt"), "empty.txt contains no sentence"),
        (
            {"task": {"unlabelled": ["FOLDER/empty.txt"]}},
            "task.unlabelled: FOLDER/empty.txt contains no sentence of at most 100 words",
        ),
        (
            {"task": {"unlabelled": ["FOLDER/emtpy.txt"]}},
            "task.unlabelled: no file matches FOLDER/emtpy.txt",
        ),
        (
            treebank(path="FOLDER/cyclic"),
            "task.data.tiny.columns: a file of columns needs their names, such as [word, tag]; a file of "
            "CoNLL-U is called *.conllu",
        ),
        (
            {"task": {"clean": True}},
            "is left to train on: 0 have more than 100 words (task.length), 60 are in a valid or test file "
            "(task.clean)",
        ),
        (
            {"task": {"length": 2}},
            "is left to train on: 60 have more than 2 words (task.length), 0 are",
        ),
        # modules
        (
            criterion("tree", turns=2, turn=2),
            "criterion.tree.turn: is 2, but turns are counted from 0; expected less than turns, 2",
        ),
        (
            criterion("pos", modules=["forwardd"]),
            "criterion.pos.modules: there is no module 'forwardd'. Did you mean 'forward'",
        ),
        (
            criterion("tree", modules=[]),
            "criterion.tree.modules: is empty, but auxiliary modules are to imitate the primary one",
        ),
        (
            criterion("tree", modules=[], students="none", auxiliary_labels=True),
            "auxiliary modules are to learn from labels",
        ),
        (
            BERT,
            "criterion.pos.modules: the module 'forward' reads the state 'forward_1', which Bert does not "
            "have; choose the model 'cnn_bilstm'",
        ),
    ],
)
def test_one_sentence_and_status_2(changes, message, folder, tmp_path, capsys):
    config = yaml.safe_dump(pruned(merge_settings(BASE, changes))).replace("FOLDER", str(folder))
    (tmp_path / "config.yaml").write_text(config)
    status = main(["--config", str(tmp_path / "config.yaml"), "--run", str(tmp_path / "run")])
    error = capsys.readouterr().err.strip()
    assert status == 2 and message.replace("FOLDER", str(folder)) in error, error
    assert error.count("error:") == 1 and "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_a_sentence_that_only_evaluation_finds_too_long_leaves_the_logs_of_training(
    folder, tmp_path, capsys
):
    settings = {"task": {"length": 5}, "train": {"updates": 1, "validate_every": 1}}
    config = pruned(merge_settings(BASE, {**BERT, **FULL, **settings}))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config).replace("FOLDER", str(folder)))
    run = tmp_path / "run"
    assert main(["--config", str(tmp_path / "config.yaml"), "--run", str(run)]) == 2
    assert "has a sequence of 8 positions, more than the 5" in capsys.readouterr().err
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1


def pruned(config):
    """Return the config without criteria and sets that are None."""
    for part in (config["criterion"], config["task"]["data"]):
        for name in [name for name, value in part.items() if value is None]:
            del part[name]
    return config


def test_what_is_no_tree_is_read_where_no_tree_is_asked_for(folder, tmp_path):
    changes = {
        "task": {
            "data": {
                "tiny": {
                    "path": str(folder / "cyclic.conllu"),
                    "labels": {"pos": "upos", "tree": None},
                }
            }
        },
        "criterion": {"tree": None},
    }
    config = pruned(merge_settings(BASE, changes))
    del config["task"]["data"]["tiny"]["labels"]["tree"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["--config", str(tmp_path / "config.yaml"), "--run", str(tmp_path / "run")]) == 0


def test_the_smallest_fraction_keeps_one_sentence(tmp_path):
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump(merge_settings(BASE, treebank(fraction=1e-9)))
    )
    assert main(["--config", str(tmp_path / "config.yaml"), "--run", str(tmp_path / "run")]) == 0


def test_modules_that_read_features_alone_imitate_on_any_encoder(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(merge_settings(BASE, {**BERT, **FULL})))
    assert main(["--config", str(tmp_path / "config.yaml"), "--run", str(tmp_path / "run")]) == 0


def test_students_and_teacher_at_different_positions_are_refused():
    views = {
        "plain": {"noiser": "rows", "sources": ["unlabelled"]},
        "unlabelled": {"noiser": "crop", "keep": 0.5, "of": "plain"},
        "teacher": {"noiser": "identity", "of": "plain", "mode": "teacher"},
    }
    message = "views.unlabelled: 'unlabelled' and 'teacher' have different positions, because a noiser moved tokens"
    with (
        pytest.raises(ConfigError, match=message),
        trainer_of(config_of("cvt_tagging", {"views": views})) as trainer,
    ):
        for batches in islice(batches_of(trainer.run), 4):  # some are unlabelled
            begin_update(trainer, batches, Update(number=1))
