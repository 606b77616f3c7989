"""Evaluation of weights by a task and criteria that they were not trained with, without any training.

The weights are started from as `model.from` does, and the split is evaluated before the first update. A criterion whose
head the weights do not hold would judge noise, and is refused.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from fwk.components.discovery import load_plugins
from fwk.config.resolve import resolve
from fwk.contracts.plain import PlainDict
from fwk.engine.evaluate import evaluate_and_count
from fwk.engine.ranks.joining import process_group
from fwk.errors import ConfigError
from fwk.runs.building import build_run
from fwk.runs.evaluating import amounts, check_overrides, require_split
from fwk.runs.origin import find_origin
from fwk.runs.starting import heads_without_weights

KINDS = ("task", "criterion", "views")  # of the overrides


def judge_weights(
    place: str,
    task: str | None,
    criteria: Sequence[str],
    split: str = "valid",
    *,
    overrides: Sequence[str] = (),
    user_dirs: Sequence[str] = (),
) -> PlainDict:
    """Evaluate weights on a split of a task by criteria; return {from, split, examples, tokens, metrics}.

    place: as `model.from`. task, criteria: their names; None and (): those of the overrides. overrides: `KEY=VALUE` for
    task, criterion, views and how it is evaluated. Raises ConfigError for a criterion whose head the weights lack.
    """
    check_overrides(overrides, KINDS)
    flags = {"task": task, "criterion": list(criteria) or None}
    start = ("MODEL", {"model": {"from": str(place)}, "train": {"updates": 1}, "hooks": {}})
    config = resolve((), flags, overrides, user_dirs, layers=[start]).config
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "none"
        origin = find_origin(replace(config, run=str(folder)))
        world = stack.enter_context(process_group(config.train.device, config.train.timeout))
        hooks = load_plugins(config.user_dirs)
        run = build_run(origin.config, folder, hooks, world, sources=origin.sources)
        for label in heads_without_weights(run.module, origin.sources):
            raise ConfigError(
                f"criterion.{label}",
                f"{place} holds no weights of its head, so it would judge noise; train it first, or choose a criterion "
                "without weights (similarity)",
            )
        require_split(run, split)
        evaluation = evaluate_and_count(run, split, batches=0)
        assert evaluation is not None  # nothing asks it to stop
    result = {"from": str(place), "split": split, **amounts(evaluation, None)}
    return {**result, "metrics": evaluation.metrics}
