"""The state of a run as tensors and JSON, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fwk.config.identity import required, to_yaml
from fwk.config.run_config import RunConfig
from fwk.config.user_paths import with_absolute_paths
from fwk.contracts.phase import Phase
from fwk.engine.run import OptimizerState, Run
from fwk.engine.saving import checkpoint
from fwk.engine.saving.checkpoint import State
from fwk.engine.saving.tensor_file import require_like
from fwk.errors import CheckpointError, FwkError, HookFailed, RunError
from fwk.files import write_atomically

TensorFiles = Mapping[str, Mapping[str, Tensor]]  # by file, without its suffix, and name


def capture_state(
    run: Run,
    optimizer: OptimizerState,
    meters: dict[str, Tensor],
    **trainer_state: Any,
) -> tuple[TensorFiles, str]:
    """Return what a checkpoint holds: tensors by file and name, and the state as JSON.

    optimizer: its tensors and numbers by parameter, as `pack_optimizer` returns them. trainer_state: entries of the
    state that the trainer keeps.
    """
    moments, numbers = optimizer
    tensors: dict[str, Mapping[str, Tensor]] = {
        "model": model_tensors(run.module),
        "optimizer": moments,
        "meters": meters,
    }
    if run.average is not None:
        tensors["average"] = run.average.values
    plugin_tensors, plugins = _capture_plugins(run)
    state = {
        **_counters(run),
        **trainer_state,
        "optimizer": numbers,
        "plugins": plugins,
        "listeners": [
            name for name in plugins if getattr(run.hooks.get_plugin(name), "listens_only", False)
        ],
        "needs": required(run.config),
    }
    try:
        return {**tensors, **plugin_tensors}, json.dumps(state, indent=1, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise RunError(
            f"fwk_checkpoint_save of {', '.join(plugins) or 'a plugin'} returned a value that is not JSON: {error}"
        ) from error


def _capture_plugins(run: Run) -> tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, Any]]]:
    """Return the tensors of each plugin, by file and name, and its other values, by plugin."""
    tensors: dict[str, dict[str, Tensor]] = {}
    others: dict[str, dict[str, Any]] = {}
    for name, values in call_per_plugin(run, "fwk_checkpoint_save"):
        if values:
            tensors[f"plugin-{name}"] = {k: v for k, v in values.items() if isinstance(v, Tensor)}
            others[name] = {k: v for k, v in values.items() if not isinstance(v, Tensor)}
    return tensors, others


def _counters(run: Run) -> State:
    """Return the state of the run itself; `restore_state` takes it back."""
    return {
        "update": run.update,
        "skipped": run.skipped,
        "tokens": run.tokens,
        "sequences": run.sequences,
        "seconds": run.seconds,
        "draws": run.update * run.config.train.batch,
        "world_size": run.world_size,
        "phase": run.phase.to_state() if run.phase else None,
        "schedule_start": run.schedule_start,
        "precision": {"scale": run.precision.scale, "good": run.precision.good},
        "best": [list(pair) for pair in run.best],
        "milestones": run.milestones,
        "waiting": run.waiting,
        "last_metrics": run.last_metrics,
        "owed": run.validation_pending,
        "fingerprint": run.task.fingerprint(),
    }


def write_weights(
    folder: Path, tensors: Mapping[str, Tensor], config: RunConfig, origin: str, **counters: Any
) -> None:
    """Write config.yaml and a checkpoint of weights only, which `fwk.load` reads and training cannot resume from.

    origin: a description of the source of the weights, for messages. counters: entries of the state of the run that
    the weights come from.
    """
    state = {
        "update": 0,
        "tokens": 0,
        "sequences": 0,
        "seconds": 0.0,
        "last_metrics": {},
        "fingerprint": "",
        **counters,
        "needs": required(config),
        "imported": origin,
    }
    write_atomically(folder / "config.yaml", to_yaml(with_absolute_paths(config)).encode())
    checkpoint.write_checkpoint(
        folder,
        state["update"],
        {"model": tensors, "optimizer": {}, "meters": {}},
        json.dumps(state, indent=1, sort_keys=True),
    )


def read_for_resume(run: Run, path: Path) -> tuple[dict[str, dict[str, Tensor]], State]:
    """Return the tensors and the state of a checkpoint that `run` can resume from.

    Raises CheckpointError where the checkpoint holds weights only, was written by another version, holds the state of a
    plugin that is not loaded, or was trained on other data.
    """
    tensors, state = checkpoint.read_checkpoint(path)
    if "imported" in state:
        raise CheckpointError(
            f"{path} holds weights only ({state['imported']}), so training cannot resume from it; choose another --run"
        )
    missing = sorted(checkpoint.REQUIRED_STATE - state.keys())
    if run.average is not None and "average" not in tensors:
        missing.append("average.safetensors")
    if missing:
        raise CheckpointError(
            f"{path} lacks {', '.join(missing)}: it was written by another version of fwk; install "
            "that version (environment.json in the run's folder names it)"
        )
    loaded = {name for name, _ in run.hooks.list_name_plugin()}
    absent = sorted(state["plugins"].keys() - loaded - set(state["listeners"]))
    if absent:
        raise CheckpointError(
            f"{path} holds the state of {', '.join(absent)}, which is not loaded"
            f"{checkpoint.describe_requirements(state)}"
        )
    fingerprint = run.task.fingerprint()
    if state["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"{path} was trained on other data: the fingerprint was {state['fingerprint'][:12]}, and is now "
            f"{fingerprint[:12]}; restore the data, or choose another --run"
        )
    return tensors, state


def restore_state(
    run: Run, tensors: Mapping[str, dict[str, Tensor]], state: State, path: Path
) -> None:
    """Restore counters, weights, averages, meters and phase; the trainer restores its optimizer and the hooks."""
    restore_counters(run, state)
    run.precision.scale = state["precision"]["scale"]
    run.precision.good = state["precision"]["good"]
    run.best = [(value, update) for value, update in state["best"]]
    run.milestones = list(state.get("milestones", ()))  # absent from checkpoints of older versions
    run.waiting = tuple(state["waiting"]) if state.get("waiting") else None  # likewise
    run.last_metrics, run.validation_pending = state["last_metrics"], state["owed"]
    run.schedule_start = tuple(state["schedule_start"]) if state["schedule_start"] else None
    load_model_tensors(run.module, tensors["model"], path)
    if run.average is not None:
        require_like(run.average.values, tensors["average"], path, "moving average")
        checkpoint.require_finite(path, tensors["average"], run.module)
        run.average.load(tensors["average"])
    _check_meters(tensors["meters"], state["world_size"], path)
    run.meters.load(tensors["meters"], run.world, state["world_size"])


def _check_meters(meters: Mapping[str, Tensor], world_size: int, path: Path) -> None:
    """Raise CheckpointError unless each name is 'rank/name' and each tensor holds numbers that can be added."""
    for name, value in meters.items():
        rank, slash, _ = name.partition("/")
        is_rank = rank.isascii() and rank.isdecimal() and len(rank) < 9 and int(rank) < world_size
        if not slash or not is_rank or not value.is_floating_point():
            raise CheckpointError(
                f"{path / 'meters.safetensors'} is damaged: '{name[:80]}' is no sum of one of {world_size} ranks"
            )


def restore_counters(run: Run, state: State) -> None:
    """Restore the counters and the phase; a copy of the weights may lack some."""
    run.update, run.skipped = state["update"], state.get("skipped", 0)
    run.tokens, run.sequences = state["tokens"], state["sequences"]
    run.seconds_before = run.agreed_seconds = state["seconds"]
    run.phase = Phase.from_state(state["phase"]) if state.get("phase") else None


def call_per_plugin(run: Run, hook: str, **arguments: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Call each plugin's implementation of a hook and return the plugins' names with the results.

    arguments: for each argument, its value by plugin; a plugin that is missing from one is not called. Raises
    HookFailed where an implementation raises anything but an FwkError.
    """
    results = []
    for implementation in getattr(run.hooks.hook, hook).get_hookimpls():
        name = implementation.plugin_name
        if any(name not in values for values in arguments.values()):
            continue
        values = {"run": run, **{argument: by[name] for argument, by in arguments.items()}}
        try:
            result = implementation.function(
                *(values[argument] for argument in implementation.argnames)
            )
        except FwkError:
            raise
        except Exception as error:
            raise HookFailed(hook, name, error) from error
        results.append((name, result))
    return results


def model_tensors(module: torch.nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by name, tied ones under their first name only."""
    persistent = module.state_dict(keep_vars=True).keys()
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in persistent}
    tensors = dict(module.named_parameters()) | buffers
    return {name: value.detach() for name, value in tensors.items() if name != "anchor"}


@torch.no_grad()
def load_model_tensors(module: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy every tensor into the module.

    path: of the checkpoint, for messages. Raises CheckpointError, which names tensors that are missing, left over, or
    of another shape.
    """
    targets = model_tensors(module)
    require_like(targets, tensors, path)
    for name, target in targets.items():
        target.copy_(tensors[name])
