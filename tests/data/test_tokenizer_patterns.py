"""Regular expressions in a tokenizer.json of a stranger."""

import json

import pytest

from fwk.data.tokenizers import patterns
from fwk.data.tokenizers.huggingface import HFTokenizer
from fwk.data.tokenizers.loading import load
from fwk.errors import DataError

pytest.importorskip("tokenizers")
VOCABULARY = {"[UNK]": 0, "[PAD]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5, "b": 6}
EXPONENTIAL = ["(a+)+$", "foo(b+)+$", "(ab|ab|a)*$", r"(\p{L}+)+\d", r"([^\s]+)+ ", "(a|a)*b"]


def content(pattern, step="pre_tokenizer"):
    cut = {"pattern": {"Regex": pattern}}
    steps = {
        "pre_tokenizer": {"type": "Split", "behavior": "Isolated", "invert": False, **cut},
        "normalizer": {"type": "Replace", "content": "", **cut},
        "decoder": {"type": "Replace", "content": "", **cut},
    }
    sequence = {
        "pre_tokenizer": "pretokenizers",
        "normalizer": "normalizers",
        "decoder": "decoders",
    }
    nested = {"type": "Sequence", sequence[step]: [steps[step]]}
    model = {"type": "WordLevel", "vocab": VOCABULARY, "unk_token": "[UNK]"}
    empty = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": []}
    return json.dumps({**empty, "model": model, step: nested})


@pytest.mark.parametrize("step", ["pre_tokenizer", "normalizer", "decoder"])
def test_an_expression_of_exponential_time_is_refused_with_file_and_expression(step, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(content("(a+)+$", step))
    with pytest.raises(DataError) as caught:
        load(path)
    assert str(path) in str(caught.value) and "'(a+)+$'" in str(caught.value)
    with pytest.raises(DataError, match="regular expression"):
        load(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [*EXPONENTIAL, "a*a*a*$", "(?<x>a\\g<x>?)+$"])
def test_every_kind_of_repeated_repetition_is_found(pattern):
    with pytest.raises(DataError, match="regular expression"):
        patterns.require_harmless(content(pattern), "tokenizer.json")


def test_an_uncommon_harmless_expression_is_used_as_it_is(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(content(r"(?:\r?\n)+(?!\r?\n)|\s?\p{L}+"))
    assert load(path).encode_batch(["a", "b"]) == [[5], [6]]


def test_expressions_in_wide_use_start_no_process(monkeypatch):
    monkeypatch.setattr(patterns.subprocess, "run", lambda *a, **k: pytest.fail("a trial"))
    for pattern in patterns._IN_WIDE_USE:
        patterns.require_harmless(content(pattern), "tokenizer.json")
        HFTokenizer(content(pattern))  # valid for the library
    patterns.require_harmless("no JSON", "tokenizer.json")


def test_a_panic_of_the_library_while_encoding_is_one_sentence():
    tokenizer = HFTokenizer(content("(a+)+$"))  # not read from a file, so not tried
    with pytest.raises(DataError, match="cannot encode a text"):
        tokenizer.encode("a" * 40 + "!")
