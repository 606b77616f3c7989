"""Prompts of a task: who demonstrates classes, and a run from a masked LM to predictions."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from support.cases import PROMPTED, TABLE, config_of

import fwk
from fwk.data.examples.demonstrations import distinct
from fwk.errors import ConfigError, DataError, UserError
from fwk.runs.evaluating import evaluate_run
from fwk.tasks.examples import Examples
from fwk.testing import tiny_config, train_briefly, trainer_of

WORDS = {"green": "garden", "red": "door", "white": "house", "blue": "book"}


def task(seed: int = 1, **options: object) -> Examples:
    """Return the task of the small table; its prompts show a colour that no text is cut beside."""
    given = {name: value for name, value in PROMPTED["task"].items() if name != "name"}
    given |= {"length": 900, "label_words": WORDS}
    given["templates"] = {"prompt": "{passage} It is [MASK]"}
    values = {**given, **options}
    lists = ("texts", "classes")
    return Examples(
        Examples.Config(**{k: tuple(v) if k in lists else v for k, v in values.items()}), seed
    )


def shown(task: Examples, split: str, draws: Sequence[int]) -> list[list[list[int]]]:
    """Return the segments of the rows of a split's prompts; example n is read in draw n."""
    (source,) = task.sources(split).values()
    examples = [source[draw % len(source)] for draw in draws]
    batch = task.collate(examples, np.array(draws), np.zeros(len(draws), dtype=np.int64))
    view = batch.texts.rendered(batch, ["prompt"])
    rows = []
    for row, mask in zip(view.tokens, view.mask):
        ids = row[mask].tolist()
        ends = [place for place, index in enumerate(ids) if index == task.tokenizer.sep]
        starts = [0, *ends]
        rows.append([ids[start + 1 : end] for start, end in zip(starts, ends)])
    return rows


def test_in_training_other_examples_of_every_class_are_drawn_anew() -> None:
    ours = task(per_class=3)
    (source,) = ours.sources("train").values()
    size = len(source)
    passages = {tuple(source[n].texts["passage"][0].tolist()): n for n in range(size)}
    colours = ours.labels()["label"]
    words = [ids[0] for ids in ours.label_words()["label"]]
    seen = set()
    for draw, segments in enumerate(shown(ours, "train", range(4 * size))):
        asked, *others = segments
        assert asked[-1] == ours.tokenizer.mask and len(others) == len(colours)
        for number, other in enumerate(others):
            place = passages[
                tuple(other[: -(len(asked) - len(source[draw % size].texts["passage"][0]))])
            ]
            assert place != draw % size
            assert int(source[place].labels["label"]) == number and other[-1] == words[number]
            seen.add((draw % size, place))
    # two others of the own class, three of each other one: four draws show most of them
    assert len(seen) > size * len(colours) * 1.5


def test_demonstrations_depend_on_seed_and_draw_alone() -> None:
    first = task(demonstrations=2)
    together = shown(first, "train", range(6, 12))
    assert together == [shown(first, "train", [draw])[0] for draw in range(6, 12)]
    assert together == shown(task(demonstrations=2), "train", range(6, 12))
    assert together != shown(task(seed=2, demonstrations=2), "train", range(6, 12))


def test_outside_of_training_the_sets_are_fixed_and_nested() -> None:
    few, many = task(demonstration_sets=2), task(demonstration_sets=5)
    rows = shown(many, "valid", [0, 7])
    assert len(rows) == 10 and [row[1:] for row in rows[:5]] == [row[1:] for row in rows[5:]]
    assert shown(few, "valid", [0]) == rows[:2]
    assert len({str(row[1:]) for row in rows[:5]}) == 5


@pytest.mark.parametrize("kept", [(), ((),) * 2, (({"question": "Where?"},) * 4,) * 2])
def test_demonstrations_of_a_damaged_run_are_refused(kept: tuple) -> None:
    encoder = task().encoder
    with pytest.raises(DataError, match="expected 2, each of 4 examples with passage"):
        encoder.with_demonstrations(kept)


def test_numbers_of_demonstrations_are_different_and_uniform() -> None:
    draws = torch.randint(2**62, (6000, 2), generator=torch.Generator().manual_seed(0)).tolist()
    chosen = [tuple(distinct(words, 5, [3])) for words in draws]
    counts = {pair: chosen.count(pair) for pair in set(chosen)}
    assert set(counts) == {(a, b) for a in (0, 1, 2, 4) for b in (0, 1, 2, 4) if a != b}
    assert max(counts.values()) < 600 and min(counts.values()) > 400  # 500 each, sd 21


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_class": 1}, "task.demonstrations: the class 'blue' has 1 training examples"),
        ({"templates": {"passage": "{passage} [MASK]"}}, "has a text called 'passage'"),
        (
            {"templates": {"p": "{pasage} [MASK]"}},
            "task.templates.p: the task has no text 'pasage'",
        ),
        ({"label_words": {}}, "needs templates and label_words"),
        ({"label_words": {"green": "garden"}}, "the class 'blue' has no word"),
        ({"stride": 4}, "a template shows whole texts"),
        ({"length": 32}, "leaves no room for text beside the words of task.templates.prompt"),
        ({"label": "length", "kind": "number"}, "the task has no label with classes"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(options: dict, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        task(**options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": {"prompt": {"fields": ["question"]}}}, "question has none; expected a template"),
        (
            {"criterion": {"verbalizer": {"template": "promt"}}},
            "promt has none; expected a template: prompt",
        ),
        (
            {"criterion": {"verbalizer": {"view": "x"}}, "views": {"x": {"fields": []}}},
            "names no|none",
        ),
    ],
)
def test_a_view_without_a_mask_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message), trainer_of(config_of("verbalizer", changes)):
        pass


@pytest.mark.slow
def test_from_a_masked_lm_to_predictions_without_the_data(tmp_path: Path) -> None:
    text = {name: value for name, value in PROMPTED["task"].items() if name in ("name", "data")}
    text |= {"texts": ["question", "passage"], "label": None, "vocabulary": 120, "length": 48}
    pretrained = tiny_config(
        {"task": text, "criterion": {"masked_lm": {}}, "train": {"precision": "fp32"}}
    )
    head = train_briefly(pretrained, tmp_path / "pretrained", 2)
    few = {"per_class": 3, "templates": {"prompt": "{passage} [MASK]"}}
    changes = {
        "task": {**few, "tokenizer": str(tmp_path / "pretrained" / "tokenizer")},
        "model": {"from": str(tmp_path / "pretrained")},
        "optimizer": {"lr": 0.0},
        "train": {"precision": "fp32"},
    }
    table = tmp_path / "table.jsonl"
    table.write_text(Path(TABLE).read_text(encoding="utf-8"), encoding="utf-8")
    changes["task"] |= {"data": str(table), "valid": str(table)}
    config = config_of("verbalizer", changes)
    weights = train_briefly(config, tmp_path / "run", 1)
    name = "head.transform.weight"
    torch.testing.assert_close(
        weights[f"criteria.verbalizer.{name}"], head[f"criteria.masked_lm.{name}"]
    )

    told = evaluate_run(tmp_path / "run", "valid", predictions=tmp_path / "said.csv")
    measured = told["metrics"]
    assert measured["accuracy"] == pytest.approx(measured["verbalizer/accuracy"])
    fewer = evaluate_run(tmp_path / "run", "valid", overrides=["task.demonstration_sets=1"])
    assert fewer["metrics"]["loss"] != measured["loss"]
    with pytest.raises(DataError, match="keeps 2 sets of demonstrations, expected 3"):
        evaluate_run(tmp_path / "run", "valid", overrides=["task.demonstration_sets=3"])
    loaded = fwk.load(tmp_path / "run")
    rows = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
    table.unlink()
    answers = loaded.predict([[row["question"], row["passage"]] for row in rows])
    with open(tmp_path / "said.csv", encoding="utf-8", newline="") as file:
        for answer, line in zip(answers, csv.DictReader(file), strict=True):
            shares = answer["label"]["probabilities"]
            assert shares == pytest.approx(
                {c: float(line[f"label: {c}"]) for c in shares}, abs=1e-6
            )
