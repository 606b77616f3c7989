"""The characters that each token stands for, and the special tokens around one text and two."""

from __future__ import annotations

import json
import random

import pytest

from fwk.data import tokenizers
from fwk.data.tokenizers.base import Frame
from fwk.data.tokenizers.huggingface import HFTokenizer
from fwk.data.tokenizers.sentencepiece import SentencePiece

TEXT = [
    f"The {adjective} {noun} of station {n} was closed; the {noun} is {adjective} again."
    for n in range(20)
    for adjective in ("old", "narrow")
    for noun in ("bridge", "railway")
]
# two blanks, a letter that lower-casing makes longer, a ligature, a fraction, a combined accent, ideographs, an emoji
HARD = "  The old\u3000 bridge, İSTANBUL ﬁne ½ cafe\u0301 日本 😀 Ⅷ\t\n ΟΔΟΣ x\u200b "


@pytest.fixture(scope="module", params=tokenizers.KINDS)
def tokenizer(request):
    if request.param in ("wordpiece", "byte_bpe"):
        pytest.importorskip("tokenizers")
    return tokenizers.train(TEXT, request.param, 320)


def texts() -> list[str]:
    """Return the hard text, pieces of it in a random order, and texts without content."""
    draw = random.Random(0)
    shuffled = ["".join(draw.choices(HARD, k=12)) for _ in range(40)]
    return [HARD, *shuffled, "", " ", "\n\u3000"]


def test_ids_equal_those_of_encode(tokenizer):
    encoded = tokenizer.encode_with_offsets(texts())
    assert [ids for ids, _ in encoded] == [tokenizer.encode(text) for text in texts()]


def test_spans_lie_in_the_text_in_order_and_without_white_space_at_their_ends(tokenizer):
    for text, (ids, spans) in zip(texts(), tokenizer.encode_with_offsets(texts()), strict=True):
        assert len(ids) == len(spans)
        assert spans == sorted(spans), text
        for begin, end in spans:
            assert 0 <= begin <= end <= len(text)
            assert text[begin:end] == text[begin:end].strip()


def test_every_visible_character_of_an_ordinary_text_has_a_token(tokenizer):
    text = "The  narrow bridge\nis old."
    (ids, spans) = tokenizer.encode_with_offsets([text])[0]
    covered = {place for begin, end in spans for place in range(begin, end)}
    assert covered == {place for place, character in enumerate(text) if not character.isspace()}
    for index, (begin, end) in zip(ids, spans, strict=True):
        if index != tokenizer.unk:
            token = tokenizer.token(index).removeprefix("##").strip("\u2581\u0120\u010a")
            assert token == text[begin:end].lower()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("İİ the bridge", "bridge"),
        ("ﬁ ½ Ⅷ the bridge", "bridge"),
        ("e\u0301e\u0301\u3000old", "old"),
        ("日本 😀 railway", "railway"),
    ],
)
def test_a_word_is_found_behind_characters_whose_number_changes(tokenizer, text, word):
    where = text.index(word)
    (ids, spans) = tokenizer.encode_with_offsets([text])[0]
    inside = [i for i, (begin, end) in enumerate(spans) if begin < end and end > where]
    assert spans[inside[0]][0] == where and spans[inside[-1]][1] == len(text)
    assert tokenizer.decode([ids[i] for i in inside]).strip() == word


def test_tokens_of_one_character_share_its_span():
    tokenizer = tokenizers.train(TEXT, "unigram", 320)
    (ids, spans) = tokenizer.encode_with_offsets(["a ½ Ⅷ"])[0]
    shown = [tokenizer.token(index) for index in ids]
    assert [span for token, span in zip(shown, spans, strict=True) if token == "i"] == [(4, 5)] * 3
    assert spans[shown.index("2")] == (2, 3) == spans[shown.index("2") - 2]


def test_lower_casing_by_us_keeps_the_places_of_the_text_as_it_was():
    cased = tokenizers.train([text.lower() for text in TEXT], "bpe", 320, lower=False)
    tokenizer = SentencePiece(cased._proto, lower=True)
    text = "İ THE İ Bridge"
    (ids, spans) = tokenizer.encode_with_offsets([text])[0]
    assert ids == tokenizer.encode(text)
    assert text[spans[-1][0] : spans[-1][1]] == "Bridge" and "THE" in [text[b:e] for b, e in spans]


def test_bert_frames_what_fwk_trained(tokenizer):
    assert tokenizer.frame == Frame(before=(2,), between=(3,), after=(3,), segments=(0, 1))


def framed(processor: dict | None) -> HFTokenizer:
    """Return a tokenizer of single letters with this post-processor."""
    names = ["<pad>", "<unk>", "<s>", "</s>", "[CLS]", "[SEP]", "a", "b"]
    special = [name for name in names if len(name) > 1]
    content = {
        "version": "1.0",
        "added_tokens": [
            {"id": names.index(name), "content": name, "special": True}
            | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            for name in special
        ],
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": processor,
        "model": {
            "type": "WordLevel",
            "vocab": {name: index for index, name in enumerate(names)},
            "unk_token": "<unk>",
        },
    }
    return HFTokenizer(json.dumps(content))


def template(pair: str) -> dict:
    """Return a post-processor for a pattern such as `[CLS]:0 A:0 [SEP]:0 B:1`."""
    pieces = []
    for word in pair.split():
        name, kind = word.rsplit(":", 1)
        key = "Sequence" if name in "AB" else "SpecialToken"
        pieces.append({key: {"id": name, "type_id": int(kind)}})
    ids = {"<s>": 2, "</s>": 3, "[CLS]": 4, "[SEP]": 5}
    tokens = {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in ids.items()}
    single = [{"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": pieces,
        "special_tokens": tokens,
    }


@pytest.mark.parametrize(
    ("processor", "frame"),
    [
        (None, Frame(before=(4,), between=(5,), after=(5,), segments=(0, 1))),
        (
            {"type": "BertProcessing", "sep": ["[SEP]", 5], "cls": ["[CLS]", 4]},
            Frame(before=(4,), between=(5,), after=(5,), segments=(0, 1)),
        ),
        (
            {
                "type": "RobertaProcessing",
                "sep": ["</s>", 3],
                "cls": ["<s>", 2],
                "trim_offsets": True,
                "add_prefix_space": False,
            },
            Frame(before=(2,), between=(3, 3), after=(3,), segments=(0, 0)),
        ),
        (
            template("[CLS]:0 A:0 [SEP]:0 B:0 [SEP]:0"),
            Frame(before=(4,), between=(5,), after=(5,), segments=(0, 0)),
        ),
        (
            template("A:0 [SEP]:0 B:1 [SEP]:1 [CLS]:2"),
            Frame(before=(), between=(5,), after=(5, 4), segments=(0, 1)),
        ),
    ],
    ids=["none", "bert", "roberta", "deberta", "xlnet"],
)
def test_the_frame_is_that_of_the_post_processor(processor, frame):
    pytest.importorskip("tokenizers")
    assert framed(processor).frame == frame
