"""Templates and label words: their pieces are what the tokenizer makes of the whole text."""

from __future__ import annotations

import numpy as np
import pytest

from fwk.contracts.prompts import Piece
from fwk.contracts.views import View
from fwk.data import tokenizers
from fwk.data.examples.templates import encode_words, needs_space, parse_template
from fwk.data.tokenizers import HFTokenizer
from fwk.errors import ConfigError
from fwk.tasks.examples import Examples

TEXT = [
    f"The {noun} of {n} is {word}, and the {noun} was {word}. It is ({word})! Was it?"
    for n in range(12)
    for noun in ("film", "book")
    for word in ("great", "terrible", "okay")
]
TEXTS = ("first", "second")
KEY = "task.templates.prompt"


def without_first_space() -> HFTokenizer:
    """Return a byte-level tokenizer as RoBERTa's, for which a text at the beginning has other tokens."""
    library = pytest.importorskip("tokenizers")
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=list(tokenizers.SPECIAL),
        show_progress=False,
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(TEXT, trainer=trainer)
    return HFTokenizer(tokenizer.to_str())


@pytest.fixture(scope="module", params=[*tokenizers.KINDS, "without_first_space"])
def tokenizer(request: pytest.FixtureRequest) -> tokenizers.Tokenizer:
    if request.param == "without_first_space":
        return without_first_space()
    if request.param in ("wordpiece", "byte_bpe"):
        pytest.importorskip("tokenizers")
    return tokenizers.train(TEXT, request.param, 420)


def filled(pieces: tuple[Piece, ...], tokenizer: tokenizers.Tokenizer, **texts: str) -> list[int]:
    """Return the tokens of a template with its texts and with the word 'great' in place of the mask."""
    ids: list[int] = []
    (word,) = encode_words({"good": "great"}, ["good"], tokenizer, "words")
    for piece in pieces:
        if piece.is_mask:
            ids += word
        elif piece.text:
            space = " " if piece.text != piece.source else ""
            ids += tokenizer.encode(space + texts[piece.source])
        else:
            ids += piece.ids
    return ids


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{first} It was [MASK].", "The film It was great."),
        ("{first}? [MASK], {second}", "The film? great, the book was terrible"),
        ("[MASK]: {first}", " great: The film"),
        ("The {second}! {first} is [MASK]", "The the book was terrible! The film is great"),
        ("{first} {{ [MASK] }}", "The film { great }"),
    ],
)
def test_pieces_are_the_tokens_of_the_whole_text(tokenizer, template: str, text: str) -> None:
    texts = {"first": "The film", "second": "the book was terrible"}
    # a word in the first place is encoded as behind a space all the same
    text = text if needs_space(tokenizer) else text.strip()
    pieces = parse_template(template, TEXTS, tokenizer, KEY)
    assert filled(pieces, tokenizer, **texts) == tokenizer.encode(text)


def test_texts_behind_a_space_are_encoded_so_in_a_task(tmp_path) -> None:
    tokenizer = without_first_space()
    tokenizer.save(tmp_path / "tokenizer")
    rows = [("The film", "the book was great", "good"), ("The book", "it was terrible", "bad")] * 2
    table = ["first\tsecond\tlabel", *("\t".join(row) for row in rows)]
    (tmp_path / "table.tsv").write_text("\n".join(table) + "\n", encoding="utf-8")
    task = Examples(
        Examples.Config(
            data=str(tmp_path / "table.tsv"),
            valid=str(tmp_path / "table.tsv"),
            texts=TEXTS,
            tokenizer=str(tmp_path / "tokenizer"),
            templates={"prompt": "{first}? [MASK], {second}"},
            label_words={"good": "great", "bad": "terrible"},
            demonstrations=1,
            demonstration_sets=1,
        )
    )
    (source,) = task.sources("valid").values()
    batch = task.collate([source[0]], np.zeros(1, np.int64), np.zeros(1, np.int64))
    asked, bad, good = rows_of(batch.texts.rendered(batch, ["prompt"]), tokenizer)
    assert asked == "The film?[MASK], the book was great"
    assert bad == "The book? terrible, it was terrible"
    assert good == "The film? great, the book was great"


def rows_of(view: View, tokenizer: tokenizers.Tokenizer) -> list[str]:
    """Return the segments of the first row as text."""
    ids = view.tokens[0].tolist()
    ends = [place for place, index in enumerate(ids) if index == tokenizer.sep]
    return [tokenizer.decode(ids[a + 1 : b]) for a, b in zip([0, *ends], ends)]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{first} It was.", "has 0 times \\[MASK\\], expected one"),
        ("{first} [MASK] [MASK]", "has 2 times \\[MASK\\], expected one"),
        ("It was [MASK].", "shows no text; write {NAME} for one"),
        ("{frist} was [MASK].", "the task has no text 'frist'. Did you mean 'first'"),
        ("{first was [MASK].", "is no template"),
        ("{first!r} was [MASK].", "expected the name of a text in each {}"),
        ("{first:>9} was [MASK].", "expected the name of a text in each {}"),
        ("{first.real} was [MASK].", "the task has no text 'first.real'"),
    ],
)
def test_what_is_no_template_is_refused_by_key(template: str, message: str) -> None:
    tokenizer = tokenizers.train(TEXT, "unigram", 200)
    with pytest.raises(ConfigError, match=message) as error:
        parse_template(template, TEXTS, tokenizer, KEY)
    assert KEY in str(error.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"good": "great"}, "the class 'bad' has no word"),
        ({"good": "great", "bad": []}, "the class 'bad' has no word"),
        ({"good": "great", "bda": "terrible"}, "no class 'bda'. Did you mean 'bad'"),
        ({"good": "great", "bad": "greatest"}, r"'greatest' is \d tokens \(.*\); expected a word"),
        (
            {"good": "great", "bad": ["terrible", "great"]},
            "is the token '▁great', which 'good' has",
        ),
    ],
)
def test_words_that_do_not_name_classes_are_refused(words, message: str) -> None:
    tokenizer = tokenizers.train(TEXT, "unigram", 200)
    with pytest.raises(ConfigError, match=message):
        encode_words(words, ["good", "bad"], tokenizer, "task.label_words")
