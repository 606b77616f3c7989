"""Tokenizers: special tokens, round trips, fingerprints, and files that are not what they should be."""

from __future__ import annotations

import pickle
import sys

import pytest

from fwk.data import tokenizers
from fwk.errors import ConfigError, DataError

TEXT = [
    f"The {adjective} {noun} of station {n} was closed; the {noun} is {adjective} again."
    for n in range(40)
    for adjective in ("old", "narrow", "famous")
    for noun in ("bridge", "railway", "harbour")
]


@pytest.fixture(scope="module", params=tokenizers.KINDS)
def trained(request):
    if request.param in ("wordpiece", "byte_bpe"):
        pytest.importorskip("tokenizers")
    return request.param, tokenizers.train(TEXT, request.param, 320)


def test_special_tokens_are_the_first_five(trained):
    _, tokenizer = trained
    ids = [tokenizer.pad, tokenizer.unk, tokenizer.cls, tokenizer.sep, tokenizer.mask]
    assert ids == [0, 1, 2, 3, 4] == list(tokenizer.special)
    assert [tokenizer.token(i) for i in ids] == list(tokenizers.SPECIAL)


def test_special_tokens_in_a_text_are_text(trained):
    _, tokenizer = trained
    ids = tokenizer.encode("the [MASK] old [CLS] bridge [PAD]")
    assert not {tokenizer.mask, tokenizer.cls, tokenizer.pad} & set(ids)


def test_text_survives_and_batches_equal_single_calls(trained):
    _, tokenizer = trained
    ids = tokenizer.encode("the narrow railway is famous")
    assert (
        tokenizer.decode([tokenizer.cls, *ids, tokenizer.sep]).strip()
        == "the narrow railway is famous"
    )
    assert tokenizer.encode_batch(["the old bridge", "harbour"]) == [
        tokenizer.encode("the old bridge"),
        tokenizer.encode("harbour"),
    ]
    assert max(ids) < tokenizer.size and tokenizer.id(tokenizer.token(ids[0])) == ids[0]


def test_training_again_gives_the_same_tokenizer(trained):
    kind, tokenizer = trained
    assert tokenizers.train(TEXT, kind, 320).fingerprint == tokenizer.fingerprint
    assert tokenizers.train(TEXT, kind, 320, lower=False).fingerprint != tokenizer.fingerprint


def test_case_is_kept_when_asked(trained):
    kind, _ = trained
    cased = tokenizers.train(TEXT, kind, 320, lower=False)
    assert cased.decode(cased.encode("The old bridge")).strip() == "The old bridge"


def test_a_saved_tokenizer_loads_equal_and_pickles(trained, tmp_path):
    _, tokenizer = trained
    tokenizer.save(tmp_path / "t")
    for again in (tokenizers.load(tmp_path / "t"), pickle.loads(pickle.dumps(tokenizer))):
        assert again.fingerprint == tokenizer.fingerprint and again.encode(
            TEXT[5]
        ) == tokenizer.encode(TEXT[5])
    file = (
        tmp_path
        / "t"
        / ("tokenizer.model" if tokenizer.kind == "sentencepiece" else "tokenizer.json")
    )
    assert tokenizers.load(file).encode(TEXT[5]) == tokenizer.encode(TEXT[5])
    changed = next(p for p in (tmp_path / "t").iterdir() if p.name.startswith("tokenizer"))
    other = tokenizers.train(TEXT, "bpe" if tokenizer.kind == "sentencepiece" else "wordpiece", 100)
    other.save(tmp_path / "o")
    changed.write_bytes((tmp_path / "o" / changed.name).read_bytes())
    with pytest.raises(DataError, match="was changed after it was saved"):
        tokenizers.load(tmp_path / "t")


def test_a_wordpiece_vocabulary_file_is_enough(tmp_path):
    pytest.importorskip("tokenizers")
    (tmp_path / "vocab.txt").write_text(
        "\n".join([*tokenizers.SPECIAL, "the", "bridge", "##s", "old"])
    )
    tokenizer = tokenizers.load(tmp_path / "vocab.txt")
    assert tokenizer.encode("The old BRIDGES") == [5, 8, 6, 7] and tokenizer.mask == 4
    assert tokenizers.load(tmp_path).fingerprint == tokenizer.fingerprint


def test_too_large_a_vocabulary_comes_out_smaller():
    assert 5 < tokenizers.train(["hello small world"], "unigram", 5000).size < 100
    assert 5 < tokenizers.train(["hello small world"], "bpe", 5000).size < 100


def test_wrong_files_and_names_are_one_sentence(tmp_path):
    (tmp_path / "wiki.model").write_bytes(b"not a model")
    with pytest.raises(DataError, match="wiki.model is not a sentencepiece model"):
        tokenizers.load(tmp_path / "wiki.model")
    with pytest.raises(DataError, match="Did you mean 'wiki.model'"):
        tokenizers.load(tmp_path / "wki.model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no tokenizer"):
        tokenizers.load(tmp_path / "empty")
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"no line '\[UNK\]'|fwk\[hf\]"):
        tokenizers.load(tmp_path / "vocab.txt")
    with pytest.raises(ConfigError, match="Did you mean 'wordpiece'"):
        tokenizers.train(TEXT, "wordpeace", 100)
    with pytest.raises(DataError, match="no text"):
        tokenizers.train([], "unigram", 100)


def test_without_the_extra_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DataError, match=r"pip install 'fwk\[hf\]'"):
        tokenizers.train(TEXT, "wordpiece", 100)
