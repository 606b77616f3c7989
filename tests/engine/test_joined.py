"""Micro-batches that are made in one call are, to the bit, those that are made one by one."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import pytest
import torch

from fwk import register, testing
from fwk.contracts.task import Source
from fwk.contracts.views import View
from fwk.engine.feed import loader
from fwk.engine.feed.joined import JoinedViews
from fwk.engine.update import Update
from fwk.errors import DataError, PluginError
from fwk.noisers.bert_mask import BertMask
from fwk.testing import batches_of, tiny_config, trainer_of

VIEWS = {
    "masked": {"noiser": "bert_mask"},
    "again": {"noiser": "bert_mask", "ratio": 0.5},
    "plain": {"noiser": "identity"},
    "some": {"noiser": "rows", "sources": ["b"]},
    "masked_some": {"noiser": "bert_mask", "of": "some"},
}
CONFIGS = {
    "one view": {"criterion": {"masked_lm": {}}},
    "two views": {"criterion": {"semantic_augment": {}}},
    "views of views, some of them without rows": {
        "views": VIEWS,
        "criterion": {
            "a": {"name": "masked_lm", "view": "masked_some"},
            "b": {"name": "masked_lm", "view": "again"},
        },
    },
    "micro-batches of unequal size": {
        "criterion": {"masked_lm": {}},
        "train": {"batch": 13, "micro_batch": 4},
    },
    "rows without padding among rows with": {
        "criterion": {"masked_lm": {}},
        "task": {"shortest": 15},
        "train": {"micro_batch": 1},
    },
}


def tensors_of(value, path=""):
    """Every tensor and flag of a view, by path."""
    if isinstance(value, View):
        return {
            k: v
            for f in fields(value)
            for k, v in tensors_of(getattr(value, f.name), f"{path}.{f.name}").items()
        }
    if isinstance(value, dict):
        return {
            k: v
            for name, entry in value.items()
            for k, v in tensors_of(entry, f"{path}.{name}").items()
        }
    return {path: value}


def same(one, other) -> bool:
    a, b = tensors_of(one), tensors_of(other)
    return a.keys() == b.keys() and all(
        torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype
        if isinstance(a[k], torch.Tensor)
        else a[k] == b[k]
        for k in a
    )


def alone(trainer, updates, start=0):
    """The views of each update, every micro-batch by itself."""
    module, batches = trainer.run.module, batches_of(trainer.run, start)
    return [
        [module.begin(batch, i, Update()).views for i, batch in enumerate(next(batches))]
        for _ in range(updates)
    ]


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.mostly_slow("0-")
def test_views_made_together_are_the_views_made_alone(changes, start):
    with trainer_of(tiny_config(changes)) as trainer:
        trainer.run.update = start
        updates = trainer.updates()
        expected = alone(trainer, 12, start)
        assert all(
            same(dict(a), b)
            for update in expected
            for a, b in zip(next(updates), update, strict=True)
        )


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.mostly_slow("fork")
def test_workers_make_the_same_views(method):
    with trainer_of(tiny_config(CONFIGS["two views"])) as trainer:
        run, static = trainer.run, trainer.run.module.static_of_all_phases
        updates = loader.train_views(
            run.task,
            run.order,
            partial(static, split="train"),
            loader.FeedSettings(
                batch=12, micro_batch=5, workers=2, device=run.device, start_method=method
            ),
            start_update=3,
            by_row=static.by_row,
        )
        trainer.run.config = tiny_config({**CONFIGS["two views"], "train": {"micro_batch": 5}})
        expected = alone(trainer, 4, 3)
        try:
            assert all(
                same(dict(a), b)
                for update in expected
                for a, b in zip(next(updates), update, strict=True)
            )
        finally:
            updates.close()


@register("noiser", "test_by_batch")
class ByBatch(BertMask):
    """As bert_mask, with nothing said about rows."""

    by_row = False

    @dataclass(frozen=True, kw_only=True)
    class Config(BertMask.Config):
        pass


@pytest.mark.parametrize(
    "noiser,rows", [("bert_mask", 12 * loader.MICRO_BATCHES_PER_CALL), ("test_by_batch", 12)]
)
def test_a_noiser_gets_many_micro_batches_only_if_it_says_so(noiser, rows, monkeypatch):
    seen = []
    apply = BertMask.apply
    monkeypatch.setattr(
        BertMask,
        "apply",
        lambda self, source, key, context=None: (
            seen.append(len(source)) or apply(self, source, key)
        ),
    )
    with trainer_of(
        tiny_config({"criterion": {"masked_lm": {}}, "views": {"masked": {"noiser": noiser}}})
    ) as trainer:
        updates = trainer.updates()
        for _ in range(3):
            next(updates)
        updates.close()
    assert seen == [rows] * (1 if noiser == "bert_mask" else 3)


class Broken(Source):
    """Good examples up to one."""

    def __init__(self, source, bad):
        self.source, self.bad = source, bad

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        if index == self.bad:
            raise DataError("example is broken")
        return self.source[index]


def test_an_example_that_cannot_be_read_ends_the_run_when_it_is_its_turn():
    config = tiny_config({"criterion": {"masked_lm": {}}, "task": {"second_source": 0.0}})
    with trainer_of(config) as trainer:
        run = trainer.run
        _, indices, _ = run.order.locate(np.arange(64))
        turn = 4
        sources = run.task.sources
        run.task.sources = lambda split: {
            name: Broken(s, indices[turn * 12 + 3]) for name, s in sources(split).items()
        }
        updates = trainer.updates()
        for _ in range(turn):
            assert len(next(updates)[0]["batch"]) == 12
        with pytest.raises(DataError, match="example is broken"):
            next(updates)


def test_a_noiser_that_reorders_rows_and_says_by_row_is_named():
    view = View(name="v", draws=torch.tensor([0, 2, 1]), inputs={})
    with pytest.raises(
        PluginError, match="noiser of view 'v' declares `by_row` but reorders the rows"
    ):
        JoinedViews.joining({"v": view}, [np.arange(3)])


def test_training_on_views_made_together_gives_the_weights_of_training_one_by_one():
    config = tiny_config(
        {
            "criterion": {"semantic_augment": {}},
            "train": {"precision": "fp32", "micro_batch": 5},
            "model": {"dropout": 0.1},
        }
    )
    weights = []
    for together in (True, False):
        with trainer_of(config) as trainer:
            updates = trainer.updates() if together else batches_of(trainer.run)
            for _ in range(5):
                trainer.step(next(updates))
            weights.append([p.detach().clone() for p in trainer.run.module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights))


@pytest.mark.parametrize("name", ["bert_mask", "identity", "rows"])
def test_noisers_that_say_by_row_keep_rows_apart(name):
    assert testing.noiser_keeps_rows_apart(name, {}) == ""


def test_the_kit_finds_a_noiser_that_says_by_row_and_looks_at_its_neighbours(monkeypatch):
    monkeypatch.setattr(
        BertMask,
        "apply",
        lambda self, source, key, context=None: source.replace(
            inputs={"tokens": source.tokens + len(source)}
        ),
    )
    assert "noised alone" in testing.noiser_keeps_rows_apart("bert_mask", {})


def test_replacing_what_is_no_field_of_a_view_is_refused():
    view = View(name="v", draws=torch.arange(2), inputs={})
    assert view.replace(name="w").name == "w" and view.name == "v"
    with pytest.raises(TypeError, match="colour"):
        view.replace(colour="red")
