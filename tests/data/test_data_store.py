"""The token store and its blocks: random access, refusals, and what examples look like."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time

import numpy as np
import pytest

from fwk.data import store as stores
from fwk.data.blocks import Blocks, Layout, stack
from fwk.data.preprocess import Options, TokenizerSpec, build_store
from fwk.data.store import Shard, Split, Store
from fwk.errors import ConfigError, DataError
from fwk.files import digest

CLS, SEP = 2, 3


def documents():
    rng = np.random.default_rng(0)
    words = ["the", "old", "bridge", "over", "a", "river", "was", "built", "by", "people"]
    words += ["who", "lived", "near", "its", "harbour"]

    def sentence():
        return " ".join(rng.choice(words, rng.integers(3, 12))).capitalize()

    return [". ".join(sentence() for _ in range(rng.integers(1, 9))) + "." for _ in range(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("store")
    (where / "text.txt").write_text("\n\n".join(documents()))
    return build_store(
        [where / "text.txt"],
        where / "store",
        TokenizerSpec(size=120),
        options=Options(shard_size=2500, valid_share=0.1),
    )


def test_documents_come_back_in_order(folder):
    store = Store(folder)
    tokenizer, texts = store.tokenizer(), documents()
    splits = {name: store.split(name) for name in store.splits}
    decoded = {
        name: [tokenizer.decode(split.document(d).tolist()) for d in range(split.documents)]
        for name, split in splits.items()
    }
    wanted = [t.lower() for t in texts]
    assert sorted(decoded["train"] + decoded["valid"]) == sorted(wanted)
    assert [t for t in wanted if t in set(decoded["train"])] == decoded["train"]
    assert len(store.manifest["splits"]["train"]["shards"]) > 3
    assert store.unigrams().sum() == store.split("train").tokens
    store.verify()


def test_another_vocabulary_is_refused(folder):
    assert Store(folder, Store(folder).tokenizer().fingerprint)
    with pytest.raises(DataError, match="made with another vocabulary"):
        Store(folder, "0" * 64)


@pytest.mark.parametrize(
    "damage", ["truncated", "missing", "manifest", "hash", "json", "counts", "version"]
)
def test_damage_is_named(folder, tmp_path, damage):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shard, manifest = copy / "train-00001.tokens", copy / stores.MANIFEST
    if damage == "truncated":
        shard.write_bytes(shard.read_bytes()[:-3])
        with pytest.raises(DataError, match="train-00001.tokens has .* truncated or changed"):
            Store(copy)
    elif damage == "missing":
        shard.unlink()
        with pytest.raises(DataError, match="lacks train-00001.tokens"):
            Store(copy)
    elif damage == "manifest":
        content = json.loads(manifest.read_text())
        content["splits"]["train"]["shards"][0]["tokens"] += 1
        manifest.write_text(json.dumps(content))
        with pytest.raises(DataError, match="manifest.json was changed"):
            Store(copy)
    elif damage == "hash":
        data = bytearray(shard.read_bytes())
        data[4] ^= 1
        shard.write_bytes(data)
        with pytest.raises(
            DataError, match="train-00001.tokens was changed since the token store was made"
        ):
            Store(copy)
        os.utime(shard, ns=(0, 0))  # a disk that lies about it: opening does not read everything
        with pytest.raises(DataError, match="train-00001.tokens does not match its hash"):
            Store(copy).verify()
    elif damage == "json":
        manifest.write_text("{")
        with pytest.raises(DataError, match="manifest.json is damaged"):
            Store(copy)
    elif damage == "counts":
        np.save(copy / "unigrams.npy", np.array([object()]), allow_pickle=True)
        with pytest.raises(DataError, match="unigrams.npy is missing or damaged"):
            Store(copy).unigrams()
    else:
        content = json.loads(manifest.read_text())
        content["version"] = 99
        manifest.write_text(json.dumps(content))
        with pytest.raises(DataError, match="version 99"):
            Store(copy)


def test_files_that_are_newer_than_the_manifest_are_hashed_once(folder, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)  # new times, in any order
    os.utime(copy / stores.MANIFEST, ns=(1, 1))
    hashed = []
    monkeypatch.setattr(stores, "digest", lambda path: hashed.append(path.name) or digest(path))
    Store(copy)
    assert "train-00001.tokens" in hashed
    hashed.clear()
    Store(copy)
    assert not hashed


@pytest.mark.parametrize("how", ["cut", "overwritten"])
def test_a_store_that_is_changed_while_it_is_read_gives_no_further_batch(folder, tmp_path, how):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    blocks = Blocks(
        Store(copy).split("train"), Layout(kind="contiguous", length=16, cls=CLS, sep=SEP)
    )
    blocks.many(range(len(blocks)))
    for shard in copy.glob("train-*.tokens"):
        content = shard.read_bytes()
        with open(shard, "r+b") as file:
            file.truncate(0) if how == "cut" else file.write(content[::-1])
    with pytest.raises(DataError, match="train-00000.tokens was changed while it was read"):
        blocks.many([0])


def test_a_store_that_is_deleted_while_it_is_read_is_read_on_as_far_as_it_was_opened(
    folder, tmp_path
):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    store, layout = Store(copy), Layout(kind="contiguous", length=16, cls=CLS, sep=SEP)
    blocks = Blocks(store.split("train"), layout)
    before = blocks.many(range(len(blocks)))
    shutil.rmtree(copy)
    assert all(
        (a.ids == b.ids).all() for a, b in zip(before, blocks.many(range(len(blocks))), strict=True)
    )
    with pytest.raises(DataError, match="valid-00000.documents|valid-00000.tokens"):
        Blocks(store.split("valid"), layout).many([0])


def test_what_is_not_a_store_is_said_so(tmp_path):
    with pytest.raises(DataError, match="not a token store"):
        Store(tmp_path)
    with pytest.raises(DataError, match="Did you mean 'valid'"):
        Store.split(type("S", (), {"_splits": {"valid": 0}, "folder": tmp_path})(), "vaild")


def test_opening_costs_nothing_per_token(tmp_path):
    shards = []
    for n in range(2):
        stem = tmp_path / f"train-{n:05d}"
        tokens, count = 500_000_000, 1000
        with open(f"{stem}.tokens", "wb") as file:
            file.truncate(tokens * 2)  # a sparse file: nothing is really there
        starts = np.linspace(0, tokens, count + 1).astype("<u4")
        starts.tofile(f"{stem}.documents")
        starts.tofile(f"{stem}.sentences")
        shards.append(Shard(stem, "uint16", tokens, count, count))
    began = time.process_time()
    blocks = Blocks(Split("train", shards), Layout(kind="contiguous", length=128, cls=CLS, sep=SEP))
    assert len(blocks) == -(-(10**9 + 2000) // 126)
    assert all(len(blocks[i].ids) == 128 for i in (0, len(blocks) // 2 + 3, len(blocks) - 3))
    assert time.process_time() - began < 0.5


def layout(kind, length=32, **other):
    return Layout(kind=kind, length=length, cls=CLS, sep=SEP, **other)


def all_documents(split):
    return [split.document(d).astype(int).tolist() for d in range(split.documents)]


def test_contiguous_blocks_hold_every_token_once_in_order(folder):
    split = Store(folder).split("train")
    blocks = Blocks(split, layout("contiguous"))
    body = []
    for i in range(len(blocks)):
        ids = blocks[i].ids.tolist()
        assert ids[0] == CLS and ids[-1] == SEP and len(ids) <= 32
        # the [SEP] of a document that ends with its block is the block's own
        body += ids[1:-1] if len(ids) == 32 or i == len(blocks) - 1 else ids[1:]
    assert [t for t in body if t != SEP] == [t for d in all_documents(split) for t in d]
    ends = np.cumsum([len(d) + 1 for d in all_documents(split)]) - 1
    assert [i for i, t in enumerate(body) if t == SEP] == [
        e for e in ends.tolist() if e < len(body)
    ]


def test_within_blocks_do_not_cross_documents(folder):
    split = Store(folder).split("train")
    blocks = Blocks(split, layout("within", 16))
    ids, wanted = [blocks[i].ids[1:-1].tolist() for i in range(len(blocks))], []
    for document in all_documents(split):
        wanted += [document[a : a + 14] for a in range(0, len(document), 14)]
    assert ids == wanted


def test_documents_are_truncated(folder):
    split = Store(folder).split("train")
    blocks = Blocks(split, layout("document", 16, placement="cls"))
    assert [blocks[i].ids.tolist() for i in range(len(blocks))] == [
        [CLS, *d[:15]] for d in all_documents(split)
    ]


def test_pairs_are_cut_at_sentences(folder):
    store = Store(folder)
    split, tokenizer = store.split("train"), store.tokenizer()
    blocks = Blocks(split, layout("pairs", 64))
    at_sentence = pairs = 0
    for i in range(len(blocks)):
        example = blocks[i]
        if example.second == len(example.ids):
            continue
        pairs += 1
        first, second = example.ids[1 : example.second - 1], example.ids[example.second : -1]
        assert (
            example.ids[example.second - 1] == SEP
            and len(first)
            and len(second)
            and SEP not in first
        )
        at_sentence += tokenizer.decode(first.tolist()).endswith(".")
    assert pairs > 20 and at_sentence > 0.7 * pairs
    arrays = stack([blocks[0], blocks[1]], 0, [0, 2, 3, 4], None)
    assert (
        arrays["tokens"].shape[1] % 8 == 0
        and (
            arrays["segments"].sum(1) == [len(blocks[i].ids) - blocks[i].second for i in (0, 1)]
        ).all()
    )


@pytest.mark.parametrize("kind", ["contiguous", "within", "document", "pairs"])
def test_blocks_are_random_access_and_pickle_small(folder, kind):
    blocks = Blocks(Store(folder).split("train"), layout(kind))
    order = np.random.default_rng(1).permutation(len(blocks))
    rows = {int(i): blocks[int(i)].ids.tolist() for i in order}
    content = pickle.dumps(blocks)
    again = pickle.loads(content)
    assert len(content) < 4000 and [again[i].ids.tolist() for i in range(len(again))] == [
        rows[i] for i in sorted(rows)
    ]
    with pytest.raises(IndexError):
        blocks[len(blocks)]
    assert 0 <= blocks.padding_share() < 1


def test_stacking_masks_padding_and_special_tokens(folder):
    blocks = Blocks(Store(folder).split("train"), layout("document"))
    arrays = stack([blocks[0], blocks[1]], 0, [0, 2, 3, 4], 48)
    assert arrays["tokens"].shape == (2, 48) and arrays["tokens"].dtype == np.int64
    assert (arrays["mask"].sum(1) == [len(blocks[0].ids), len(blocks[1].ids)]).all()
    assert (arrays["special"].sum(1) == 2).all() and not (arrays["special"] & ~arrays["mask"]).any()


def test_layouts_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="needs a .CLS. token"):
        Layout(kind="contiguous", length=32, cls=-1, sep=3)
    with pytest.raises(ConfigError, match="task.length: 3 leaves 1"):
        Layout(kind="contiguous", length=3, cls=2, sep=3)
