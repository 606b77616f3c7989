"""Tests of corpora and scores: sentences from files, tags and spans, scores, trees."""

from __future__ import annotations

import functools
import gzip
import io
import itertools
import lzma
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.paths import FIXTURES, SHARED

from fwk.config.resolve import build
from fwk.data.preprocess import Options, TokenizerSpec, build_store
from fwk.data.tokenizers import load
from fwk.errors import ConfigError, DataError, UnknownName
from fwk_plugins.cvt.corpora import label_spaces, readers, tags, trees
from fwk_plugins.cvt.corpora.corpus import read_corpus
from fwk_plugins.cvt.corpora.labelled_sets import labelled_sets
from fwk_plugins.cvt.corpora.readers import (
    Sentence,
    is_lower_case,
    read_columns,
    read_conllu,
    read_plain,
    read_store,
)
from fwk_plugins.cvt.corpora.writers import write_columns, write_conllu
from fwk_plugins.cvt.scoring import scores
from fwk_plugins.cvt.tasks.sentences import SentencesTask

DATA = SHARED
real_data = pytest.mark.skipif(not DATA.is_dir(), reason="the folder of real data sets is absent")
CHUNKS, WNUT = ("word", "pos", "tag"), ("word", "tag")
SCHEMES = ("IOB1", "IOB2", "BIOES")


@functools.cache
def chunks():
    return tuple(read_columns(DATA / "conll2000-train.txt.xz", CHUNKS))


@functools.cache
def wnut():
    return tuple(read_columns(DATA / "wnut17-train.conll.xz", WNUT, separator="\t"))


def size(sentences):
    sentences = list(sentences)
    return len(sentences), sum(len(sentence.words) for sentence in sentences)


def unplaced(sentences):
    return [replace(sentence, place="") for sentence in sentences]


def word(number, form="word", head=0, upos="NOUN"):
    return f"{number}\t{form}\tlemma\t{upos}\tNN\t_\t{head}\tdep\t_\t_\n"


@pytest.fixture
def file(tmp_path):
    def write(text, name="file.txt"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


# files


@real_data
@pytest.mark.slow
def test_the_real_files_hold_as_many_sentences_and_words_as_their_documentation_says():
    ewt = list(read_conllu(DATA / "ud-ewt-train.conllu.xz"))
    assert size(ewt) == (12_544, 204_577)
    assert all(sentence.heads and len(sentence.heads) == len(sentence.words) for sentence in ewt)
    assert len({tag for sentence in ewt for tag in sentence.columns["upos"]}) == 17
    assert size(read_conllu(DATA / "ud-ewt-dev-even.conllu.xz")) == (1_001, 12_652)
    assert size(chunks()) == (8_936, 211_727)
    assert size(wnut()) == (3_394, 62_730)
    assert size(read_columns(DATA / "wnut17-dev-even.conll.xz", WNUT, separator="\t")) == (
        505,
        7_509,
    )


@real_data
def test_real_conllu_is_the_same_written_and_read_again(tmp_path):
    first = list(read_conllu(DATA / "ud-ewt-dev-even.conllu.xz"))
    with open(tmp_path / "again.conllu", "w", encoding="utf-8") as out:
        write_conllu(first, out)
    assert unplaced(read_conllu(tmp_path / "again.conllu")) == unplaced(first)


@real_data
@pytest.mark.slow
@pytest.mark.parametrize(
    "read, columns, separator",
    [(chunks, CHUNKS, " "), (wnut, WNUT, "\t")],
    ids=["conll2000", "wnut17"],
)
def test_real_columns_are_the_same_written_and_read_again(read, columns, separator, tmp_path):
    with open(tmp_path / "again.txt", "w", encoding="utf-8") as out:
        write_columns(read(), columns, out, separator)
    assert unplaced(read_columns(tmp_path / "again.txt", columns, separator)) == unplaced(read())


def test_conllu_leaves_out_multiword_tokens_empty_nodes_and_comments(file):
    line = "\t_" * 8 + "\n"
    path = file(
        "# text = don't\n1-2\tdon't"
        + line
        + word(1, "do", 3)
        + word(2, "n't", 3)
        + "2.1\tx"
        + line
        + word(3, "go")
        + "\n\n\n# another\n"
        + word(1, "#tag", 0, "X")
    )
    first, second = read_conllu(path)
    assert (
        first.words == ("do", "n't", "go")
        and first.heads == (3, 3, 0)
        and first.place == f"{path}:3"
    )
    assert first.columns == {
        "form": first.words,
        "lemma": ("lemma",) * 3,
        "upos": ("NOUN",) * 3,
        "xpos": ("NN",) * 3,
        "feats": ("_",) * 3,
        "deprel": ("dep",) * 3,
    }
    assert second.words == ("#tag",) and second.place == f"{path}:11"
    assert first.joined == ((1, 2, "don't"),) and second.joined == ()
    out = io.StringIO()
    write_conllu([first, second], out)
    assert out.getvalue().splitlines()[0] == "1-2\tdon't" + line.rstrip()
    assert [s.joined for s in read_conllu(file(out.getvalue(), "again"))] == [first.joined, ()]


@pytest.mark.parametrize("id", ["2-3", "1-1", "2-1", "1-4", "0-2"])
def test_a_multiword_token_that_does_not_stand_before_its_words_is_refused(id, file):
    path = file(
        f"{id}\tabc" + "\t_" * 8 + "\n" + word(1, "a", 0) + word(2, "b", 1) + word(3, "c", 1)
    )
    with pytest.raises(
        DataError, match=rf"{path}:1: the multiword token's id is '{id}', expected 1-LAST"
    ):
        list(read_conllu(path))


def test_multiword_tokens_that_overlap_are_refused(file):
    rest = "\t_" * 8 + "\n"
    path = file(
        "1-2\tab" + rest + word(1, "a", 0) + "2-3\tbc" + rest + word(2, "b", 1) + word(3, "c", 1)
    )
    with pytest.raises(
        DataError,
        match=rf"{path}:3: the multiword token's id is '2-3', .* and no other token covers these words",
    ):
        list(read_conllu(path))


def test_conllu_without_heads_has_none_and_is_the_same_written_and_read_again(file):
    sentences = list(read_conllu(file(word(1, "a b", "_") + word(2, "c", "_"))))
    assert sentences[0].heads is None and sentences[0].words == ("a b", "c")
    out = io.StringIO()
    write_conllu(sentences, out)
    assert unplaced(read_conllu(file(out.getvalue(), "again"))) == unplaced(sentences)


@pytest.mark.parametrize(
    "text, line, message",
    [
        (word(1) + "2\tword\n", 2, "expected 10 columns separated by '\\t', got 2: '2\\tword'"),
        (word(1).replace("\t", " "), 1, "expected 10 columns separated by '\\t', got 1: "),
        ("# c\n" + word(1) + word(3, head=1), 3, "the word's id is '3', expected 2"),
        (word(2), 1, "the word's id is '2', expected 1"),
        (word(1) + word(1, head=1), 2, "the word's id is '1', expected 2"),
        (word("x"), 1, "the word's id is 'x', expected 1"),
        (word(1, form=""), 1, "the column form is empty"),
        (
            word(1) + word(2, head="one"),
            2,
            "the head is 'one', expected a whole number from 0 (ROOT) to 2",
        ),
        (
            word(1) + word(2, head=3),
            2,
            "the head is '3', expected a whole number from 0 (ROOT) to 2",
        ),
        (word(1) + word(2, head=-1), 2, "the head is '-1'"),
        (word(1) + word(2, head="_"), 2, "the head is '_'"),
        (word(1) + word(2, head="²"), 2, "the head is '²'"),
        (
            word(1) + word(2, head=1) + word(3),
            3,
            "word 3 is attached to ROOT (0), as word 1 is; expected one root",
        ),
        (word(1) + word(2, head=2), 2, "word 2 is its own ancestor (2 -> 2); expected a tree"),
        (
            word(1, head=2) + word(2, head=1),
            1,
            "word 1 is its own ancestor (1 -> 2 -> 1); expected a tree",
        ),
        (
            word(1) + word(2, head=3) + word(3, head=4) + word(4, head=3),
            3,
            "word 3 is its own ancestor (3 -> 4 -> 3); expected a tree",
        ),
    ],
)
def test_malformed_conllu_is_an_error_that_names_file_and_line(text, line, message, file):
    path = file(word(1) + "\n" + text)
    with pytest.raises(DataError) as error:
        list(read_conllu(path))
    assert str(error.value).startswith(f"{path}:{line + 2}: {message}")


def test_columns_are_read_by_name_wherever_they_stand(file):
    text = "-DOCSTART- -X- -X- O\n\n1 EU  NNP\tB-ORG\n2 rejects VBZ O\n   \n\t\n1 #call NN O"
    path = file(text)
    first, second = read_columns(path, ("_", "word", "_", "ner"))
    assert first == Sentence(
        ("EU", "rejects"), {"word": ("EU", "rejects"), "ner": ("B-ORG", "O")}, None, f"{path}:3"
    )
    assert second.words == ("#call",) and second.place == f"{path}:7"


def test_columns_parted_by_tabs_keep_blanks_and_empty_words(file):
    sentence, last = read_columns(
        file("a b\tO\n\tB-X\nc\u00a0d\tO\n\t\nc\tO\n"), WNUT, separator="\t"
    )
    assert sentence.words == ("a b", "", "c\u00a0d") and last.words == ("c",)
    assert next(read_columns(file("c\u00a0d O\n"), WNUT)).words == (
        "c\u00a0d",
    )  # only spaces and tabs part columns


def test_a_column_called_head_becomes_the_tree(file):
    sentence = next(read_columns(file("1 a 2\n2 b 0\n"), ("_", "word", "head")))
    assert sentence.heads == (2, 0) and sentence.columns == {"word": ("a", "b")}
    path = file("a 1\n")
    with pytest.raises(DataError, match=r":1: word 1 is its own ancestor \(1 -> 1\)"):
        next(read_columns(path, ("word", "head")))


@pytest.mark.parametrize(
    "text, separator, message",
    [
        (
            "a O\nb\n",
            None,
            ":2: expected 2 columns (word, tag) separated by spaces or tabs, got 1: 'b'",
        ),
        (
            "a O\n\nb x O\n",
            None,
            ":3: expected 2 columns (word, tag) separated by spaces or tabs, got 3: 'b x O'",
        ),
        ("a O\n", "\t", ":1: expected 2 columns (word, tag) separated by '\\t', got 1: 'a O'"),
        ("a\tO\nb\t\n", "\t", ":2: the column tag is empty"),
    ],
)
def test_malformed_columns_are_an_error_that_names_file_and_line(text, separator, message, file):
    path = file(text)
    with pytest.raises(DataError) as error:
        list(read_columns(path, WNUT, separator))
    assert str(error.value).startswith(f"{path}{message}")


@pytest.mark.parametrize(
    "columns, separator, message",
    [
        (("words", "tag"), None, "no column is called 'word', got words, tag"),
        ((), None, "no column is called 'word', got no columns"),
        (("word", "tag", "tag"), None, "two columns are called 'tag'"),
        (("word", "_", "_"), "", "separator: is empty"),
    ],
)
def test_columns_that_cannot_be_meant_are_an_error_before_the_file_is_opened(
    columns, separator, message
):
    with pytest.raises(ConfigError, match=message):
        read_columns("nowhere", columns, separator)


def test_plain_text_is_one_sentence_a_line(file):
    path = file("One  two .\n\n \nthree")
    assert list(read_plain(path)) == [
        Sentence(("One", "two", "."), place=f"{path}:1"),
        Sentence(("three",), place=f"{path}:4"),
    ]


READ = {
    "conllu": read_conllu,
    "columns": lambda path: read_columns(
        path,
        (*readers.CONLLU[:1], "word", *readers.CONLLU[2:6], "head", *readers.CONLLU[7:]),
        "\t",
    ),
    "plain": read_plain,
}


@pytest.mark.parametrize("read", READ.values(), ids=READ)
def test_every_reader_reads_compressed_files_and_either_line_end(read, file):
    text = (word(1, "é", 2) + word(2, "b") + "\n" + word(1)).encode()
    plain = unplaced(read(file(text)))
    assert plain and unplaced(read(file(gzip.compress(text), "f.conllu.gz"))) == plain
    assert unplaced(read(file(lzma.compress(text), "f.xz"))) == plain
    assert unplaced(read(file(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n")))) == plain
    assert list(read(file(""))) == []


@pytest.mark.parametrize("read", READ.values(), ids=READ)
def test_every_reader_names_file_and_line_of_a_wrong_encoding_and_the_nearest_file_for_a_missing_one(
    read, file
):
    path = file(word(1).encode() + b"\n" + word(1, "caf\xe9").encode("latin-1"))
    with pytest.raises(DataError, match=r"file\.txt, line 3: not UTF-8 \(byte 0xe9\)"):
        list(read(path))
    with pytest.raises(DataError, match="Did you mean 'file.txt'"):
        list(read(path.with_name("fiel.txt")))
    with pytest.raises(DataError, match="damaged.xz is damaged"):
        list(read(file(lzma.compress(word(1).encode() * 99)[:-40], "damaged.xz")))


def test_predictions_stand_last_in_what_conlleval_reads():
    out, both = io.StringIO(), {"gold": ("B-X", "O"), "predicted": ("O", "B-X")}
    write_columns(
        [Sentence(("a", "b"), both), Sentence(("c",), {"gold": ("O",), "predicted": ("O",)})],
        ("word", *both),
        out,
    )
    assert out.getvalue() == "a B-X O\nb O B-X\n\nc O O\n\n"


@pytest.mark.parametrize(
    "words, separator",
    [
        (("a b",), " "),
        (("",), " "),
        (("a\tb",), "\t"),
        (("a\nb",), "\t"),
        (("",), "\t"),
        (("a\r",), "\t"),
        (("-DOCSTART-",), " "),
    ],
)
def test_what_would_be_read_as_something_else_is_not_written(words, separator):
    with pytest.raises(
        DataError, match=r"f:1: word 1, \[.*\], cannot be written in columns separated by"
    ):
        write_columns([Sentence(words, place="f:1")], ("word",), io.StringIO(), separator)


def test_a_column_that_is_not_there_is_not_written():
    with pytest.raises(
        ConfigError, match="the sentence at f:1 has no column 'gild'. Did you mean 'gold'"
    ):
        write_columns(
            [Sentence(("a",), {"gold": ("O",)}, place="f:1")], ("word", "gild"), io.StringIO()
        )


# tags

KINDS = ("A", "B-C", "I")


@st.composite
def spans_of_a_sentence(draw):
    spans, at, length = [], 0, draw(st.integers(0, 12))
    while at < length:
        stop = draw(st.integers(at + 1, length))
        if draw(st.booleans()):
            spans.append((at, stop, draw(st.sampled_from(KINDS))))
        at = stop
    return spans, length


any_tags = st.lists(
    st.sampled_from(["O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in KINDS)]),
    max_size=12,
)


def official_chunks(sequence):
    """Return spans by the rules of conlleval for the end and the beginning of a chunk between two tags."""
    spans, start = [], None
    split = [("O", "")] + [(tag[0], tag[2:]) for tag in sequence] + [("O", "")]
    for index, ((was, old), (prefix, kind)) in enumerate(itertools.pairwise(split)):
        ends = (
            (was in "BI" and prefix in "BO")
            or was == "E"
            or was == "S"
            or prefix == "S"
            or (was != "O" and old != kind)
        )
        starts = (
            prefix in "BS" or (was in "OES" and prefix in "IE") or (prefix != "O" and old != kind)
        )
        if start is not None and ends:
            spans.append((start, index, old))
            start = None
        if starts:
            start = index
    return spans


@settings(deadline=None)
@given(spans_of_a_sentence())
def test_spans_are_the_same_after_any_way_through_the_schemes(sentence):
    spans, length = sentence
    for first, second in itertools.product(SCHEMES, SCHEMES):
        tagged = tags.tags_of(spans, length, first)
        assert tags.spans_of(tagged, first) == spans
        converted = tags.convert(tagged, first, second)
        assert (
            converted == tags.tags_of(spans, length, second)
            and tags.convert(converted, second, first) == tagged
        )
        assert not spans or tags.detect_scheme([tagged]) == first


@settings(deadline=None)
@given(any_tags)
def test_tags_that_follow_no_scheme_are_read_as_conlleval_reads_them(sequence):
    spans = tags.spans_of(sequence, "BIOES")
    assert spans == official_chunks(sequence)
    assert sorted(
        set(range(len(sequence))) - {at for start, stop, _ in spans for at in range(start, stop)}
    ) == [at for at, tag in enumerate(sequence) if tag == "O"]
    if not any(tag[0] in "ES" for tag in sequence):
        assert tags.spans_of(sequence, "IOB1") == tags.spans_of(sequence, "IOB2") == spans


@settings(deadline=None)
@given(st.lists(any_tags, max_size=3))
def test_what_is_detected_is_what_converting_does_not_change(sequences):
    unchanged = [
        scheme
        for scheme in ("IOB2", "IOB1", "BIOES")
        if all(
            set(tag[0] for tag in one) <= set("O" + tags.PREFIXES[scheme])
            and tags.convert(one, scheme, scheme) == tuple(one)
            for one in sequences
        )
    ]
    if unchanged:
        assert tags.detect_scheme(sequences) == unchanged[0]
    else:
        with pytest.raises(
            DataError,
            match=r"^sentence \d, word \d+: '.*' after '.*' is not .*, and no other scheme fits",
        ):
            tags.detect_scheme(sequences)


@real_data
@pytest.mark.slow
@pytest.mark.parametrize("read", [chunks, wnut])
def test_real_tags_are_iob2_and_the_same_after_any_way_through_the_schemes(read):
    assert tags.detect_scheme(sentence.columns["tag"] for sentence in read()) == "IOB2"
    for sentence in read():
        gold = sentence.columns["tag"]
        spans, through = tags.spans_of(gold, "IOB2"), gold
        for source, target in (("IOB2", "IOB1"), ("IOB1", "BIOES"), ("BIOES", "IOB2")):
            through = tags.convert(through, source, target)
            assert tags.spans_of(through, target) == spans
        assert through == gold
    for scheme in ("IOB1", "BIOES"):
        assert (
            tags.detect_scheme(
                tags.convert(sentence.columns["tag"], "IOB2", scheme) for sentence in read()
            )
            == scheme
        )


def test_the_schemes_of_one_sentence():
    iob2 = ("O", "B-ORG", "I-ORG", "O", "B-L", "B-L", "B-PER")
    assert tags.convert(iob2, "IOB2", "IOB1") == ("O", "I-ORG", "I-ORG", "O", "I-L", "B-L", "I-PER")
    assert tags.convert(iob2, "IOB2", "BIOES") == (
        "O",
        "B-ORG",
        "E-ORG",
        "O",
        "S-L",
        "S-L",
        "S-PER",
    )


@pytest.mark.parametrize("tag", ["B", "-", "B-", "B_X", "L-X", "o", "", "BX-Y", "-X"])
def test_what_is_no_tag_is_an_error_with_its_place(tag):
    for call in (
        tags.spans_of,
        lambda sequence, scheme, place: tags.convert(sequence, scheme, "IOB1", place),
        lambda sequence, scheme, place: tags.detect_scheme([sequence], [place]),
    ):
        with pytest.raises(DataError) as error:
            call(("O", tag), "BIOES", "f:1")
        assert (
            str(error.value)
            == f"f:1, word 2: the tag is '{tag}', expected O or PREFIX-TYPE with a prefix of B, I, E, S"
        )


def test_tags_of_another_scheme_and_schemes_that_are_none_are_errors():
    with pytest.raises(
        DataError,
        match="^word 1: the tag is 'S-X', expected O or PREFIX-TYPE with a prefix of B, I$",
    ):
        tags.convert(("S-X",), "IOB2", "BIOES")
    for call in (
        lambda: tags.spans_of((), "BIO"),
        lambda: tags.convert((), "IOB2", "BIOS"),
        lambda: tags.tags_of((), 0, "IOB"),
    ):
        with pytest.raises(UnknownName, match="Unknown tagging scheme .* Did you mean"):
            call()


def test_tags_that_belong_to_no_scheme_are_named_with_every_place_that_breaks_one():
    with pytest.raises(DataError) as error:
        tags.detect_scheme([("B-X", "I-X", "O"), ("O", "I-Y")], ["f:1", "f:5"])
    assert str(error.value) == (
        "f:5, word 2: 'I-Y' after 'O' is not IOB2, and no other scheme fits: 'B-X' after 'O' at f:1, "
        "word 1 is not IOB1; 'O' after 'I-X' at f:1, word 3 is not BIOES"
    )


# scores


def test_span_scores_are_those_counted_by_hand_and_add_up():
    types = ("A", "B")
    one = scores.span_counts([[(0, 2, "A"), (3, 4, "B")]], [[(0, 2, "A"), (3, 4, "A")]], types)
    two = scores.span_counts([[], [(0, 1, "A")]], [[(0, 1, "B")], [(0, 1, "A")]], types)
    assert one.tolist() == [[1, 0], [1, 1], [2, 0]] and one.dtype == torch.int64
    assert scores.span_scores(one + two) == pytest.approx(
        {"precision": 2 / 3, "recall": 2 / 4, "f1": 4 / 7}
    )
    assert scores.span_scores(one + two, types) == pytest.approx(
        {"precision": 2 / 3, "recall": 2 / 4, "f1": 4 / 7, "f1_A": 4 / 5, "f1_B": 0.0}
    )
    assert scores.span_scores(scores.span_counts([[]], [[]], types), types) == {}
    assert scores.span_scores(scores.span_counts([[]], [[(0, 1, "A")]], types)) == {
        "recall": 0.0,
        "f1": 0.0,
    }
    with pytest.raises(DataError, match="a span has the type 'PERS', .* Did you mean 'PER'"):
        scores.span_counts([[(0, 1, "PERS")]], [[]], ("PER", "LOC"))


def spoilt(gold, generator):
    inventory = sorted({tag for sequence in gold for tag in sequence})
    return [
        [generator.choice(inventory) if generator.random() < 0.1 else tag for tag in sequence]
        for sequence in gold
    ]


def f1(predicted, gold, scheme):
    types = sorted({tag[2:] for tag in itertools.chain(*gold) if tag != "O"})
    sides = [[tags.spans_of(tags_, scheme) for tags_ in side] for side in (predicted, gold)]
    return scores.span_scores(scores.span_counts(*sides, types))


@real_data
@pytest.mark.slow
@pytest.mark.parametrize("read", [chunks, wnut])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_span_scores_are_those_of_seqeval(read, scheme):
    metrics = pytest.importorskip("seqeval.metrics")
    gold = [
        list(tags.convert(sentence.columns["tag"], "IOB2", scheme)) for sentence in read()[:1500]
    ]
    predicted = spoilt(gold, np.random.default_rng(0))
    ours = f1(predicted, gold, scheme)
    theirs = {
        name: getattr(metrics, f"{name}_score")(gold, predicted)
        for name in ("precision", "recall", "f1")
    }
    assert ours == pytest.approx(theirs, abs=1e-12)  # both divide whole numbers
    assert 0 < ours["f1"] < 1


def test_token_scores_count_only_the_counted():
    gold, predicted = (
        torch.tensor([[1, 2, -100], [3, -100, -100]]),
        torch.tensor([[1, 3, -100], [3, 0, 0]]),
    )
    counts = scores.token_counts(predicted, gold, gold >= 0)
    assert counts.tolist() == [2, 3] and scores.token_scores(counts + counts) == {"accuracy": 2 / 3}
    assert scores.token_scores(counts * 0) == {}


def test_attachment_scores_leave_out_punctuation_and_tell_subtypes_apart_unless_told_not_to():
    names = ("root", "nsubj:pass", "nsubj", "obl:tmod", "obl:agent", "punct")
    gold_heads, gold_labels = torch.tensor([[2, 0, 2, 2, 9]]), torch.tensor([[1, 0, 3, 5, -100]])
    heads, labels = torch.tensor([[2, 0, 2, 1, 9]]), torch.tensor([[2, 0, 4, 5, 0]])
    words = label_spaces.scored_words({"upos": ("NOUN", "VERB", "NOUN", "PUNCT")})
    assert words == (True, True, True, False)
    counted = torch.tensor([[*words, False]])
    strict = scores.attachment_counts(heads, labels, gold_heads, gold_labels, counted)
    assert strict.tolist() == [3, 1, 3] and scores.attachment_scores(strict) == {
        "uas": 1.0,
        "las": 1 / 3,
    }
    relations = scores.without_subtypes(names)
    assert relations.tolist() == [0, 2, 2, 3, 3, 5]
    assert scores.attachment_counts(
        heads, labels, gold_heads, gold_labels, counted, relations
    ).tolist() == [3, 3, 3]
    counted[0, 3] = True
    assert scores.attachment_counts(heads, labels, gold_heads, gold_labels, counted).tolist() == [
        3,
        1,
        4,
    ]
    assert scores.attachment_scores(torch.zeros(3)) == {}


def test_punctuation_is_told_by_upos_or_by_the_xpos_tags_named():
    columns = {"upos": ("PUNCT", "X", "PUNCT"), "xpos": ("-LRB-", ",", ".")}
    assert label_spaces.scored_words(columns) == (False, True, False)
    penn = ["``", "''", ",", ":", "."]
    assert label_spaces.scored_words(columns, penn) == (True, False, False)
    with pytest.raises(
        DataError, match="the column xpos, which marks punctuation, is missing. Did you mean 'upos'"
    ):
        label_spaces.scored_words({"upos": ("X",)}, penn)


# trees


@functools.cache
def all_trees(length):
    """Return every tree of that many words, [N, T], and whether it has one root; (T+1)^(T-1) trees (Cayley)."""
    heads = np.array(list(itertools.product(range(length + 1), repeat=length)))
    at = np.concatenate([np.zeros((len(heads), 1), dtype=int), heads], 1)
    for _ in range(length):
        at = np.take_along_axis(
            np.concatenate([np.zeros((len(heads), 1), dtype=int), heads], 1), at, 1
        )
    tree_heads = heads[(at == 0).all(1)]
    assert len(tree_heads) == (length + 1) ** (length - 1)
    return tree_heads, (tree_heads == 0).sum(1) == 1


def weight(sentence, heads):
    """Return the number of barred arcs and the sum of the others, for [T+1, T+1] and [..., T]."""
    arcs = sentence[np.arange(1, heads.shape[-1] + 1), heads]
    return np.isneginf(arcs).sum(-1), np.where(np.isneginf(arcs), 0.0, arcs).sum(-1)


def best_of_all(sentence, single_root):
    """Return the fewest barred arcs, and the best score with that number."""
    tree_heads, single = all_trees(len(sentence) - 1)
    barred, score = weight(sentence, tree_heads[single] if single_root else tree_heads)
    return barred.min(), score[barred == barred.min()].max()


def acyclic(heads):
    """Return whether a walk from every word, of as many steps as the sentence has words, ends at ROOT."""
    for at in range(1, len(heads) + 1):
        for _ in heads:
            at = heads[at - 1] if at else 0
        if at:
            return False
    return True


def check_tree(heads, single_root):
    assert all(0 <= head <= len(heads) for head in heads)
    assert trees.tree_fault(heads) is None if single_root else acyclic(heads)


def random_scores(generator, batch, length):
    return generator.normal(size=(batch, length + 1, length + 1))


def with_cycles(generator, batch, length):
    """Return scores with random cycles whose arcs are worth more than all others, cycles of cycles among them."""
    all_scores = random_scores(generator, batch, length)
    for sentence in all_scores:
        for _ in range(3):
            cycle = generator.permutation(length)[: generator.integers(1, length + 1)] + 1
            sentence[cycle, np.roll(cycle, 1)] += generator.choice([5, 50])
    return all_scores


def to_root(length):
    return np.arange(length + 1) == 0


KINDS_OF_SCORES = {
    "random": random_scores,
    "cycles": with_cycles,
    "ties": lambda generator, batch, length: generator.integers(
        0, 2, (batch, length + 1, length + 1)
    ).astype(float),
    "equal": lambda generator, batch, length: np.full((batch, length + 1, length + 1), 7.0),
    "root is best": lambda generator, batch, length: (
        random_scores(generator, batch, length) + 9.0 * to_root(length)
    ),
    "root is worst": lambda generator, batch, length: (
        random_scores(generator, batch, length) - 9.0 * to_root(length)
    ),
    "far from 0": lambda generator, batch, length: (
        1e4 * random_scores(generator, batch, length) - 1e6
    ),
    "barred": lambda generator, batch, length: np.where(
        generator.random((batch, length + 1, length + 1))
        < generator.choice([0.2, 0.5, 0.8, 1.0], (batch, 1, 1)),
        -np.inf,
        random_scores(generator, batch, length),
    ),
}


@pytest.mark.parametrize("single_root", [True, False])
@pytest.mark.parametrize("kind", KINDS_OF_SCORES)
@pytest.mark.mostly_slow("random", "cycles")
def test_no_tree_is_better_than_the_decoded_one(kind, single_root):
    generator = np.random.default_rng(1)
    for length in range(1, 7):
        batch = KINDS_OF_SCORES[kind](generator, 60, length)
        decoded = trees.decode(
            torch.from_numpy(batch), torch.full((60,), length), single_root
        ).numpy()
        for sentence, heads in zip(batch, decoded):
            check_tree(heads.tolist(), single_root)
            barred, score = weight(sentence, heads)
            assert (barred, pytest.approx(score, rel=1e-12, abs=1e-9)) == best_of_all(
                sentence, single_root
            )  # the order of a sum


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from([4, 9, 16, 25]).flatmap(
        lambda arcs: st.lists(
            st.sampled_from([0.0, 1.0, 2.0, 3.0, -math.inf]), min_size=arcs, max_size=arcs
        )
    ),
    st.booleans(),
)
def test_no_tree_is_better_than_the_decoded_one_whatever_the_scores(values, single_root):
    sentence = np.array(values).reshape(math.isqrt(len(values)), -1)
    heads = trees.decode(
        torch.from_numpy(sentence)[None], torch.tensor([len(sentence) - 1]), single_root
    )[0].numpy()
    check_tree(heads.tolist(), single_root)
    assert weight(sentence, heads) == best_of_all(sentence, single_root)


def chu_liu_edmonds(arcs, nodes):
    """The textbook algorithm, recursive: {(head, dependent): score} -> {dependent: head}; 0 is the root."""
    best = {
        d: max((h for h in nodes if (h, d) in arcs), key=lambda h, d=d: arcs[h, d])
        for d in nodes
        if d != 0
    }
    for start in best:
        seen, at = [], start
        while at in best and at not in seen:
            seen.append(at)
            at = best[at]
        if at in seen:
            cycle = seen[seen.index(at) :]
            break
    else:
        return best
    new, smaller, origin = max(nodes) + 1, {}, {}
    for (h, d), score in arcs.items():
        inside = (h in cycle, d in cycle)
        if inside == (True, True):
            continue
        arc = (new if inside[0] else h, new if inside[1] else d)
        value = score - arcs[best[d], d] if inside[1] else score
        if arc not in smaller or value > smaller[arc]:
            smaller[arc], origin[arc] = value, (h, d)
    solved = chu_liu_edmonds(smaller, [n for n in nodes if n not in cycle] + [new])
    heads = {d: best[d] for d in cycle}
    for d, h in solved.items():
        h, d = origin[h, d]
        heads[d] = h
    return heads


def reference(sentence, single_root):
    """Return the best score, found by trying every word as the only root."""
    size = len(sentence)
    best_scores = []
    for root in range(1, size) if single_root else [None]:
        arcs = {
            (h, d): sentence[d, h]
            for d in range(1, size)
            for h in range(size)
            if h != d and (h != 0 or root in (None, d))
        }
        heads = chu_liu_edmonds(arcs, list(range(size)))
        best_scores.append(sum(sentence[d, h] for d, h in heads.items()))
    return max(best_scores)


@pytest.mark.parametrize("single_root", [True, False])
@pytest.mark.parametrize("kind", ["random", "cycles", "ties"])
def test_the_decoded_tree_is_as_good_as_that_of_a_plain_reference(kind, single_root):
    generator = np.random.default_rng(2)
    for length in (7, 12, 19, 30):
        batch = KINDS_OF_SCORES[kind](generator, 3 if length < 30 else 1, length)
        decoded = trees.decode(
            torch.from_numpy(batch), torch.full((len(batch),), length), single_root
        ).numpy()
        for sentence, heads in zip(batch, decoded):
            check_tree(heads.tolist(), single_root)
            assert weight(sentence, heads)[1] == pytest.approx(
                reference(sentence, single_root), rel=1e-12, abs=1e-9
            )


@pytest.mark.parametrize("single_root", [True, False])
def test_a_sentence_is_decoded_alike_alone_and_in_a_batch_whatever_stands_in_the_padding(
    single_root,
):
    generator = np.random.default_rng(3)
    longest, lengths = 14, torch.tensor([14, 1, 0, 5, 9, 2, 13, 0, 7])
    for poison in (1e9, math.inf, math.nan, -math.inf):
        batch = torch.from_numpy(with_cycles(generator, len(lengths), longest)).float()
        alone = []
        for sentence, length in zip(batch, lengths.tolist()):
            clean = sentence[: length + 1, : length + 1].clone()
            alone.append(trees.decode(clean[None], torch.tensor([length]), single_root)[0])
            sentence[length + 1 :] = sentence[:, length + 1 :] = sentence[0] = poison
            sentence.fill_diagonal_(poison)
        together = trees.decode(batch, lengths, single_root)
        assert together.dtype == torch.int64 and together.shape == (len(lengths), longest)
        for heads, expected, length in zip(together, alone, lengths.tolist()):
            assert torch.equal(heads[:length], expected) and not heads[length:].any()
            check_tree(heads[:length].tolist(), single_root) if length else None


@pytest.mark.parametrize("single_root", [True, False])
def test_sentences_whose_best_heads_make_a_tree_need_no_search(single_root, monkeypatch):
    monkeypatch.setattr(trees, "arborescence", None)
    generator = np.random.default_rng(4)
    batch, gold = random_scores(generator, 20, 33), []
    for sentence in batch:
        order = generator.permutation(33) + 1
        heads = {
            int(d): 0 if not i else int(order[generator.integers(i)]) for i, d in enumerate(order)
        }
        for d, h in heads.items():
            sentence[d, h] += 50
        gold.append([heads[d] for d in range(1, 34)])
    assert (
        trees.decode(torch.from_numpy(batch), torch.full((20,), 33), single_root).tolist() == gold
    )


@settings(deadline=None)
@given(
    st.integers(1, 9).flatmap(
        lambda length: st.lists(st.integers(0, length), min_size=length, max_size=length)
    )
)
def test_what_is_a_tree_is_found_alike_by_doubling_steps_and_by_walking(heads):
    assert bool(trees.are_trees(torch.tensor([[0, *heads]]))) == acyclic(heads)
    assert (trees.tree_fault(heads) is None) == (acyclic(heads) and heads.count(0) == 1)


def test_a_chain_as_long_as_the_sentence_is_a_tree_and_one_that_closes_is_none():
    for length in (1, 2, 3, 4, 7, 8, 9, 64, 100):
        chain = torch.tensor([[0, *range(length)]])
        assert trees.are_trees(chain)
        chain[0, 1] = length
        assert not trees.are_trees(chain)


def test_what_is_no_number_is_barred():
    barred = torch.from_numpy(KINDS_OF_SCORES["barred"](np.random.default_rng(7), 100, 6))
    lengths = torch.full((100,), 6)
    assert torch.equal(
        trees.decode(torch.where(barred.isneginf(), math.nan, barred), lengths),
        trees.decode(barred, lengths),
    )


def test_masks_of_the_lowest_number_leave_the_other_scores_their_digits():
    generator, lowest = np.random.default_rng(5), torch.finfo(torch.float32).min
    for _ in range(20):
        barred = np.where(
            generator.random((6, 6)) < 0.3, -np.inf, random_scores(generator, 1, 5)[0]
        )
        if best_of_all(barred, True)[0] == 0:
            masked = torch.from_numpy(np.maximum(barred, lowest))
            heads = trees.decode(masked[None], torch.tensor([5]))[0].numpy()
            assert weight(barred, heads) == (
                0,
                pytest.approx(best_of_all(barred, True)[1], rel=1e-12, abs=1e-9),
            )


@pytest.mark.parametrize("single_root", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.filterwarnings("error")  # numpy says so where infinities meet
def test_every_score_there_is_gives_a_tree(dtype, single_root):
    generator, range_ = np.random.default_rng(6), torch.finfo(dtype)
    extremes = torch.tensor(
        [math.inf, -math.inf, math.nan, range_.max, range_.min, 0.0, 1.0], dtype=dtype
    )
    batch = extremes[
        torch.from_numpy(generator.integers(len(extremes), size=(50, 9, 9)))
    ].requires_grad_()
    lengths = torch.from_numpy(generator.integers(1, 9, 50)).to(torch.int32)
    for heads, length in zip(trees.decode(batch, lengths, single_root).tolist(), lengths.tolist()):
        check_tree(heads[:length], single_root)


def test_empty_batches_and_sentences_of_one_word_are_decoded():
    none = torch.zeros(0, dtype=torch.int64)
    assert trees.decode(torch.zeros(0, 5, 5), none).shape == (0, 4)
    assert trees.decode(torch.zeros(0, 1, 1), none).shape == (0, 0)
    assert trees.decode(torch.zeros(2, 1, 1), torch.zeros(2, dtype=torch.int64)).shape == (2, 0)
    assert (
        trees.decode(torch.zeros(2, 4, 4), torch.zeros(2, dtype=torch.int64)).tolist()
        == [[0] * 3] * 2
    )
    assert trees.decode(
        torch.tensor([[[0.0, 0.0], [-math.inf, 9.0]]]), torch.tensor([1])
    ).tolist() == [[0]]


@pytest.mark.parametrize(
    "scores_, lengths, message",
    [
        (
            torch.zeros(2, 4, 3),
            torch.tensor([1, 1]),
            r"scores are \[2, 4, 3\] and lengths \[2\]; expected \[B, T\+1, T\+1\] and \[B\]",
        ),
        (torch.zeros(2, 4, 4), torch.tensor([1]), r"and lengths \[1\]"),
        (torch.zeros(4, 4), torch.tensor([1] * 4), r"scores are \[4, 4\]"),
        (torch.zeros(2, 4, 4), torch.tensor([4, 1]), "lengths run from 1 to 4; expected 0 to 3"),
        (torch.zeros(2, 4, 4), torch.tensor([-1, 1]), "lengths run from -1 to 1; expected 0 to 3"),
    ],
)
def test_shapes_that_do_not_fit_are_an_error(scores_, lengths, message):
    with pytest.raises(ValueError, match=message):
        trees.decode(scores_, lengths)


# -- token stores ------------------------------------------------------------------------------------------------------


def store(folder, text, **spec):
    path = folder / "text.txt"
    path.write_text(text)
    return build_store(
        [path], folder / "store", TokenizerSpec(size=60, **spec), options=Options(valid_share=0.0)
    )


LINES = ["Ann 's dog saw it .", "The cat , too .", '"Bo" sees 12 cats']
TOLD = "\n".join(LINES) + "\n\n" + "it saw the dog .\n" * 20


@pytest.mark.parametrize("kind", ["unigram", "bpe", "byte_bpe"])
@pytest.mark.parametrize("lower", [True, False])
def test_a_token_store_is_read_as_the_text_it_was_made_of(tmp_path, kind, lower):
    folder = store(tmp_path, TOLD, kind=kind, lower=lower)
    sentences = list(read_store(folder))
    wanted = [line.split() for line in TOLD.split("\n") if line]
    assert [list(s.words) for s in sentences] == [
        [w.lower() if lower else w for w in words] for words in wanted
    ]
    assert (
        sentences[0].place == f"{folder}, document 1"
        and sentences[-1].place == f"{folder}, document 2"
    )
    assert is_lower_case(folder) == lower


def test_sentences_with_characters_that_the_tokenizer_did_not_know_are_left_out(tmp_path):
    known = load(store(tmp_path, TOLD, kind="unigram") / "tokenizer")
    (tmp_path / "more.txt").write_text("it saw the dog .\n\nit saw the ☃ .\n\nthe cat\n")
    folder = build_store(
        [tmp_path / "more.txt"], tmp_path / "more", known, options=Options(valid_share=0.0)
    )
    assert [s.words for s in read_store(folder)] == [
        ("it", "saw", "the", "dog", "."),
        ("the", "cat"),
    ]


def test_a_tokenizer_that_forgets_blanks_is_refused(tmp_path):
    with pytest.raises(DataError, match="does not keep whitespace"):
        list(read_store(store(tmp_path, TOLD, kind="wordpiece")))


def test_a_token_store_is_unlabelled_text_of_the_task(tmp_path, caplog):
    folder = store(tmp_path, TOLD, kind="unigram")
    settings = build(
        SentencesTask,
        {
            "data": {
                "tiny": {
                    "path": str(FIXTURES / "tiny.conllu"),
                    "labels": {"pos": "upos"},
                }
            },
            "unlabelled": [str(folder)],
        },
    )
    task = SentencesTask(settings, 1)
    assert len(task.sources("train")["unlabelled"]) == 23
    assert "is in lower case" in caplog.text


# -- words without annotation ------------------------------------------------------------------------------------------

ROWS = (  # form, lemma, upos, xpos, feats
    ("the", "the", "DET", "_", "_"),
    ("cat", "cat", "_", "_", "Number=Sing"),
    ("_", "_", "SYM", "_", "_"),
    ("sat", "_", "VERB", "_", "_"),
)


def partly_annotated(tmp_path, label: dict, rows=ROWS, deprel: str = "dep", **options):
    """The task of a CoNLL-U file, trained and evaluated on it."""
    lines = [
        "\t".join([str(n), *row, str(n - 1), "root" if n == 1 else deprel, "_", "_"])
        for n, row in enumerate(rows, start=1)
    ]
    path = tmp_path / "partly.conllu"
    path.write_text("\n".join(lines) + "\n\n")
    data = {"partly": {"path": str(path), "valid": str(path), "labels": label}}
    return SentencesTask(build(SentencesTask, {"data": data, "clean": False, **options}), 1)


def gold(task, name: str) -> list[int]:
    (example,) = task.sources("valid")["partly"].examples
    return example.labels[name].tolist()


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("upos", ("DET", "SYM", "VERB"), [0, label_spaces.ABSENT, 1, 2]),
        ("lemma", ("_", "cat", "the"), [2, 1, 0, label_spaces.ABSENT]),  # the lemma of the word _
        ("feats", ("Number=Sing", "_"), [1, 0, 1, 1]),  # a word without features
    ],
)
def test_a_word_that_is_not_annotated_has_no_label(tmp_path, column, values, expected):
    task = partly_annotated(tmp_path, {"label": column})
    assert task.labels()["label"] == values and gold(task, "label") == expected


@pytest.mark.parametrize("column", ["xpos", "feats"])
def test_a_column_without_any_annotation_is_refused(tmp_path, column):
    rows = [(*row[:4], "_") for row in ROWS]
    with pytest.raises(DataError, match=rf"partly.conllu: the column '{column}' is not annotated"):
        partly_annotated(tmp_path, {"label": column}, rows)


def test_a_tree_without_relations_is_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"partly.conllu:1 begins a sentence whose word 2 \('cat'\) has no relation"
    ):
        partly_annotated(tmp_path, {"tree": "tree"}, deprel="_")


def test_words_without_annotation_are_neither_learned_nor_scored(tmp_path):
    task = partly_annotated(tmp_path, {"pos": "upos"})
    batch = task.collate([task.sources("valid")["partly"][0]], np.array([0]), np.array([0]))
    counted = batch.labels["pos"] != label_spaces.ABSENT
    predicted = torch.zeros_like(batch.labels["pos"])  # DET everywhere
    assert scores.token_counts(predicted, batch.labels["pos"], counted).tolist() == [1, 3]


def test_sentences_that_are_not_trained_on_are_counted_for_each_file(tmp_path, caplog):
    def write(name, *sentences):
        rows = ["".join(f"{word} N\n" for word in sentence.split()) for sentence in sentences]
        (tmp_path / name).write_text("\n".join(rows))
        return str(tmp_path / name)

    train = write("train", "a b", "a b c d", "e f", "held out", "a b c d e")
    valid, text = write("valid", "held out"), tmp_path / "text"
    text.write_text("x y\nheld out\nu v w x y z\nall is well\n")
    options = {"format": "columns", "columns": ["word", "tag"], "labels": {"t": "tag"}}
    sets = labelled_sets({"s": {**options, "path": train, "valid": valid}})
    with caplog.at_level("INFO", logger="fwk"):
        corpus = read_corpus(sets, [str(text)], longest=3, clean=True, seed=1)
    assert [sentence.words for sentence in corpus.train["s"]] == [("a", "b"), ("e", "f")]
    assert len(corpus.unlabelled) == 2
    assert [record.getMessage() for record in caplog.records] == [
        f"{train}: 3 of 5 sentences are not trained on; longer than 3 words (task.length): 2, in a valid or test file "
        "(task.clean): 1",
        f"{text}: 2 of 4 sentences are not trained on; longer than 3 words (task.length): 1, in a valid or test file "
        "(task.clean): 1",
    ]
    caplog.clear()
    read_corpus(sets, [str(text)], longest=9, clean=False, seed=1)
    assert not caplog.records  # nothing is left out
