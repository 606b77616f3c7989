"""Text, compressed text and tokenizers of other programs give what those programs say, or are refused."""

from __future__ import annotations

import gzip
import io
import json
import lzma
from pathlib import Path

import pytest

from fwk.config.resolve import from_mapping
from fwk.config.tree import Tree
from fwk.data import text
from fwk.data.preprocess import Options
from fwk.data.text import Reader, numbered_lines, text_lines
from fwk.data.text_corpus import _identity
from fwk.data.tokenizers import load
from fwk.data.tokenizers.sentencepiece import SentencePiece
from fwk.errors import ConfigError, DataError
from fwk.hooks.jsonl import as_line, cut_back, read_metrics

DOCUMENTS = [
    f"Document {i} has words enough to be compressed in some way {i * 7919}." for i in range(3000)
]


def documents(path: Path, **options) -> list[str]:
    return ["\n".join(document.lines) for document in Reader([str(path)], **options)]


# -- compressed files --------------------------------------------------------------------------------------------------


def compressed(suffix: str) -> bytes:
    data = "\n\n".join(DOCUMENTS).encode()
    if suffix == ".gz":
        return gzip.compress(data)
    if suffix == ".xz":
        return lzma.compress(data)
    zstandard = pytest.importorskip("zstandard")
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    half = data.index(b"\n\nDocument 1500") + 2
    return compressor.compress(data[:half]) + compressor.compress(data[half:])  # two frames


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_a_compressed_file_that_ends_too_early_is_refused(tmp_path, suffix):
    path, data = tmp_path / f"text.txt{suffix}", compressed(suffix)
    path.write_bytes(data)
    assert documents(path) == DOCUMENTS
    for cut in (len(data) // 4, len(data) // 2 + 40, len(data) - 2):
        path.write_bytes(data[:cut])
        with pytest.raises(DataError, match="is damaged, or its suffix names the wrong format"):
            documents(path)
        with pytest.raises(DataError, match="is damaged"):  # CoNLL-U, JSON lines, vectors
            list(numbered_lines(str(path)))


def test_a_zst_with_a_wrong_checksum_is_refused(tmp_path):
    data = bytearray(compressed(".zst"))
    data[-1] ^= 1
    (tmp_path / "text.txt.zst").write_bytes(data)
    with pytest.raises(DataError, match="checksum"):
        documents(tmp_path / "text.txt.zst")


# -- JSON and tables ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
def test_json_lines_in_a_json_file_are_documents(tmp_path, compress):
    path = tmp_path / ("c4.json.gz" if compress else "c4.json")
    data = "".join(json.dumps({"text": words, "url": "x"}) + "\n" for words in ("the cat", "a dog"))
    path.write_bytes(gzip.compress(data.encode()) if compress else data.encode())
    assert documents(path) == ["the cat", "a dog"]
    assert documents(path, format="text") == [data.strip()]
    ids = [_identity([str(path)], _Spec(), Options(format=format)) for format in ("auto", "jsonl")]
    assert (
        ids[0] != ids[1]
    )  # a store in the cache that an earlier version made of the markup is not used


class _Spec:
    fingerprint = "0"


@pytest.mark.parametrize(
    "name, content",
    [
        ("pretty.json", '{\n  "text": "the cat"\n}\n'),
        ("list.json", '[{"text": "the cat"}]\n'),
        ("table.csv", "text,label\nthe cat,1\n"),
        ("table.tsv", "text\tlabel\nthe cat\t1\n"),
    ],
)
def test_other_json_and_tables_are_refused_with_the_option(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError, match="task.format=text"):
        documents(path)
    lines = "\n".join(map(str.strip, content.strip().split("\n")))
    assert documents(path, format="text") == [lines]
    with pytest.raises(DataError, match="expected a text file with one text per line"):
        text_lines(str(path))


def test_the_format_is_an_option_of_the_task():
    config = from_mapping({"task": {"name": "mlm", "format": "jsonl"}})
    assert config.task.config.format == "jsonl"
    with pytest.raises(ConfigError, match="task.format"):
        from_mapping({"task": {"name": "mlm", "format": "csv"}})
    with pytest.raises(ConfigError, match="expected auto, text, jsonl"):
        Options(format="csv").check()


# -- lines -------------------------------------------------------------------------------------------------------------


def test_a_log_line_may_hold_line_separators_of_unicode(tmp_path):
    path = tmp_path / "metrics.jsonl"
    records = [{"update": 1, "split": "train", "note": "a\u2028b\x85c\x1cd"}, {"update": 2}]
    path.write_text("".join(map(as_line, records)), encoding="utf-8")
    assert read_metrics(path) == records
    cut_back(path, 1)
    assert read_metrics(path) == records[:1]


def test_a_long_record_is_read_in_linear_time(tmp_path, monkeypatch):
    """In pieces of 256 bytes, adding each to those before it would copy 120 GB, and so would cutting each one off."""
    monkeypatch.setattr(text, "_CHUNK", 256)
    monkeypatch.setattr(text, "LONGEST_LINE", 256)
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"text": "word " * 1_600_000}))
    assert sum(len(line) for d in Reader([str(path)]) for line in d.lines) > 6_000_000


def test_a_label_does_not_merge_the_labels_before_it(monkeypatch):
    """OmegaConf's merge takes time for every value in the tree."""
    merges = []
    merge = Tree._merge_pending
    monkeypatch.setattr(
        Tree, "_merge_pending", lambda tree: merges.append(bool(tree._pending)) or merge(tree)
    )
    tables = {
        "views": {f"v{i}": {} if i % 2 else None for i in range(300)},
        "criterion": {"masked_lm": {}, **{f"c{i}": {"name": "masked_lm"} for i in range(300)}},
    }
    from_mapping({"task": {"name": "synthetic"}, **tables})
    assert sum(merges) < 20


# -- tokenizers --------------------------------------------------------------------------------------------------------

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "\u2028", "the", "cat"]


def folder_with(tmp_path: Path, vocabulary: list[str], config: dict | None = None) -> Path:
    content = "\n".join(vocabulary) + "\n"
    (tmp_path / "vocab.txt").write_bytes(content.encode())
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def test_only_newlines_end_a_token_of_a_vocabulary(tmp_path):
    pytest.importorskip("tokenizers")
    folder = folder_with(tmp_path, VOCABULARY)
    assert load(folder).encode("the cat") == load(folder / "vocab.txt").encode("the cat") == [6, 7]
    content = (folder / "vocab.txt").read_bytes()
    (folder / "vocab.txt").write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"))
    assert load(folder).encode("the cat") == [6, 7]


def test_a_token_that_occurs_twice_leaves_an_id_without_a_token(tmp_path):
    pytest.importorskip("tokenizers")
    tokenizer = load(folder_with(tmp_path, [*VOCABULARY, "the", "dog"]))
    assert tokenizer.encode("the cat dog") == [8, 7, 9]
    assert tokenizer.size == 10 and 6 in tokenizer.special and tokenizer.token(6) == "[no token 6]"
    assert tokenizer.decode([8, 6, 7]) == "the cat"
    tokenizer.save(tmp_path / "saved")
    assert load(tmp_path / "saved").size == 10


def test_ids_with_a_hole_give_the_largest_id_and_one_as_the_size(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordPiece({"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 9}, unk_token="[UNK]")
    content = json.loads(tokenizers.Tokenizer(model).to_str())
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    assert load(path).size == 10 and load(path).holes == (3, 4, 5, 6, 7, 8)
    content["model"]["vocab"]["b"] = 1 << 30  # an embedding for each would not fit
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="has 4 tokens, and its largest id is"):
        load(path)


def test_a_tokenizer_that_cannot_encode_unknown_characters_is_refused(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordPiece({"[PAD]": 0, "a": 1}, unk_token="[UNK]")
    (tmp_path / "tokenizer.json").write_text(tokenizers.Tokenizer(model).to_str())
    with pytest.raises(DataError, match="cannot encode unknown characters .*Missing .UNK."):
        load(tmp_path / "tokenizer.json")


SETTINGS = [
    {},
    {"do_lower_case": False},
    {"strip_accents": False},
    {"do_lower_case": False, "strip_accents": True},
    {"tokenize_chinese_chars": False},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_vocabulary_is_read_as_transformers_reads_it(tmp_path, settings):
    transformers = pytest.importorskip("transformers")
    words = ["Café", "café", "cafe", "Cafe", "猫", "猫the", "."]
    config = {"tokenizer_class": "BertTokenizer", **settings}
    folder = folder_with(tmp_path, [*VOCABULARY, *words], config)
    theirs = transformers.BertTokenizer.from_pretrained(folder)
    for words in ("the Café .", "the cafe cat", "猫the cat"):
        expected = theirs.encode(words, add_special_tokens=False)
        assert load(folder).encode(words) == load(folder / "vocab.txt").encode(words) == expected


@pytest.mark.parametrize(
    "config",
    [
        {"do_basic_tokenize": False},
        {"tokenizer_class": "BertJapaneseTokenizer"},
        {"cls_token": "<s>"},
        {"added_tokens_decoder": {"9": {"content": "<num>"}}},
        {"do_lower_case": "yes"},
    ],
)
def test_settings_that_a_vocabulary_cannot_be_read_with_are_refused(tmp_path, config):
    pytest.importorskip("tokenizers")
    with pytest.raises(DataError, match="tokenizer_config.json"):
        load(folder_with(tmp_path, VOCABULARY, config))


def sentencepiece_model(kind: str) -> SentencePiece:
    import sentencepiece

    from fwk.data.tokenizers.sentencepiece import _OPTIONS

    words = [
        "the",
        "old",
        "bridge",
        "over",
        "a",
        "river",
        "was",
        "built",
        "by",
        "people",
        "who",
        "lived",
        "near",
        "12",
    ]
    lines = [" ".join(words[i % 13 :: 1 + i % 3]) for i in range(200)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=60,
        model_type=kind,
        user_defined_symbols=["<num>", "@@", "@@@"],
        num_threads=1,
        normalization_rule_name="nmt_nfkc_cf",
        **_OPTIONS,
    )
    return SentencePiece(model.getvalue())


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_an_exported_model_keeps_the_symbols_of_its_user(tmp_path, kind):
    transformers = pytest.importorskip("transformers")
    from fwk.hf import tokenizer as exported

    ours = sentencepiece_model(kind)
    exported.write(ours, tmp_path, longest=64)
    exported.compare(ours, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for line in ("the <num> old@@ bridge", "<num>the", "near@@@@river<NUM>", "@@@"):
        ids = ours.encode(line)
        assert theirs.encode(line, add_special_tokens=False) == ids
    assert ours.id("<num>") in ours.encode("the <num>")


def test_the_comparison_covers_every_symbol(tmp_path):
    pytest.importorskip("transformers")
    from fwk.hf import tokenizer as exported

    ours = sentencepiece_model("bpe")
    exported.write(ours, tmp_path, longest=64)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["pre_tokenizer"] = content["pre_tokenizer"]["pretokenizers"][
        0
    ]  # as it was exported before
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match="gives other ids than fwk's for"):
        exported.compare(ours, tmp_path)
