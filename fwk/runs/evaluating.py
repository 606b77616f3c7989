"""Evaluation of a run's checkpoint on the run's data or on other data (`fwk-evaluate`)."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from fwk.config.resolve import read as read_config
from fwk.config.run_config import RunConfig
from fwk.contracts.plain import PlainDict
from fwk.contracts.task import Predictions, Task
from fwk.data.targets import described_labels, pack_targets
from fwk.engine.evaluate import Evaluation, evaluate_and_count
from fwk.engine.loaded import COPY_ORIGIN
from fwk.engine.predict import predictors
from fwk.engine.ranks.joining import process_group
from fwk.engine.ranks.world import World
from fwk.engine.run import Run
from fwk.engine.saving import checkpoint
from fwk.engine.saving.state import load_model_tensors, restore_counters
from fwk.errors import CheckpointError, ConfigError, UserError
from fwk.files.outputs import OutputFile, check_output, open_output
from fwk.runs.building import build_run
from fwk.runs.loaded import OpenCheckpoint, open_checkpoint

# the keys of `train.` that may differ between training and evaluation: they change how a model is evaluated, not what
# it is; every key of `task.` may differ as well
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
    targets: Path | None = None,
    metrics: Path | None = None,
    overwrite: bool = False,
    checkpoint: str = "newest",
) -> PlainDict:
    """Evaluate a checkpoint, or a run's newest intact one, on a split.

    Return {checkpoint, update, split, documents, examples, tokens, metrics}, without the amounts that do not apply.
    overrides: `KEY=VALUE` on top of the run's config, for keys of `task.` and `EVALUATION_KEYS`. predictions: a file
    for the predictions; with several sources in the split, one for each, with its name before the suffix. targets: a
    file for what the model computes for every example (`fwk.data.targets`). metrics: the file that the caller
    writes the result to. overwrite: predictions may replace files. Raises CheckpointError where the training data
    differ from the run's, since words and labels would differ too.
    """
    check_overrides(overrides)
    opened = open_checkpoint(path, user_dirs, average, overrides, checkpoint)
    config = replace(opened.config, hooks={})
    with ExitStack() as outputs:
        world = outputs.enter_context(process_group(config.train.device, config.train.timeout))
        run = _build(opened, config, overrides, user_dirs, split, world)
        tables = _open_outputs(outputs, run, split, predictions, metrics, overwrite)
        stored = _open_targets(outputs, run, targets, [predictions, metrics], overwrite)
        _restore_weights(run, opened)
        run.config = _evaluation_config(run, config, average)
        evaluation = evaluate_and_count(
            run, split, keep_predictions=bool(tables), keep_targets=stored is not None
        )
        assert evaluation is not None  # nothing asks it to stop
        result = {"checkpoint": str(opened.path), "update": opened.state["update"], "split": split}
        _write(run.task, evaluation, result, tables, stored)
    read = amounts(evaluation, run.task.documents(split))
    return {**result, **read, "metrics": evaluation.metrics}


def _write(
    task: Task,
    evaluation: Evaluation,
    result: PlainDict,
    tables: Mapping[str, Path],
    stored: OutputFile | None,
) -> None:
    """Write predictions and targets of a split where they were asked for. result: checkpoint, update and split."""
    for name, table in tables.items():
        task.write_predictions(result["split"], name, (evaluation.predictions or {})[name], table)
    if stored is not None:
        stored.write(_packed(task, evaluation.targets or {}, result))


def _packed(task: Task, targets: Predictions, result: PlainDict) -> bytes:
    """Return the bytes of a file of targets. result: checkpoint, update and split."""
    split, vocabulary = result["split"], task.vocabulary()
    sources = task.sources(split)
    origin = {
        **result,
        "weights": checkpoint.weights_digest(Path(result["checkpoint"])),
        "fingerprint": task.fingerprint(),
        "tokenizer": vocabulary.fingerprint if vocabulary is not None else "",
        "labels": described_labels(task.labels(), task.label_kinds()),
    }
    keys = {name: task.example_keys(split, name) for name in sources}
    digests = {name: task.example_digests(split, name) for name in sources}
    return pack_targets(targets, keys, origin, digests)


def amounts(evaluation: Evaluation, documents: int | None) -> dict[str, int]:
    """Return how much was read, without what the task does not have."""
    amounts = {
        "documents": documents,
        "examples": evaluation.examples,
        "tokens": evaluation.tokens or None,
    }
    return {name: amount for name, amount in amounts.items() if amount is not None}


def check_overrides(overrides: Sequence[str], kinds: Sequence[str] = ("task",)) -> None:
    """Raise ConfigError for an override that is not of these kinds, and changes nothing in an evaluation."""
    for override in overrides:
        key = override.split("=")[0]
        if key.split(".")[0] not in kinds and key not in EVALUATION_KEYS:
            expected = ", ".join([*(f"{kind}.KEY" for kind in kinds), *EVALUATION_KEYS])
            raise ConfigError(
                key, f"does not change how a model is evaluated; expected one of {expected}"
            )


def _build(
    opened: OpenCheckpoint,
    config: RunConfig,
    overrides: Sequence[str],
    user_dirs: Sequence[str],
    split: str,
    world: World,
) -> Run:
    """Return the run at the checkpoint's update, with the task for evaluation and without the checkpoint's weights."""
    folder = opened.run_folder
    trained = config
    if overrides:
        trained = read_config(folder / "config.yaml", user_dirs, needs_hooks=False)
    with config.task.refusals():
        task = config.task.cls.for_evaluation(
            config.task.config, config.seed, folder, split, trained.task.config
        )
    # the length of the run follows from the batch that it was trained with
    settings = replace(config.train, batch=trained.train.batch, micro_batch=None)
    run = build_run(
        replace(config, train=settings), folder, opened.hooks, world, task, opened.saved
    )
    if run.task.fingerprint() != opened.state["fingerprint"]:
        raise CheckpointError(f"{opened.path} {_explain_other_data(opened.state)}")
    require_split(run, split)
    restore_counters(run, opened.state)
    run.module.switch_off(run.phase.off if run.phase else ())
    return run


def require_split(run: Run, split: str) -> None:
    """Raise UserError where the task has no such split, or no example in it."""
    if split not in run.task.splits():
        raise UserError(
            f"--split: the task has no split '{split}'; it has {', '.join(run.task.splits())}"
        )
    if not any(len(source) for source in run.task.sources(split).values()):
        raise UserError(f"--split: '{split}' holds no example")


def _explain_other_data(state: checkpoint.State) -> str:
    """Return why a checkpoint is not evaluated on the data that the task has now."""
    origin = state.get("imported")
    if origin and (origin != COPY_ORIGIN or not state["fingerprint"]):
        return (
            f"holds weights only ({origin}), without a record of the data that they were trained on; expected a run, "
            "or a copy that `Loaded.save` wrote"
        )
    return (
        "was trained on other data than the task has now, or with other options of the task, so that words and labels "
        "may differ; expected those of its config.yaml"
    )


def _resolve_targets(run: Run, split: str, predictions: Path) -> dict[str, Path]:
    """Return the file of each source's predictions. Raises UserError where they cannot be written."""
    _require_predictions(run, "--predictions")
    targets = _files_by_source(predictions, tuple(run.task.sources(split)))
    run.task.check_predictions(split, targets)
    return targets


def _files_by_source(predictions: Path, sources: Sequence[str]) -> dict[str, Path]:
    if len(sources) == 1:
        files = {sources[0]: predictions}
    else:
        for name in sources:
            if "/" in name or os.sep in name:
                raise UserError(
                    f"--predictions: each source gets a file of its name, but '{name}' cannot be a file's name"
                )
        files = {
            name: predictions.with_name(f"{predictions.stem}.{name}{predictions.suffix}")
            for name in sources
        }
    return files


def _open_outputs(
    outputs: ExitStack,
    run: Run,
    split: str,
    predictions: Path | None,
    metrics: Path | None,
    overwrite: bool,
) -> dict[str, Path]:
    """Lock and return the file of each source's predictions.

    Raises UserError where an output cannot be written, is also read, or is written as another one.
    """
    targets = _resolve_targets(run, split, predictions) if predictions is not None else {}
    reads = named_paths(run.config)
    if metrics is not None:
        check_output("--output", metrics, reads, overwrite=True)
        reads.append(metrics)
    for path in targets.values():
        outputs.enter_context(open_output("--predictions", path, reads=reads, overwrite=overwrite))
    return targets


def named_paths(config: RunConfig) -> list[Path]:
    """Return the files and folders that the values of a config name."""
    paths: list[Path] = []
    values: list[object] = [config.to_mapping()]
    while values:
        value = values.pop()
        if isinstance(value, Mapping):
            values += value.values()
        elif isinstance(value, (list, tuple)):
            values += value
        elif isinstance(value, str) and "\0" not in value:
            names = [value] if os.path.exists(value) else glob.glob(value, recursive=True)
            paths += map(Path, names)
    return paths


def _restore_weights(run: Run, opened: OpenCheckpoint) -> None:
    tensors = opened.tensors
    checkpoint.require_finite(opened.path, tensors["model"], run.module)
    load_model_tensors(run.module, tensors["model"], opened.path)
    if run.average is not None:
        # a copy holds one set of weights, which are the averages where the run was evaluated with them
        run.average.load(tensors["model" if "imported" in opened.state else "average"])


def _evaluation_config(run: Run, config: RunConfig, average: bool) -> RunConfig:
    """Return the config with the batch for evaluation, for the whole split and the run's length."""
    settings = replace(
        config.train,
        validate_batches=0,
        evaluate_average=average or config.train.evaluate_average,
        epochs=None,
        updates=run.total_updates,
    )
    return replace(config, train=settings)


def _open_targets(
    outputs: ExitStack,
    run: Run,
    path: Path | None,
    others: Sequence[Path | None],
    overwrite: bool,
) -> OutputFile | None:
    """Lock and return the file of targets. others: what else the command writes."""
    if path is None:
        return None
    _require_predictions(run, "--targets")
    reads = [*named_paths(run.config), *(other for other in others if other is not None)]
    return outputs.enter_context(open_output("--targets", path, reads=reads, overwrite=overwrite))


def _require_predictions(run: Run, flag: str) -> None:
    """Raise UserError where nothing is predicted, or several processes would write it."""
    if run.world.size > 1:
        raise UserError(
            f"{flag}: predictions are written by one process; start it without torchrun"
        )
    if not predictors(run.module):
        raise UserError(
            f"{flag}: no criterion of {run.folder} predicts anything (`Criterion.predict`)"
        )
