"""Several tasks in a batch: gradients, shares, names, metrics, patterns of the config, and refusals."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from support.cases import FINE_TUNING

import fwk
from fwk.components.discovery import load_plugins
from fwk.config.resolve import from_mapping
from fwk.engine.update import EXAMPLES, Update
from fwk.errors import ConfigError, DataError, UserError
from fwk.runs.evaluating import evaluate_run
from fwk.testing import gradients, tiny_config
from fwk.testing.running import batches_of, begin_update, trainer_of

load_plugins()
SEVERAL = FINE_TUNING["several tasks in a batch"]
TASKS = ("colour", "size", "choice", "answer")


def config(**changes: object):
    settings = {
        **SEVERAL,
        "train": {"precision": "fp64", "batch": 12, "clip": 0.0},
        **changes,
    }
    return tiny_config(settings)


def with_task(**options: object) -> dict:
    return {**SEVERAL, "task": {**SEVERAL["task"], **options}}


def shares_of(settings) -> tuple[dict[str, float], dict[str, float]]:
    """Return the examples of each criterion among all in the first update, and the term counts."""
    with trainer_of(settings) as trainer:
        update = Update(number=1, micro_batches=1)
        batches = next(batches_of(trainer.run))
        update.micro_batches = len(batches)
        begin_update(trainer, batches, update)
        return dict(update.shares), dict(update.counts)


def criteria(**changes: dict) -> dict:
    """Return the criteria of the case, without patterns. changes: options by label."""
    pattern = {**SEVERAL["criterion"]["{task}"], "view": "colour", "label": "colour"}
    entries = {"colour": pattern, **SEVERAL["criterion"]}
    del entries["{task}"]
    return {label: {**entry, **changes.get(label, {})} for label, entry in entries.items()}


def only(label: str) -> dict:
    """Return the criteria with the weight 0 for all but one, which divides by its own examples."""
    changes = {name: {"weight": 0.0} for name in (*TASKS, "masked_lm")}
    return criteria(**{**changes, label: {"weight": 1.0, "normalise": "task"}})


@pytest.mark.parametrize("micro_batch", [None, 5])
def test_the_gradient_is_the_sum_of_the_tasks_gradients_by_their_examples(micro_batch):
    train = {"precision": "fp64", "batch": 12, "clip": 0.0, "micro_batch": micro_batch}
    shares, _ = shares_of(config(train=train))
    # the auxiliary loss reads sentences of 'size', so its share is that of these examples
    assert sum(shares[name] for name in TASKS) == pytest.approx(1.0, abs=1e-15)
    assert shares["masked_lm"] == shares["size"]
    whole = gradients(config(train=train))
    expected: dict[str, torch.Tensor] = {}
    for label in (*TASKS, "masked_lm"):
        if not shares[label]:
            continue
        factor = shares[label] * (0.5 if label == "masked_lm" else 1.0)
        alone = gradients(config(criterion=only(label), train={**train, "micro_batch": None}))
        for name, gradient in alone.items():
            if gradient is not None:
                expected[name] = expected.get(name, 0) + factor * gradient
    assert set(expected) == {name for name, gradient in whole.items() if gradient is not None}
    for name, gradient in expected.items():
        assert torch.allclose(whole[name], gradient, rtol=1e-10, atol=1e-13), name


def test_a_task_may_divide_by_its_own_examples():
    own = {name: {"normalise": "task"} for name in TASKS}
    shares, counts = shares_of(config(criterion=criteria(**own)))
    assert set(shares) == {"masked_lm"} and not any(EXAMPLES in name for name in counts)


def test_one_call_encodes_the_whole_batch_whichever_tasks_it_has():
    views = {name: view for name, view in SEVERAL["views"].items() if name != "masked"}
    heads = {name: entry for name, entry in criteria().items() if name != "masked_lm"}
    settings = config(criterion=heads, views=views)
    with trainer_of(settings) as trainer:
        before = trainer.run.module.encoding.calls
        for number in range(1, 6):
            batches = next(batches_of(trainer.run, number))
            update = Update(number=number, micro_batches=1)
            micros = begin_update(trainer, batches, update)
            trainer.differentiate(micros, update)
        assert trainer.run.module.encoding.calls - before == 5


def tables(folder: Path, sizes: dict[str, int]) -> dict[str, dict]:
    """Write a table of classes for each task, and return the tasks."""
    words = ["door", "house", "apple", "barn", "red", "green", "old", "new", "small", "white"]
    for name, size in sizes.items():
        drawn = random.Random(name)
        lines = [
            json.dumps({"text": " ".join(drawn.choices(words, k=5)), "label": "ab"[n % 2]})
            for n in range(size)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    entry = {
        "name": "examples",
        "data": str(folder / "{task}.jsonl"),
        "texts": ["text"],
        "vocabulary": 60,
    }
    return {"{task}": entry, **{name: {} for name in sizes}}


def opened(tasks: dict[str, dict], **options: object):
    settings = {
        "task": {
            "name": "several",
            "tokenizer": "wordpiece",
            "length": 16,
            "tasks": tasks,
            **options,
        },
        "criterion": {"{task}": {"name": "classification", "view": "{task}", "label": "{task}"}},
        "views": {"{task}": {"noiser": "identity", "part": "{task}"}},
    }
    task = from_mapping(settings).task
    return task.cls(task.config, 1)


@pytest.mark.parametrize("exponent", [0.0, 0.75, 1.0])
def test_tasks_are_drawn_in_proportion_to_a_power_of_their_examples(tmp_path, exponent):
    task = opened(tables(tmp_path, {"large": 64, "small": 16}), exponent=exponent)
    mixture = task.mixture()
    train = {name: len(source) for name, source in task.sources("train").items()}
    ratio = mixture["large"] / mixture["small"]
    assert ratio == pytest.approx((train["large"] / train["small"]) ** exponent, rel=1e-12)


def test_stated_shares_take_the_place_of_the_exponent(tmp_path):
    task = opened(tables(tmp_path, {"large": 40, "small": 20}), shares={"large": 3.0, "small": 1.0})
    assert task.mixture() == {"large": 3.0, "small": 1.0}


def test_alternating_updates_have_examples_of_one_task():
    settings = config(task={**SEVERAL["task"], "mix": "alternate"})
    seen = set()
    with trainer_of(settings) as trainer:
        for number in range(8):
            (views,) = next(batches_of(trainer.run, number))
            sources = views["batch"].source.unique().tolist()
            assert len(sources) == 1
            seen.update(sources)
    assert len(seen) > 1


def test_names_metrics_and_average(tmp_path):
    task = opened(tables(tmp_path, {"first": 20, "second": 30}))
    assert task.source_names() == ("first", "second")
    assert dict(task.labels()) == {"first": ("a", "b"), "second": ("a", "b")}
    predictions = {}
    for name, source in task.sources("valid").items():
        gold = [int(source[n].labels["label"]) for n in range(len(source))]
        wrong = [1 - value for value in gold] if name == "second" else gold
        logits = {
            n: torch.nn.functional.one_hot(torch.tensor(v), 2).float() for n, v in enumerate(wrong)
        }
        predictions[name] = {name: logits}
    metrics = task.metrics_of_predictions("valid", predictions)
    assert metrics == {"first/accuracy": 1.0, "second/accuracy": 0.0, "average": 0.5}


def test_a_batch_without_examples_of_a_task_has_an_empty_part(tmp_path):
    task = opened(tables(tmp_path, {"first": 20, "second": 30}))
    source = task.sources("train")["second"]
    batch = task.collate([source[0], source[1]], np.arange(2), np.ones(2, dtype=np.int64))
    assert [len(batch.parts[name]) for name in ("first", "second")] == [0, 2]
    assert batch.parts["first"].labels["first"].dtype == torch.int64
    assert batch.tokens.tolist() == batch.parts["second"].tokens.tolist()


def test_what_is_stated_of_one_task_is_merged_over_the_pattern(tmp_path):
    settings = {
        "task": {"name": "several", "tasks": tables(tmp_path, {"first": 20, "second": 30})},
        "criterion": {
            "{task}": {
                "name": "classification",
                "view": "{task}",
                "label": "{task}",
                "dropout": 0.2,
            },
            "second": {"dropout": 0.0},
        },
        "views": {"{task}": {"noiser": "identity", "part": "{task}"}},
    }
    resolved = from_mapping(settings)
    assert list(resolved.criterion) == ["first", "second"]
    dropouts = {name: spec.component.values["dropout"] for name, spec in resolved.criterion.items()}
    assert dropouts == {"first": 0.2, "second": 0.0}
    assert resolved.criterion["second"].component.values["label"] == "second"
    assert from_mapping(resolved.to_mapping()) == resolved


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": with_task(tasks={"{task}": {}})["task"]}, "views.{task}: stands for one of each"),
        ({"task": with_task(tasks={"a": {"name": "glu"}})["task"]}, "Unknown task 'glu'.*glue"),
        ({"task": with_task(tasks={"a": {}})["task"]}, "task.tasks.a.name: which task"),
        (
            {"task": with_task(shares={"colr": 1})["task"]},
            "task.shares.colr.*Did you mean 'colour'",
        ),
        ({"views": {**SEVERAL["views"], "choice": {"part": "chioce"}}}, "no part 'chioce'"),
    ],
)
def test_what_does_not_fit_is_one_sentence(changes, message):
    with pytest.raises(UserError, match=message):
        gradients(tiny_config({**SEVERAL, **changes}))


def test_a_pattern_without_tasks_is_refused():
    with pytest.raises(ConfigError, match=r"criterion.{task}: stands for one of each task"):
        from_mapping({"criterion": {"{task}": {"name": "masked_lm"}}})


@pytest.mark.slow
def test_a_run_goes_on_and_is_evaluated_and_asked(tmp_path):
    run = tmp_path / "run"
    for updates in (2, 4):
        settings = {**SEVERAL, "train": {"updates": updates, "batch": 8}, "hooks": {}}
        assert fwk.train(settings, run=str(run)).update == updates
    metrics = evaluate_run(run)["metrics"]
    assert {"colour/accuracy", "size/spearman", "choice/accuracy", "answer/f1"} <= metrics.keys()
    expected = [metrics[name] for name in ("colour/accuracy", "size/spearman")]
    expected += [metrics["choice/accuracy"], metrics["answer/f1"] / 100]  # a percentage
    assert metrics["average"] == pytest.approx(sum(expected) / 4, rel=1e-12)
    loaded = fwk.load(run)
    answers = loaded.predict(
        [{"colour": ("Where is it?", "The door is red.")}, {"size": "The door is red."}]
    )
    assert set(answers[0]["label"]["probabilities"]) == {"blue", "green", "red", "white"}
    assert isinstance(answers[1]["label"]["prediction"], float)
    with pytest.raises(DataError, match="one of the tasks colour"):
        loaded.predict(["The door is red."])
