"""A run's state as tensors and JSON, and back: what a checkpoint holds beside its hashes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fwk.config.identity import required, to_yaml
from fwk.config.run_config import RunConfig
from fwk.contracts.phase import Phase
from fwk.engine.run import Run
from fwk.engine.saving import checkpoint
from fwk.errors import CheckpointError, FwkError, HookFailed, RunError


def capture_state(
    run: Run,
    optimizer: tuple[dict[str, Tensor], dict[str, Any]],
    meters: dict[str, Tensor],
    **own: Any,
) -> tuple[dict[str, Mapping[str, Tensor]], str]:
    """What a checkpoint holds: tensors by file and name, and the state as JSON. optimizer: its tensors and numbers by
    parameter. own: the trainer's, under its names."""
    moments, numbers = optimizer
    tensors: dict[str, Mapping[str, Tensor]] = {
        "model": model_tensors(run.module),
        "optimizer": moments,
        "meters": meters,
    }
    if run.average is not None:
        tensors["average"] = run.average.values
    plugins: dict[str, Any] = {}
    for name, kept in call_per_plugin(run, "fwk_checkpoint_save"):
        if kept:
            tensors[f"plugin-{name}"] = {k: v for k, v in kept.items() if isinstance(v, Tensor)}
            plugins[name] = {k: v for k, v in kept.items() if not isinstance(v, Tensor)}
    state = {
        "update": run.update,
        "skipped": run.skipped,
        "tokens": run.tokens,
        "sequences": run.sequences,
        "seconds": run.seconds,
        "draws": run.update * run.config.train.batch,
        "world_size": run.world_size,
        "phase": run.phase.to_state() if run.phase else None,
        "optimizer": numbers,
        "schedule_start": run.schedule_start,
        "precision": {"scale": run.precision.scale, "good": run.precision.good},
        "best": [list(pair) for pair in run.best],
        "milestones": run.milestones,
        "last_metrics": run.last_metrics,
        "owed": run.validation_pending,
        **own,
        "fingerprint": run.task.fingerprint(),
        "plugins": plugins,
        "listeners": [
            name for name in plugins if getattr(run.hooks.get_plugin(name), "listens_only", False)
        ],
        "needs": required(run.config),
    }
    try:
        return tensors, json.dumps(state, indent=1, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise RunError(
            f"what fwk_checkpoint_save of {', '.join(plugins) or 'a plugin'} keeps is not JSON: {error}"
        ) from error


def write_weights(
    folder: Path, tensors: Mapping[str, Tensor], config: RunConfig, origin: str, **known: Any
) -> None:
    """config.yaml and a checkpoint of weights alone: what `fwk.load` reads, with nothing to go on training from. origin: where they
    are from, in words. known: of the state of the run that they are from."""
    state = {
        "update": 0,
        "tokens": 0,
        "sequences": 0,
        "seconds": 0.0,
        "last_metrics": {},
        "fingerprint": "",
        **known,
        "needs": required(config),
        "imported": origin,
    }
    (folder / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    checkpoint.write_checkpoint(
        folder,
        state["update"],
        {"model": tensors, "optimizer": {}, "meters": {}},
        json.dumps(state, indent=1, sort_keys=True),
    )


def read_for_resume(run: Run, path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """A checkpoint's tensors and state. CheckpointError when another version wrote it, a plugin is not here whose state it
    holds, or it was trained on other data."""
    tensors, state = checkpoint.read_checkpoint(path)
    if "imported" in state:
        raise CheckpointError(
            f"{path} holds imported weights ({state['imported']}) and nothing to go on training from; choose another --run"
        )
    if missing := sorted(checkpoint.STATE - state.keys()) + ["average.safetensors"] * (
        run.average is not None and "average" not in tensors
    ):
        raise CheckpointError(
            f"{path} lacks {', '.join(missing)}: it was written by another version of fwk; install "
            "that one (environment.json in the run's folder names it)"
        )
    if absent := sorted(
        state["plugins"].keys()
        - {name for name, _ in run.hooks.list_name_plugin()}
        - set(state["listeners"])
    ):
        raise CheckpointError(
            f"{path} holds the state of {', '.join(absent)}, which is not loaded here{checkpoint.describe_requirements(state)}"
        )
    if state["fingerprint"] != (here := run.task.fingerprint()):
        raise CheckpointError(
            f"{path} was trained on other data: fingerprint {state['fingerprint'][:12]} there, "
            f"{here[:12]} here; restore the data, or choose another --run"
        )
    return tensors, state


def restore_state(
    run: Run, tensors: Mapping[str, dict[str, Tensor]], state: Mapping[str, Any], path: Path
) -> None:
    """Counters, weights, averages, meters and phase. Optimizer and hooks are the trainer's."""
    restore_counters(run, state)
    run.precision.scale, run.precision.good = (
        state["precision"]["scale"],
        state["precision"]["good"],
    )
    run.best = [(value, update) for value, update in state["best"]]
    run.milestones = list(state.get("milestones", ()))  # checkpoints of older versions have none
    run.last_metrics, run.validation_pending = state["last_metrics"], state["owed"]
    run.schedule_start = tuple(state["schedule_start"]) if state["schedule_start"] else None
    load_model_tensors(run.module, tensors["model"], path)
    if run.average is not None:
        run.average.load(tensors["average"])
    run.meters.load(tensors["meters"], run.world, state["world_size"])


def restore_counters(run: Run, state: Mapping[str, Any]) -> None:
    """How far the run had come: its counters and phase. A copy of the weights alone may lack some."""
    run.update, run.skipped = state["update"], state.get("skipped", 0)
    run.tokens, run.sequences = state["tokens"], state["sequences"]
    run.seconds_before = run.agreed_seconds = state["seconds"]
    run.phase = Phase.from_state(state["phase"]) if state.get("phase") else None


def call_per_plugin(run: Run, hook: str, **arguments: Any) -> list[tuple[str, Any]]:
    """What each plugin's implementation of a hook returns, by the plugin's name. arguments: plugin's name -> value, for
    what differs from plugin to plugin; one that an argument does not name is left out."""
    returned = []
    for implementation in getattr(run.hooks.hook, hook).get_hookimpls():
        name = implementation.plugin_name
        if any(name not in values for values in arguments.values()):
            continue
        own = {"run": run, **{argument: values[name] for argument, values in arguments.items()}}
        try:
            returned.append(
                (
                    name,
                    implementation.function(
                        *(own[argument] for argument in implementation.argnames)
                    ),
                )
            )
        except FwkError:
            raise
        except Exception as error:
            raise HookFailed(hook, name, error) from error
    return returned


def model_tensors(module: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; tied ones under their first name only."""
    kept = module.state_dict(keep_vars=True).keys()  # leaves out buffers that are not persistent
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in kept}
    found = dict(module.named_parameters()) | buffers
    return {name: value.detach() for name, value in found.items() if name != "anchor"}


@torch.no_grad()
def load_model_tensors(module: torch.nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copies every tensor in. RunError names what is missing, left over, or of another shape."""
    own = model_tensors(module)
    if missing := sorted(own.keys() - tensors.keys()):
        raise RunError(
            f"{path} lacks {len(missing)} of the model's tensors: {', '.join(missing[:5])}"
        )
    if extra := sorted(tensors.keys() - own.keys()):
        raise RunError(
            f"{path} holds {len(extra)} tensors that the model lacks: {', '.join(extra[:5])}"
        )
    for name, value in own.items():
        if value.shape != tensors[name].shape:
            raise RunError(
                f"{path}: {name} is {list(tensors[name].shape)}, the model's is {list(value.shape)}"
            )
        value.copy_(tensors[name])
