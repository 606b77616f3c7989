"""Evaluate a run's checkpoint on its own or other data (`fwk-evaluate`)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from fwk.config.resolve import read as read_config
from fwk.engine.evaluate import evaluate
from fwk.engine.predict import predict, predictors
from fwk.engine.ranks.joining import process_group
from fwk.engine.saving import checkpoint
from fwk.engine.saving.state import load_model_tensors, restore_counters
from fwk.errors import CheckpointError, ConfigError, UserError
from fwk.files import check_target
from fwk.runs.loaded import COPY_ORIGIN, _opened
from fwk.runs.start import build_run

# what of `train.` a finished model may be evaluated with otherwise than it was trained
EVALUATION_KEYS = (
    "train.batch",
    "train.micro_batch",
    "train.device",
    "train.precision",
    "train.timeout",
)


def evaluate_run(
    path: str | Path,
    split: str = "valid",
    *,
    overrides: Sequence[str] = (),
    user_dirs: tuple[str, ...] = (),
    average: bool = False,
    predictions: Path | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint, or a run's newest whole one, on a split of its task: {checkpoint, update, split, metrics}.

    overrides: `task.KEY=VALUE`, `train.batch` and the like, over the run's own config. predictions: a file for what the model
    says; with several sources in the split, a file for each, its name before the suffix. Other training data than the run's have other
    words and labels: CheckpointError.
    """
    for key in (override.split("=")[0].split(".") for override in overrides):
        if key[0] != "task" and ".".join(key) not in EVALUATION_KEYS:
            raise ConfigError(
                ".".join(key),
                f"does not change how a model is evaluated; expected task.KEY or {', '.join(EVALUATION_KEYS)}",
            )
    found, tensors, state, config, hooks = _opened(path, user_dirs, average, overrides)
    folder = found.parent.parent
    config = replace(config, hooks={})
    with process_group(config.train.device, config.train.timeout) as world:
        trained = read_config(folder / "config.yaml", user_dirs) if overrides else config
        own_batch = replace(
            config, train=replace(config.train, batch=trained.train.batch, micro_batch=None)
        )
        task = config.task.cls.for_evaluation(
            config.task.config, config.seed, folder, split, trained.task.config
        )
        run = build_run(own_batch, folder, hooks, world, task)
        if run.task.fingerprint() != state["fingerprint"]:
            raise CheckpointError(f"{found} {_other_data(state)}")
        if split not in run.task.splits():
            raise UserError(
                f"--split: the task has no split '{split}'; it has {', '.join(run.task.splits())}"
            )
        if not any(len(source) for source in run.task.sources(split).values()):
            raise UserError(f"--split: '{split}' holds no example")
        restore_counters(run, state)
        run.module.switch_off(run.phase.off if run.phase else ())
        targets: dict[str, Path] = {}
        if predictions is not None:
            if world.size > 1:
                raise UserError(
                    "--predictions: are written by one process; start it without torchrun"
                )
            if not predictors(run.module):
                raise UserError(
                    f"--predictions: no criterion of {folder} predicts anything (`Criterion.predict`)"
                )
            targets = _targets(predictions, tuple(run.task.sources(split)))
            run.task.check_predictions(split, targets)
        checkpoint.require_finite(found, tensors["model"], run.module)
        load_model_tensors(run.module, tensors["model"], found)
        if run.average is not None:
            run.average.load(
                tensors["model" if "imported" in state else "average"]
            )  # a copy holds the chosen weights alone
        averaged = average or config.train.evaluate_average
        # the run's length is that with its own batch
        run.config = replace(
            config,
            train=replace(
                config.train,
                validate_batches=0,
                evaluate_average=averaged,
                epochs=None,
                updates=run.total_updates,
            ),
        )
        metrics = evaluate(run, split)
        if predictions is not None:
            with run.average.in_place() if averaged else nullcontext():
                said = predict(run, split)
            for name, of in said.items():
                run.task.write_predictions(split, name, of, targets[name])
    return {"checkpoint": str(found), "update": state["update"], "split": split, "metrics": metrics}


def _other_data(state: Mapping[str, Any]) -> str:
    """Why a checkpoint is not evaluated on the data that the task has now."""
    if (origin := state.get("imported")) and (origin != COPY_ORIGIN or not state["fingerprint"]):
        return f"holds weights alone ({origin}), which do not say what data they were trained on; expected a run, or a copy that `Loaded.save` wrote"
    return (
        "was trained on other data than the task has now, or with other options of the task, so that words and labels may be others; "
        "expected those of its config.yaml"
    )


def _targets(predictions: Path, sources: Sequence[str]) -> dict[str, Path]:
    """The file of each source's predictions. UserError for one that cannot be written."""
    if len(sources) > 1 and (
        bad := next((name for name in sources if "/" in name or os.sep in name), None)
    ):
        raise UserError(
            f"--predictions: the source '{bad}' has a file of its own, and its name is none that a file can have"
        )
    found = {
        name: predictions.with_name(f"{predictions.stem}.{name}{predictions.suffix}")
        if len(sources) > 1
        else predictions
        for name in sources
    }
    for path in found.values():
        check_target("--predictions", path)
    return found
