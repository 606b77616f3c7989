"""Tokens of labelled examples that are kept in the cache: the same examples, and no dependence on the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.paths import FIXTURES

from fwk.data.examples import encoding
from fwk.data.examples.token_cache import FILE
from fwk.data.tokenizers import Tokenizer
from fwk.tasks.examples import SOURCE, Examples

KINDS = {
    "span": {"texts": ("question", "passage"), "label": "answer", "kind": "span", "stride": 5},
    "choice": {"texts": ("question",), "choices": "choices", "label": "right"},
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a cache that keeps the tokens of however few texts."""
    monkeypatch.setattr(encoding, "FEWEST", 1)
    monkeypatch.setenv("FWK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    opened(None, **KINDS["choice"]).tokenizer.save(folder)
    return folder


def opened(tokenizer: Path | None, **options: object) -> Examples:
    path = {} if tokenizer is None else {"tokenizer": str(tokenizer)}
    shared = {"length": 40, "vocabulary": 120, "valid_share": 0.0, **path}
    table = str(FIXTURES / "examples.jsonl")
    return Examples(Examples.Config(data=table, **shared, **options), 1)


def require_same(ours: Examples, theirs: Examples) -> None:
    assert ours.fingerprint() == theirs.fingerprint()
    for name, text in ours.sources("train")[SOURCE].texts.items():
        other = theirs.sources("train")[SOURCE].texts[name]
        for one, two in zip(vars(text).values(), vars(other).values(), strict=True):
            assert (one is None) == (two is None)
            assert one is None or (np.array_equal(one, two) and one.dtype == two.dtype)


def without_tokenizing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a text was encoded")

    for cls in (Tokenizer, *Tokenizer.__subclasses__()):
        for name in ("encode_batch", "encode_with_offsets"):
            monkeypatch.setattr(cls, name, refuse)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_start_encodes_nothing_and_reads_the_same(
    kind: str, cache: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(tokenizer, **KINDS[kind])
    without_tokenizing(monkeypatch)
    require_same(opened(tokenizer, **KINDS[kind]), first)


def test_damaged_tokens_are_made_again(cache: Path, tokenizer: Path) -> None:
    first = opened(tokenizer, **KINDS["span"])
    files = sorted(cache.glob(f"examples/*/{FILE}"))
    assert len(files) == 2
    contents = [file.read_bytes() for file in files]
    files[0].write_bytes(contents[0][:-1] + bytes([contents[0][-1] ^ 1]))
    files[1].write_bytes(contents[1][:50])
    require_same(opened(tokenizer, **KINDS["span"]), first)
    assert [file.read_bytes() for file in files] == contents


def test_a_cache_that_cannot_be_used_is_done_without(
    cache: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(tokenizer, **KINDS["span"])
    for folder in (cache / "examples").iterdir():
        folder.chmod(0o777)  # anybody may have changed what it holds
    require_same(opened(tokenizer, **KINDS["span"]), first)
    cache.rename(cache.with_name("kept"))
    cache.write_text("a file in place of the folder")
    require_same(opened(tokenizer, **KINDS["span"]), first)


def test_other_texts_and_other_cuts_are_not_taken_for_the_same(
    cache: Path, tokenizer: Path
) -> None:
    opened(tokenizer, **KINDS["span"])
    opened(tokenizer, **{**KINDS["span"], "fraction": 0.5})
    assert len(list(cache.glob(f"examples/*/{FILE}"))) == 4
