"""A tokenizer.json without a token for what is unknown."""

import json

import pytest

from fwk.data.tokenizers.huggingface import HFTokenizer
from fwk.errors import DataError

pytest.importorskip("tokenizers")
CONTENT = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": {
        "type": "BertNormalizer",
        "clean_text": True,  # removes characters that are not assigned, which a test would try
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    },
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": None,
    "decoder": None,
    "model": {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[MASK]": 3, "a": 4, "b": 5},
    },
}


def test_a_text_that_it_cannot_encode_is_one_sentence():
    tokenizer = HFTokenizer(json.dumps(CONTENT))
    assert tokenizer.encode_batch(["a b"]) == [[4, 5]]
    for encode in (tokenizer.encode, lambda text: tokenizer.encode_batch([text])):
        with pytest.raises(DataError, match=r"cannot encode a text .*such as \[UNK\]"):
            encode("a zz")
