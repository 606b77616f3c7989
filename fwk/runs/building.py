"""The objects of a run, built from its config."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pluggy import PluginManager

from fwk.config.run_config import RunConfig
from fwk.config.spec import Component
from fwk.contracts.schedule import Schedule
from fwk.contracts.task import Task
from fwk.data.by_length import ByLength
from fwk.data.order import Order
from fwk.engine.assets import read_assets
from fwk.engine.build import build_module
from fwk.engine.ema import Average
from fwk.engine.feed.draws import count_micro_batches
from fwk.engine.fitting import build_fitting
from fwk.engine.module import ObjectiveModule
from fwk.engine.parts import MAIN
from fwk.engine.precision import Precision
from fwk.engine.ranks.world import World
from fwk.engine.run import Run
from fwk.engine.saving.tensor_file import SavedTensors
from fwk.engine.speed.compiling import CompileCounter, compile_networks
from fwk.engine.speed.recompute import recompute_layers
from fwk.errors import ConfigError, UserError
from fwk.files import user_path
from fwk.flops import Count
from fwk.flops import count as count_operations
from fwk.runs.source import Source
from fwk.runs.starting import require_same_tokenizer, start_from

logger = logging.getLogger(__name__)

TOKENIZER = "tokenizer"  # the option of tasks that names a tokenizer, and may be the path of one


def build_run(
    config: RunConfig,
    folder: Path,
    hooks: PluginManager,
    world: World,
    task: Task | None = None,
    saved: SavedTensors | None = None,
    sources: Mapping[str, Source] | None = None,
) -> Run:
    """Return a run at its beginning, on the device of `world`; the hooks of the config are registered.

    task: instead of the one that the config describes. saved: weights that the module must fit (`build_fitting`).
    sources: what the networks start from, by the key of the network in the config. Raises UserError where the task has
    no split 'train', and ConfigError where a source does not fit.
    """
    task = task or _build_task(config.task, config.seed, saved.assets if saved else None)
    require_same_tokenizer(task, sources := sources or {})
    _require_training_data(config, task)
    order = _build_order(config, task)
    precision = Precision(
        config.train.precision, world.device, growth_interval=config.train.scale_growth_interval
    )
    module = _build_module(config, task, world, precision, saved, sources)
    if config.train.compile:
        hooks.register(CompileCounter(), name="compile_watch")
    average = _build_average(config, module)
    _register_hooks(config, hooks)
    return Run(
        config=config,
        folder=folder,
        task=task,
        order=order,
        module=module,
        world=world,
        precision=precision,
        hooks=hooks,
        schedule=_build_schedule(config),
        average=average,
        operations=_count_operations(config, task, world),
    )


def _build_task(component: Component, seed: int, assets: Path | None) -> Task:
    if assets is not None:
        component = _with_kept_tokenizer(component, assets)
    with component.refusals():
        return component.cls(component.config, seed)


def _with_kept_tokenizer(component: Component, assets: Path) -> Component:
    """Return the task with the tokenizer that the run kept, where the one that it names is gone."""
    spec = next((spec for spec in component.entry.schema if spec.name == TOKENIZER), None)
    place = component.values.get(TOKENIZER)
    if spec is None or spec.paths is None or not isinstance(place, str):
        return component
    if place in (spec.names or ()) or user_path(place).exists():
        return component
    return replace(component, values={**component.values, TOKENIZER: str(assets)})


def _require_training_data(config: RunConfig, task: Task) -> None:
    if "train" not in task.splits():
        raise UserError(
            f"task: '{config.task.name}' has no split 'train'; it has {', '.join(task.splits())}"
        )


def _build_average(config: RunConfig, module: ObjectiveModule) -> Average | None:
    average = Average(module, config.train.ema) if config.train.ema else None
    module.encoding.averages = average.values if average else None
    return average


def _build_schedule(config: RunConfig) -> Schedule:
    with config.schedule.refusals():
        return config.schedule.cls(config.schedule.config)


def _register_hooks(config: RunConfig, hooks: PluginManager) -> None:
    for label, component in config.hooks.items():
        with component.refusals():
            hook = component.cls(component.config)
        hooks.register(hook, name=label)


def _build_order(config: RunConfig, task: Task) -> Order:
    sizes = {name: len(source) for name, source in task.sources("train").items()}
    lengths = task.lengths("train")
    if lengths is not None and not task.one_source_per_update():
        return ByLength(config.seed, sizes, task.mixture(), lengths, config.train.batch)
    return Order(
        config.seed,
        sizes,
        task.mixture(),
        group=config.train.batch if task.one_source_per_update() else 1,
    )


def _build_module(
    config: RunConfig,
    task: Task,
    world: World,
    precision: Precision,
    saved: SavedTensors | None,
    sources: Mapping[str, Source],
) -> ObjectiveModule:
    if saved:
        module = build_fitting(config, task, saved)
    else:
        _require_weights_of_frozen(config)
        module = build_module(config, task, _assets_of_source(sources))
    if sources:
        for line in start_from(module, sources, config, task.length()):
            logger.info("%s", line)
    module.to(device=world.device, dtype=precision.dtype)
    module.world = world
    if config.train.activation_checkpointing:
        recompute_layers(dict(module.networks.items()))
    if config.train.compile:
        compile_networks(module)
    return module


def _require_weights_of_frozen(config: RunConfig) -> None:
    """Raise ConfigError for a frozen network that would keep random weights."""
    for name, spec in config.networks.items():
        if spec.frozen and spec.component.weights_from is None:
            raise ConfigError(
                f"networks.{name}.from",
                "is missing, and a frozen network needs trained weights; expected a run, a checkpoint or a folder",
            )


def _assets_of_source(sources: Mapping[str, Source]) -> Path | None:
    """Return the folder with what the main network of a source kept; None where it kept nothing."""
    assets = sources["model"].assets if "model" in sources else None
    return assets if assets is not None and read_assets(assets, MAIN) else None


def _count_operations(config: RunConfig, task: Task, world: World) -> Count | None:
    vocabulary = task.vocabulary()
    train = config.train
    return count_operations(
        config,
        task.length(),
        vocabulary.size if vocabulary else None,
        micro_batches=count_micro_batches(train.batch, world.size, train.micro_batch),
    )
