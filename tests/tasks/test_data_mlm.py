"""The task mlm and the loader: the same batches for any workers, ranks and micro-batches; every example where it
belongs; errors before anything heavy."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.commands import cache_with_index

from fwk.config.identity import differences, identity
from fwk.config.resolve import from_mapping
from fwk.contracts.task import Task
from fwk.contracts.views import View
from fwk.data.order import Order
from fwk.data.preprocess import Options, TokenizerSpec, build_store
from fwk.data.store import Store
from fwk.data.tokenizers import load
from fwk.data.whole import whole_split
from fwk.engine.feed import loader, workers
from fwk.engine.feed.draws import count_micro_batches, share_bounds
from fwk.engine.feed.loader import evaluation_batches
from fwk.errors import ConfigError, DataError, PluginError, RunError
from fwk.tasks.mlm import MaskedLanguageModelling

Config = MaskedLanguageModelling.Config
WORDS = [
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
    "its",
    "harbour",
    "and",
    "left",
]


def text(seed: int, documents: int = 50) -> str:
    rng = np.random.default_rng(seed)
    return "\n\n".join(
        "\n".join(" ".join(rng.choice(WORDS, 12)) + "." for _ in range(rng.integers(1, 8)))
        for _ in range(documents)
    )


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FWK_CACHE", cache_with_index(tmp_path_factory.getbasetemp() / "fwk-cache"))


@pytest.fixture
def files(tmp_path):
    for n, name in enumerate(("news", "books", "held")):
        (tmp_path / f"{name}.txt").write_text(text(n))
    return tmp_path


def make(**config) -> MaskedLanguageModelling:
    return MaskedLanguageModelling(
        Config(**{"length": 24, "vocabulary": 200, "valid_share": 0.1, **config}), seed=1
    )


def order_of(task: Task, seed: int = 1) -> Order:
    return Order(
        seed, {name: len(source) for name, source in task.sources("train").items()}, task.mixture()
    )


def as_views(batch):
    return {"batch": View.from_batch(batch)}


def loaded(task, start_update=0, **settings):
    """Endless: the views named 'batch' of each update's micro-batches."""
    settings = loader.FeedSettings(**{"batch": 2, **settings})
    updates = loader.train_views(
        task, order_of(task), as_views, settings, start_update=start_update
    )
    try:
        for update in updates:
            yield [views["batch"] for views in update]
    finally:
        updates.close()


def batches(task, updates=3, **settings):
    iterator = loaded(task, **{"batch": 12, **settings})
    try:
        return [next(iterator) for _ in range(updates)]
    finally:
        iterator.close()


def rows(updates):
    return [torch.cat([m.tokens for m in update]) for update in updates]


def test_a_text_file_becomes_a_train_and_a_valid_set(files):
    task = make(data=str(files / "news.txt"))
    assert task.splits() == ("train", "valid") and task.length() == 24
    ((micro,),) = batches(task, 1)
    assert micro.tokens.shape == (12, 24) and micro.tokens.dtype == torch.int64
    assert (
        micro.mask.dtype == micro.special.dtype == torch.bool and micro.source.tolist() == [0] * 12
    )
    assert (
        micro.draws.tolist() == list(range(12)) and (micro.tokens[:, 0] == task.tokenizer.cls).all()
    )
    assert (micro.tokens[~micro.mask] == task.tokenizer.pad).all()
    vocabulary = task.vocabulary()
    assert vocabulary.size == task.tokenizer.size and vocabulary.counts.shape == (vocabulary.size,)
    assert vocabulary.counts.dtype == torch.float64
    assert vocabulary.counts.sum() == task.describe()["train"]["tokens"]
    assert 0 <= task.describe()["train"]["padding_share"] < 1


def test_the_second_start_builds_nothing(files, monkeypatch):
    first = make(data=str(files / "news.txt"))
    monkeypatch.setattr(
        "fwk.data.text_corpus.build_store", lambda *a, **k: pytest.fail("built again")
    )
    assert make(data=str(files / "news.txt")).fingerprint() == first.fingerprint()
    (files / "moved.txt").write_bytes((files / "news.txt").read_bytes())
    assert make(data=str(files / "moved.txt")).fingerprint() == first.fingerprint()


def test_changed_text_changes_the_fingerprint(files):
    first = make(data=str(files / "news.txt")).fingerprint()
    assert make(data=str(files / "news.txt"), length=32).fingerprint() != first
    (files / "news.txt").write_text(text(99))
    assert make(data=str(files / "news.txt")).fingerprint() != first


def test_stores_and_other_tokenizers(files):
    store = build_store([files / "news.txt"], files / "store", TokenizerSpec(size=150))
    task = make(data=str(store))
    assert task.tokenizer.size <= 150 and task.fingerprint() == make(data=str(store)).fingerprint()
    assert (
        make(
            data=str(files / "books.txt"), tokenizer=str(store / "tokenizer")
        ).tokenizer.fingerprint
        == task.tokenizer.fingerprint
    )
    both = make(
        data=(str(store), str(files / "books.txt"))
    )  # text is cut with the store's tokenizer
    assert list(both.sources("train")) == ["store", "text"]
    other = build_store([files / "books.txt"], files / "other", TokenizerSpec(size=100))
    with pytest.raises(DataError, match="another vocabulary"):
        make(data={"a": str(store), "b": str(other)})
    with pytest.raises(DataError, match="another vocabulary"):
        make(data=str(store), valid=str(other))
    with pytest.raises(DataError, match="another vocabulary"):
        make(data=str(store), tokenizer=str(other / "tokenizer"))


def test_text_to_validate_on(files):
    task = make(data=str(files / "news.txt"), valid=str(files / "held.txt"))
    store = task.token_splits("valid")[0]
    assert task.tokenizer.decode(store.document(0).tolist()) == text(2).split("\n\n")[0].replace(
        "\n", " "
    )
    assert task.describe()["train"]["documents"] == 50 and store.documents == 50


@pytest.mark.parametrize("blocks", ["contiguous", "pairs"])
def test_a_store_to_validate_on_gives_the_examples_of_its_text(files, blocks):
    """All of them, in the order of the text, although the store holds some documents out."""
    held = files / "held.txt"
    by_text = make(data=str(files / "news.txt"), valid=str(held), blocks=blocks)
    options = Options(valid_share=0.3, shard_size=2000)
    store = Store(build_store([held], files / "store", by_text.tokenizer, options=options))
    assert len(store.split("valid").shards) > 1 and store.split("valid").documents > 5
    by_store = make(data=str(files / "news.txt"), valid=str(files / "store"), blocks=blocks)

    (examples,), (others,) = (
        [*task.sources("valid").values()]
        for task in (by_text, pickle.loads(pickle.dumps(by_store)))
    )
    assert by_store.documents("valid") == by_text.documents("valid") == 50
    assert len(examples) == len(others)
    for number in (*range(len(examples)), 0):  # back to the first shard
        one, other = examples[number], others.many([number])[0]
        assert one.ids.tolist() == other.ids.tolist() and one.second == other.second


def test_a_store_whose_splits_are_different_texts_is_evaluated_whole(files):
    texts = [files / "news.txt"], [files / "held.txt"]
    for name, share in (("one", 0.0), ("two", 0.01)):
        spec, options = TokenizerSpec(size=100), Options(valid_share=share)
        build_store(texts[0], files / name, spec, valid=texts[1], options=options)
        whole = whole_split(Store(files / name))
        assert (whole.documents, whole.tokens) == (100, sum(whole.lengths()))


def test_a_store_that_is_also_trained_on_is_evaluated_on_what_it_holds_out(files, caplog):
    caplog.set_level("INFO", "fwk")
    options = Options(valid_share=0.1)
    path = build_store([files / "news.txt"], files / "s", TokenizerSpec(size=100), options=options)
    task = make(data=str(path), valid=str(path))
    assert task.documents("valid") == make(data=str(path)).documents("valid") < 20
    assert "is also trained on: the documents that it holds out are evaluated" in caplog.text


def test_what_is_not_as_the_options_ask_for_is_named(files, caplog):
    """A text without empty lines is one document: nothing is held out, and truncation keeps its first tokens alone."""
    lines = files / "lines.txt"
    lines.write_text(text(3).replace("\n\n", "\n"))
    task = make(data=str(lines), blocks="document", valid_share=0.3, vocabulary=300)
    assert task.splits() == ("train",) and task.documents("train") == 1
    nothing, cut, size = caplog.messages
    assert "held out for validation (task.valid_share=0.3), because it is 1 document" in nothing
    assert "task.documents=line makes a document of each line" in nothing
    tokens = task.describe()["train"]["tokens"]
    assert f"throws away {1 - 22 / tokens:.1%} of the training text ({tokens - 22:,.0f} of" in cut
    assert f"has {task.tokenizer.size} tokens instead of task.vocabulary=300" in size

    caplog.clear()
    make(data=str(lines), blocks="document", documents="line", valid_share=0.3, vocabulary=None)
    make(data=str(files / "news.txt"), vocabulary=None)
    make(data=str(lines), valid=str(files / "held.txt"), vocabulary=16, valid_share=0.01)
    assert [message.partition(" instead")[2][:24] for message in caplog.messages] == [
        " of task.vocabulary=16: "
    ]
    caplog.clear()
    options = Options(valid_share=0)
    store = build_store([lines], files / "s", TokenizerSpec(size=100), options=options)
    make(data=str(store), vocabulary=None)
    assert "(source 'text') holds no documents out, so nothing of it" in caplog.text


def test_an_option_that_cannot_act_is_named_and_blocks_no_later_start(files, caplog, tmp_path):
    path = str(build_store([files / "news.txt"], files / "s", TokenizerSpec(size=100)))
    given = {
        "tokenizer": "bpe",
        "vocabulary": 99,
        "lower": False,
        "documents": "line",
        "field": "x",
    }
    make(data=path, valid_share=0.2, **given)
    for name, value in (*given.items(), ("valid_share", 0.2)):
        assert f"task.{name}={value} has no effect: " in caplog.text
    stated, plain = (
        from_mapping({"task": {"data": path, **options}}) for options in (given, {"lower": True})
    )
    assert differences(stated, plain) == {} and identity(stated) != identity(plain)

    caplog.clear()
    text = str(files / "books.txt")
    make(data=text, tokenizer=f"{path}/tokenizer", vocabulary=None, lower=False, documents="line")
    make(data={"a": path, "b": text}, vocabulary=None, documents="line", valid_share=0.2)
    assert [m.partition(" has")[0] for m in caplog.messages] == ["task.lower=False"]
    # what acts is compared
    acting = [from_mapping({"task": {"data": text, "vocabulary": size}}) for size in (99, 100)]
    assert differences(*acting) == {"task.vocabulary": (99, 100)}


def test_a_mixture_of_sources(files):
    task = make(
        data={
            "news": {"path": str(files / "news.txt"), "weight": 3},
            "books": {"path": str(files / "books.txt"), "weight": 1},
        }
    )
    assert task.mixture() == {"news": 3.0, "books": 1.0} and list(task.sources("valid")) == [
        "news",
        "books",
    ]
    updates = batches(task, 40, batch=64)
    shares = torch.cat([m.source for u in updates for m in u]).double().mean()
    assert abs(shares - 0.25) < 0.02


@pytest.mark.parametrize("blocks", ["contiguous", "within", "document", "pairs"])
def test_kinds_of_blocks(files, blocks):
    task = make(data=str(files / "news.txt"), blocks=blocks)
    ((micro,),) = batches(task, 1)
    assert ("segments" in micro.inputs) == (blocks == "pairs")
    assert micro.tokens.shape[1] <= 24 and micro.tokens.shape[1] % 8 == 0
    if blocks == "pairs":
        assert set(micro.inputs["segments"].unique().tolist()) == {0, 1}
    assert make(data=str(files / "news.txt"), blocks=blocks, padding="fixed").collate(
        [task.sources("train")["text"][0]], np.array([5]), np.array([0])
    ).tokens.shape == (1, 24)


@pytest.mark.parametrize("workers, start_method", [(1, None), (2, None), (2, "spawn")])
@pytest.mark.mostly_slow("None")
def test_batches_do_not_depend_on_workers(files, workers, start_method):
    task = make(data=str(files / "news.txt"))
    alone = batches(task, 4, micro_batch=5)
    found = batches(task, 4, micro_batch=5, workers=workers, start_method=start_method)
    assert [len(u) for u in found] == [3] * 4
    assert all(
        torch.equal(a.tokens, b.tokens) and torch.equal(a.draws, b.draws)
        for x, y in zip(alone, found, strict=True)
        for a, b in zip(x, y, strict=True)
    )
    assert found[0][0].tokens.shape[0] == 4


@pytest.mark.parametrize("batch", [8, 11, 13])
@pytest.mark.parametrize("world, micro", [(1, 3), (2, 1), (4, 1), (4, 2), (8, None)])
def test_ranks_and_micro_batches_are_parts_of_one_batch(files, batch, world, micro):
    task = make(data=str(files / "news.txt"))
    whole = rows(batches(task, 2, batch=batch, start_update=7))
    ranks = [
        batches(task, 2, batch=batch, world_size=world, rank=r, micro_batch=micro, start_update=7)
        for r in range(world)
    ]
    for u in range(2):
        assert torch.equal(torch.cat([rows(r)[u] for r in ranks]), whole[u])
        assert len({len(r[u]) for r in ranks}) == 1 and all(len(m) for r in ranks for m in r[u])


def test_shares_are_those_of_array_split():
    for total in range(12):
        for parts in (1, 2, 3, 5):
            assert [list(range(*share_bounds(total, parts, p))) for p in range(parts)] == [
                a.tolist() for a in np.array_split(np.arange(total), parts)
            ]


def test_a_batch_smaller_than_the_world_is_refused(files):
    with pytest.raises(ConfigError, match="train.batch: 3 sequences cannot be shared by 4 ranks"):
        count_micro_batches(3, 4, None)
    with pytest.raises(ConfigError, match="train.micro_batch"):
        count_micro_batches(3, 1, 0)


def test_an_epoch_shows_every_example_once_and_continues_anywhere(files):
    task = make(data=str(files / "news.txt"))
    size = len(task.sources("train")["text"])
    seen = [tuple(r) for u in batches(task, size, batch=1) for r in u[0].tokens.tolist()]
    everything = evaluation_batches(task, "train", batch=7, rank=0, world_size=1, workers=0)
    assert sorted(seen) == sorted(tuple(r) for b in everything for r in b.tokens.tolist())
    assert torch.equal(batches(task, 1, start_update=4)[0][0].tokens, batches(task, 5)[4][0].tokens)


@pytest.mark.parametrize("world, batch, workers", [(1, 7, 0), (3, 7, 0), (4, 4, 2)])
def test_evaluation_shows_every_example_once_over_the_ranks(files, world, batch, workers):
    task = make(data={"a": str(files / "news.txt"), "b": str(files / "books.txt")})
    total = sum(map(len, task.sources("valid").values()))
    seen = [
        [
            b
            for b in evaluation_batches(
                task, "valid", batch=batch, rank=r, world_size=world, workers=workers
            )
        ]
        for r in range(world)
    ]
    assert sorted(d for r in seen for b in r for d in b.draws.tolist()) == list(range(total))
    first = len(task.sources("valid")["a"])
    for found in (b for r in seen for b in r):
        assert found.source.tolist() == [int(d >= first) for d in found.draws.tolist()]
        assert (
            found.tokens[0].tolist()[: len(task.sources("valid")["a"][0].ids)]
            == task.sources("valid")["a"][0].ids.tolist()
            or found.draws[0] != 0
        )
    limited = list(
        evaluation_batches(task, "valid", batch=2, rank=0, world_size=1, workers=0, limit_batches=2)
    )
    assert [b.draws.tolist() for b in limited] == [[0, 1], [2, 3]]


def test_a_source_has_one_number_in_every_split(files):
    task = make(
        data={"a": str(files / "news.txt"), "b": str(files / "books.txt")},
        valid=str(files / "held.txt"),
    )
    assert task.source_names() == ("a", "b", "valid") and not task.one_source_per_update()
    assert {
        n
        for b in evaluation_batches(task, "valid", batch=8, rank=0, world_size=1, workers=0)
        for n in b.source.tolist()
    } == {2}
    assert {n for u in batches(task) for m in u for n in m.source.tolist()} == {0, 1}
    task._names = ("valid", "b", "a")  # a task may number them as it likes
    micro = next(evaluation_batches(task, "train", batch=8, rank=0, world_size=1, workers=0))
    assert set(micro.source.tolist()) == {2}
    task._names = ("a", "valid")
    with pytest.raises(PluginError, match="lacks 'b', a source of split 'train'"):
        batches(task)


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_leaves_the_global_generators_alone(files, workers):
    task = make(data=str(files / "news.txt"))
    torch.manual_seed(5)
    np.random.seed(5)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    batches(task, 2, workers=workers)
    list(evaluation_batches(task, "valid", batch=4, rank=0, world_size=1, workers=workers))
    assert (
        torch.equal(torch.get_rng_state(), before)
        and (np.random.get_state()[1] == numpy_before).all()
    )


def test_a_killed_worker_is_one_sentence(files):
    task = make(data=str(files / "news.txt"))
    iterator = loaded(task, workers=1)
    next(iterator)
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(RunError, match="a data-loading worker for training died"):
        for _ in range(100):
            next(iterator)


@pytest.mark.slow
def test_workers_that_give_nothing_for_too_long_are_ended(files):
    task = make(data=str(files / "news.txt"))
    iterator = loaded(task, workers=1, timeout=1.0)
    next(iterator)
    [worker] = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(
        RunError, match=r"workers for training returned nothing for 1 s \(train.timeout\)"
    ):
        for _ in range(100):
            next(iterator)
    worker.join(10)
    assert not worker.is_alive()


@pytest.mark.slow
def test_a_trainer_that_takes_long_does_not_end_its_workers(files):
    task = make(data=str(files / "news.txt"))
    iterator = loaded(task, workers=1, timeout=0.2)
    next(iterator)
    time.sleep(1)
    assert next(iterator)[0].draws.tolist() == [2, 3]
    iterator.close()


@pytest.mark.parametrize(
    "limits, free, said",
    [
        (
            (64, 64),
            1 << 30,
            "2 data-loading workers may need 300 file descriptors, but only 64 are allowed; raise the limit",
        ),
        ((1024, 4096), 1 << 16, "but only 0.1 MB are free in /dev/shm"),
        ((64, 4096), 1 << 30, ""),
        ((1024, 1024), 1 << 30, ""),
    ],
)
def test_what_workers_need_is_looked_at_before_they_begin(monkeypatch, limits, free, said):
    given = []
    monkeypatch.setattr(workers.resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(workers.resource, "setrlimit", lambda _, new: given.append(new))
    monkeypatch.setattr(workers.os, "access", lambda *_: True)
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    if not said:
        workers.require_worker_limits(2)
        assert given == ([(300, 4096)] if limits[0] == 64 else [])
        return
    with pytest.raises(RunError, match=said):
        workers.require_worker_limits(2)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_to_the_whole_group_leaves_workers_at_work(files, name):
    task = make(data=str(files / "news.txt"))
    iterator = loaded(task, workers=1)
    next(iterator)
    for child in multiprocessing.active_children():
        os.kill(child.pid, getattr(signal, name))
    assert [next(iterator)[0].draws.tolist() for _ in range(20)] == [
        [2 * u, 2 * u + 1] for u in range(1, 21)
    ]
    iterator.close()


class Broken(MaskedLanguageModelling):
    def collate(self, examples, draws, sources):
        raise DataError("news.txt went away")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_ours_keeps_its_sentence(files, workers):
    task = Broken(Config(data=str(files / "news.txt"), vocabulary=200, length=24))
    with pytest.raises(DataError) as error:
        batches(task, 1, workers=workers)
    assert str(error.value) == "news.txt went away"


class Faulty(MaskedLanguageModelling):
    def collate(self, examples, draws, sources):
        raise KeyError("label")


class Hesitant(MaskedLanguageModelling):
    reads = 0

    def collate(self, examples, draws, sources):
        Hesitant.reads += 1
        if Hesitant.reads == 2:
            raise OSError("a disk that does not answer, once")
        return super().collate(examples, draws, sources)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_tasks_code_raises_is_one_sentence_below_its_traceback(files, workers):
    task = Faulty(Config(data=str(files / "news.txt"), vocabulary=200, length=24))
    with pytest.raises(
        RunError, match=r"task Faulty raised KeyError: 'label' \(.*test_data_mlm.py:\d+\)$"
    ) as caught:
        batches(task, 1, workers=workers)
    assert "in collate" in caught.value.details and "loader.py" not in caught.value.details


def test_an_error_that_does_not_come_twice_is_still_told(files):
    task = Hesitant(Config(data=str(files / "news.txt"), vocabulary=200, length=24))
    Hesitant.reads = 0
    iterator = loader.train_views(
        task,
        order_of(task),
        lambda batch: {},
        loader.FeedSettings(batch=2),
        by_row=True,
    )
    assert (
        task.fixed_shape()
    )  # so that several micro-batches are read in one call, and again one by one
    with pytest.raises(
        RunError, match="task Hesitant raised OSError: a disk that does not answer, once"
    ):
        for _ in range(200):
            next(iterator)


def test_workers_import_user_directories_before_the_task(files, tmp_path):
    user = tmp_path / "mine"
    user.mkdir()
    (user / "shouting.py").write_text(
        "from fwk.components.registry import register\nfrom fwk.tasks.mlm import MaskedLanguageModelling\n"
        "@register('task', 'shouting')\nclass Shouting(MaskedLanguageModelling):\n"
        "    class Config(MaskedLanguageModelling.Config):\n        pass\n"
    )
    from fwk.components.discovery import load_user_dirs
    from fwk.components.registry import registry

    load_user_dirs([user])
    task = registry.get("task", "shouting").cls(
        Config(data=str(files / "news.txt"), vocabulary=200, length=24)
    )
    alone = rows(batches(task, 1))
    assert torch.equal(
        rows(batches(task, 1, workers=1, start_method="spawn", user_dirs=[user]))[0], alone[0]
    )


def test_the_task_pickles_small(files):
    task = make(data=str(files / "news.txt"))
    content = pickle.dumps(task)
    assert len(content) < 400_000 and torch.equal(
        rows(batches(pickle.loads(content)))[0], rows(batches(task))[0]
    )


def test_the_tokenizer_is_saved_for_use_elsewhere(files, tmp_path):
    task = make(data=str(files / "news.txt"))
    task.save_assets(tmp_path / "out")
    assert load(tmp_path / "out").fingerprint == task.tokenizer.fingerprint


def test_a_task_without_data_knows_counts_and_sources(files, tmp_path):
    task = make(data=str(files / "news.txt"))
    task.save_assets(tmp_path / "tokenizer")
    config = Config(data="gone.txt", vocabulary=200, length=24)
    alone = MaskedLanguageModelling.without_data(config, 1, tmp_path)
    assert torch.equal(alone.vocabulary().counts, task.vocabulary().counts)
    assert alone.source_names() == task.source_names() == ("text",)
    np.save(tmp_path / "tokenizer" / "counts.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="counts.npy is missing or damaged"):  # nothing is unpickled
        MaskedLanguageModelling.without_data(config, 1, tmp_path)
    np.save(tmp_path / "tokenizer" / "counts.npy", np.ones(3))
    with pytest.raises(DataError, match=r"holds 3 numbers, expected one for each of the"):
        MaskedLanguageModelling.without_data(config, 1, tmp_path)
    for name in ("counts.npy", "sources.json"):  # runs of before they were written
        (tmp_path / "tokenizer" / name).unlink()
    alone = MaskedLanguageModelling.without_data(config, 1, tmp_path)
    assert alone.vocabulary().counts is None and alone.source_names() == ()


@pytest.mark.parametrize(
    "config, error, message",
    [
        ({"data": "nwes.txt"}, DataError, "task.data: there is no file.*Did you mean 'news.txt'"),
        (
            {"data": "news.txt", "valid": "hold.txt"},
            DataError,
            "task.valid: .*Did you mean 'held.txt'",
        ),
        ({"data": "*.csv"}, DataError, "no file, folder or glob match"),
        ({"data": "news.txt", "tokenizer": "unigam"}, ConfigError, "Did you mean 'unigram'"),
        ({"data": "news.txt", "tokenizer": "toks/x.model"}, DataError, "task.tokenizer"),
        ({"data": {"a": {"weight": 1}}}, ConfigError, "task.data.a.path: is missing"),
        (
            {"data": {"a": {"path": "news.txt", "wieght": 1}}},
            ConfigError,
            "task.data.a.wieght: .*Did you mean 'weight'",
        ),
        ({"data": {"a": {"path": "news.txt", "weight": -1}}}, ConfigError, "task.data.a.weight"),
        ({"data": {"a": 3}}, ConfigError, "task.data.a"),
        ({"data": ()}, ConfigError, "the list is empty"),
        ({"data": "-"}, ConfigError, "run fwk-preprocess"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_built(files, monkeypatch, config, error, message):
    monkeypatch.chdir(files)
    monkeypatch.setattr(
        "fwk.data.text_corpus.build_store", lambda *a, **k: pytest.fail("began to build")
    )
    with pytest.raises(error, match=message):
        make(**config)


def test_real_text(shared_data):
    task = MaskedLanguageModelling(
        Config(
            data=str(shared_data / "text/novels-en.valid.txt.xz"),
            valid=str(shared_data / "text/wikitext-2.valid.txt.xz"),
            vocabulary=2000,
            documents="line",
            length=64,
        )
    )
    about = task.describe()
    assert 100_000 < about["train"]["tokens"] < 300_000 and about["train"]["padding_share"] < 0.01
    unknown = task.vocabulary().counts[task.tokenizer.unk] / task.vocabulary().counts.sum()
    assert unknown < 0.001
