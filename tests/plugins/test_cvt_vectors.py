"""Tests of word vectors from files: which words they make known, what the encoder begins with, what is refused."""

from __future__ import annotations

import gzip
import json
import logging
import lzma

import pytest
import torch
from support.cases import CASES, SENTENCES

import fwk
from fwk.cli.evaluate import main as evaluate_command
from fwk.config.resolve import build
from fwk.errors import ConfigError, DataError
from fwk.testing import merge_settings, rule_resume, tiny_config, train_briefly, trainer_of
from fwk_plugins.cvt.corpora.lexicon import normal
from fwk_plugins.cvt.corpora.vectors import read_vectors
from fwk_plugins.cvt.tasks.sentences import SentencesTask

CASE = CASES["tagger and parser that are imitated"]
GLOVE = "the 1 2 3\ncat -1 0.5 2e-1\n, 0 0 1\n"


@pytest.fixture
def file(tmp_path):
    def write(text, name="vectors.txt"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def read(path, wanted, lower=True):
    return read_vectors(
        path, wanted, lambda word: normal(word, lower), lambda word: normal(word, True)
    )


def vectors_of(path, wanted, lower=True):
    return {word: vector.tolist() for word, vector in read(path, wanted, lower).by_word.items()}


@pytest.mark.parametrize(
    "name, written",
    [
        ("glove.txt", GLOVE.encode()),
        ("glove.txt.gz", gzip.compress(GLOVE.encode(), mtime=0)),
        ("glove.txt.xz", lzma.compress(GLOVE.encode())),
        (
            "word2vec.txt",
            b"3 3\n" + GLOVE.replace("\n", " \n").encode(),
        ),  # the original program ends lines with a blank
        ("windows.txt", GLOVE.replace("\n", "\r\n").encode()),
    ],
    ids=["GloVe", "gzip", "xz", "word2vec", "Windows"],
)
def test_files_of_both_kinds_compressed_or_not_are_read(file, name, written):
    path = file(written, name)
    assert vectors_of(path, ["the", "cat", ",", "dog"]) == {
        "the": [1, 2, 3],
        "cat": [-1, 0.5, pytest.approx(0.2)],
        ",": [0, 0, 1],
    }
    assert read(path, []).width == 3


def test_words_that_hold_blanks_are_words_and_the_first_of_two_wins(file):
    path = file("the 1 2\n. . . 3 4\nat name@domain.com 5 6\nthe 7 8\ncat 9 9\n")
    assert vectors_of(path, ["the", ". . .", "at name@domain.com", "cat"]) == {
        "the": [1, 2],
        ". . .": [3, 4],
        "at name@domain.com": [5, 6],
        "cat": [9, 9],
    }


def test_a_word_is_found_as_it_is_then_in_lower_case_then_with_zeros_for_digits(file):
    path = file("Paris 1\n1984 2\n1999 3\nb12 4\nB00 5\nTHE 6\nthe 7\n")
    assert vectors_of(path, ["paris", "0000", "b00", "the"]) == {
        "paris": [1],
        "0000": [2],
        "b00": [4],
        "the": [7],
    }
    assert vectors_of(path, ["The", "PARIS", "B00", "1984"], lower=False) == {
        "The": [7],
        "PARIS": [1],
        "B00": [5],
        "1984": [2],
    }


@pytest.mark.parametrize(
    "text, message",
    [
        ("the 1 2\ncat 1\n", r":2: expected a word and 2 numbers, got 1: 'cat 1'"),
        ("the 1 2\ncat 1 2 3\n", r":2: expected a word and 2 numbers, got 3"),
        ("the 1 2\ncat 1 x\n", r":2: the vector of 'cat' contains 'x', expected a finite number"),
        ("the 1 2\ncat 1 nan\n", r":2: the vector of 'cat' contains 'nan'"),
        ("the 1 2\ncat inf 2\n", r":2: .*'inf'"),
        ("3 2\nthe 1 2\ncat 1 2\n", r":1: the header declares 3 words, and the file has 2"),
        ("", "contains no word vector"),
        ("\n\n", "contains no word vector"),
        ("the\n", r":1: expected a word and its numbers"),
        (b"the 1 2\nc\xe9 1 2\n", "line 2: not UTF-8"),
    ],
)
def test_a_broken_line_is_named(file, text, message):
    with pytest.raises(DataError, match=message):
        read(file(text), ["the", "cat"])


def test_a_file_that_is_not_there_is_told_with_the_nearest(file):
    path = file(GLOVE, "glove.txt")
    with pytest.raises(DataError, match="no file.*Did you mean 'glove.txt'"):
        read(path.replace("glove", "glovee"), ["the"])


# -- the task and the encoder ------------------------------------------------------------------------------------------


def data(tmp_path):
    train, valid = tmp_path / "train.txt", tmp_path / "valid.txt"
    train.write_text("Rare N\n1984 M\ncommon N\n\ncommon N\ncommon N\n\n")
    valid.write_text("unseen N\nunknown N\n\n")
    return {
        "x": {
            "path": str(train),
            "valid": str(valid),
            "columns": ["word", "tag"],
            "labels": {"tag": "tag"},
        }
    }


def task(**options) -> SentencesTask:
    return SentencesTask(build(SentencesTask, options), 1)


def test_words_of_held_out_text_and_rare_ones_are_known_where_they_have_a_vector(
    tmp_path, file, caplog
):
    path = file("Rare 1 1\n2001 2 2\nunseen 3 3\nelsewhere 4 4\n")
    with caplog.at_level(logging.INFO, "fwk"):
        built = task(data=data(tmp_path), vectors=path)
    assert built.words == ["", "<unk>", "common", "0000", "rare", "unseen"]
    vocabulary = built.vocabulary()
    assert vocabulary.counts.tolist() == [0, 0, 3, 1, 1, 0] and vocabulary.width == 2
    assert vocabulary.vectors.isnan().all(1).tolist() == [True] * 3 + [
        False
    ] * 3 and vocabulary.vectors[3:, 0].tolist() == [2, 1, 3]
    assert built.sources("valid")["x"][0].words.tolist() == [5, 1]
    assert "3 of 5 words have a vector in" in caplog.text
    without = task(data=data(tmp_path))
    assert without.words == ["", "<unk>", "common"] and without.vocabulary().vectors is None
    assert (
        without.fingerprint()
        != built.fingerprint()
        == task(data=data(tmp_path), vectors=path).fingerprint()
    )


def config_of(path, **model):
    return tiny_config(
        merge_settings(
            CASE,
            {
                "task": {"vectors": path},
                "model": {"words": 3, **model},
                "train": {"precision": "fp32"},
            },
        )
    )


@pytest.fixture
def vectors(file):
    return file("the 1 2 3\ndog 4 5 6\ncat 0 0 1\nnowhere 1 1 1\n")


def test_the_encoder_begins_with_them_and_the_other_words_with_numbers_as_large(vectors):
    with trainer_of(config_of(vectors)) as trainer:
        run = trainer.run
        table, words = run.module.networks["main"].token.weight, run.task.words
        ids = [words.index(word) for word in ("the", "dog") if word in words]
        assert ids and table[words.index("the")].tolist() == [1, 2, 3]
        given = run.task.vocabulary().vectors
        size = given[~given.isnan().any(1)].square().mean().sqrt()
        others = table[given.isnan().any(1)]
        assert 0.75 < others.std() / size < 1.25 and len(others) > 10


def test_frozen_vectors_stay_while_other_words_learn_and_a_run_needs_no_file(vectors, tmp_path):
    config = config_of(vectors, train_vectors=False)
    with trainer_of(config) as trainer:
        words, before = (
            trainer.run.task.words,
            trainer.run.module.networks["main"].token.weight.clone(),
        )
    train_briefly(config, tmp_path / "run", 3)
    (tmp_path / "vectors.txt").unlink()
    loaded = fwk.load(tmp_path / "run")
    token = loaded.model.token
    the = words.index("the")
    assert token(torch.tensor([[the]]))[0, 0].tolist() == [1, 2, 3] and token.has_given[the]
    free = ~token.has_given
    assert (
        free[1]
        and (token.weight[free] != before[free]).any()
        and json.loads((tmp_path / "run" / "tokenizer" / "sentences.json").read_text())["vectors"]
        == 3
    )


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.slow
def test_a_run_with_vectors_goes_on_where_it_stopped(vectors, trained):
    assert not rule_resume(config_of(vectors, train_vectors=trained))


def test_a_width_that_differs_and_vectors_that_are_not_there_are_refused(vectors):
    with pytest.raises(
        ConfigError,
        match="model.words: is 8, and the vectors of task.vectors have 3 numbers; expected model.words=3",
    ):
        with trainer_of(config_of(vectors, words=8)):
            pass
    with pytest.raises(ConfigError, match="model.train_vectors: false keeps the vectors of a file"):
        with trainer_of(
            tiny_config(
                {
                    **SENTENCES,
                    "model": {**SENTENCES["model"], "train_vectors": False},
                    "criterion": {"cvt_tagging": {"label": "pos"}},
                }
            )
        ):
            pass


def test_other_vectors_that_make_other_words_known_are_other_data(vectors, tmp_path, capsys, file):
    train_briefly(_with_rare(vectors), tmp_path / "run", 1)
    other = file("the 1 2 3\n", "other.txt")
    assert evaluate_command([str(tmp_path / "run"), f"task.vectors={other}"]) == 2
    assert "was trained on other data" in capsys.readouterr().err


def _with_rare(vectors):
    return tiny_config(
        merge_settings(
            CASE,
            {
                "task": {"vectors": vectors, "fewest": 1000},
                "model": {"words": 3},
                "train": {"precision": "fp32"},
            },
        )
    )
