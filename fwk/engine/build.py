"""Building a run's module from its config and task: networks, ties, noisers and criteria."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fwk.config.run_config import RunConfig
from fwk.config.spec import Component, NetworkSpec, ViewSpec
from fwk.config.views import parts_of_views
from fwk.contracts.context import BuildContext
from fwk.contracts.criterion import Criterion
from fwk.contracts.encoder import Encoder
from fwk.contracts.keyed import fold
from fwk.contracts.noiser import LearnedNoiser, Noiser
from fwk.contracts.task import Task
from fwk.engine.assets import read_assets
from fwk.engine.module import ObjectiveModule
from fwk.engine.parts import MAIN
from fwk.engine.plan import BATCH
from fwk.engine.teachers import Teachers, check_teachers
from fwk.errors import ConfigError, PluginError, did_you_mean


def build_module(config: RunConfig, task: Task, assets: Path | None = None) -> ObjectiveModule:
    """Return the module of a run. Raises ConfigError, with the key, where parts do not fit each other.

    assets: the folder with what the networks of the run kept (`Encoder.assets`); None: the run begins now.
    """
    views = config.views_by_name
    _check_masks(config, views, task)
    _check_fields(views, task)
    base = _base_context(config, task)
    networks = _build_networks(config, views, base, assets)
    noisers = {name: _build_noiser(name, spec, networks, base) for name, spec in views.items()}
    reads = {label: _Reads.of(spec.component) for label, spec in config.criterion.items()}
    criteria = {
        label: _build_criterion(config, label, reads[label], views, networks, base)
        for label in config.criterion
    }
    frozen = [name for name, spec in config.networks.items() if spec.frozen]
    encodes = {label: read.encoded for label, read in reads.items()}
    check_teachers(task, criteria, Teachers.of(encodes, views, frozen))
    return ObjectiveModule(
        networks=networks,
        noisers=noisers,
        criteria=criteria,
        views=views,
        reads={label: read.views for label, read in reads.items()},
        encodes=encodes,
        seed=config.seed,
        weights={label: spec.weight for label, spec in config.criterion.items()},
        counted=_views_to_count(config, reads, views),
        pad=max(base.vocabulary.pad, 0) if base.vocabulary else 0,
        frozen=frozen,
    )


def _base_context(config: RunConfig, task: Task) -> BuildContext:
    """Return the context that all components are built with."""
    return BuildContext(
        seed=config.seed,
        vocabulary=task.vocabulary(),
        length=task.length(),
        labels=task.labels(),
        label_kinds=task.label_kinds(),
        label_counts=task.label_counts(),
        label_words=task.label_words(),
        taught=task.taught(),
        inputs=task.inputs(),
        sources=task.source_names(),
        missing_sources=task.missing_sources(),
    )


def _check_fields(views: Mapping[str, ViewSpec], task: Task) -> None:
    """Raise ConfigError where a view shows a part, or renders a text or a prompt, that the task does not have."""
    parts = task.parts()
    for name, spec in views.items():
        if spec.part is not None and spec.part not in parts:
            what = f"no part '{spec.part}'{did_you_mean(spec.part, parts)}" if parts else "no parts"
            raise ConfigError(f"views.{name}.part", f"the task has {what}")
        shown = task if spec.part is None else parts[spec.part]
        names = (*shown.text_names(), *shown.prompt_names())
        for text in spec.fields:
            if text not in names:
                what = f"no text or template '{text}'{did_you_mean(text, names)}"
                lack = what if names else "no named texts"
                raise ConfigError(f"views.{name}.fields", f"the task has {lack}")


def _check_masks(config: RunConfig, views: Mapping[str, ViewSpec], task: Task) -> None:
    """Raise ConfigError where a criterion reads chosen positions of rendered texts that have none."""
    parts = task.parts()
    for label, spec in config.criterion.items():
        for name, read in spec.component.cls.reads(spec.component.config).items():
            view = views[name]
            while view.of is not None and view.cls.chooses is False:
                view = views[view.of]
            prompts = parts.get(view.part or "", task).prompt_names()
            if read.positions and view.cls.chooses is False and not set(view.fields) & set(prompts):
                raise ConfigError(
                    f"views.{view.name}.fields",
                    f"criterion '{label}' reads a masked position, and {', '.join(view.fields)} has none; expected a "
                    + (
                        f"template: {', '.join(prompts)}"
                        if prompts
                        else "template of the task (task.templates)"
                    ),
                )


@dataclass(frozen=True)
class _Reads:
    """The views that a criterion receives, and those of them whose encodings it reads."""

    views: tuple[str, ...]
    encoded: tuple[str, ...]

    @classmethod
    def of(cls, component: Component) -> _Reads:
        declared = component.cls.reads(component.config)
        return cls(tuple(declared), tuple(name for name, read in declared.items() if read.encoded))


def _views_to_count(
    config: RunConfig, reads: Mapping[str, _Reads], views: Mapping[str, ViewSpec]
) -> dict[str, str]:
    """Return the view that counts, by criterion whose loss is divided by the examples of all tasks in an update."""
    of_parts = parts_of_views(views).keys()
    return {
        label: reads[label].encoded[0]
        for label, spec in config.criterion.items()
        if reads[label].encoded
        and (
            spec.normalise == "examples"
            or (spec.normalise == "auto" and of_parts >= set(reads[label].encoded))
        )
    }


def _build_networks(
    config: RunConfig, views: Mapping[str, ViewSpec], base: BuildContext, assets: Path | None
) -> dict[str, Encoder]:
    """Return all networks by name, the main one first, with their ties."""

    def context_of(name: str) -> BuildContext:
        return base if assets is None else replace(base, assets=read_assets(assets, name))

    main = _construct(config.model, MAIN, context_of(MAIN))
    networks = {MAIN: main}
    specs = network_specs(config, views)
    for name, spec in specs.items():
        networks[name] = _construct(spec.component, name, replace(context_of(name), encoder=main))
        for part in spec.tie:
            tie(networks[name], main, part, name)
    verify_ties(networks, specs)
    return networks


def _build_noiser(
    name: str, spec: ViewSpec, networks: Mapping[str, Encoder], base: BuildContext
) -> Noiser:
    """Return the noiser that makes a view."""
    network = _network_name(name, spec)
    context = replace(
        base,
        encoder=networks[spec.encoder],
        network=networks[network] if network is not None else None,
        of=spec.of or BATCH,
    )
    noiser: Noiser = _construct(spec.component, name, context)
    if isinstance(noiser, nn.Module) and not isinstance(noiser, LearnedNoiser):
        raise PluginError(
            f"noiser '{spec.noiser}' (views.{name}) is an nn.Module and no LearnedNoiser, so that its parameters would "
            "be neither trained nor saved; expected it to derive from fwk.LearnedNoiser"
        )
    return noiser


def _build_criterion(
    config: RunConfig,
    label: str,
    reads: _Reads,
    views: Mapping[str, ViewSpec],
    networks: Mapping[str, Encoder],
    base: BuildContext,
) -> Criterion:
    """Return a criterion. Raises ConfigError where the task lacks a label that it reads."""
    component = config.criterion[label].component
    component.cls.check_labels(component.config, base.labels, f"criterion.{label}")
    for name in component.cls.needs_labels(component.config):
        if name not in base.labels:
            lack = f"no such label{did_you_mean(name, base.labels)}" if base.labels else "none"
            raise ConfigError(
                f"criterion.{label}",
                f"reads the label '{name}', and task '{config.task.name}' has {lack}",
            )
    # heads are as wide as the encoder of the views, where that is one
    encoders = {views[view].encoder for view in reads.encoded}
    encoder = networks[min(encoders)] if len(encoders) == 1 else networks[MAIN]
    return _construct(component, label, replace(base, encoder=encoder))


# the class is known only when the config is read, so its type is unknown to the checker
def _construct(component: Component, name: str, context: BuildContext) -> Any:
    """Return a component, initialised from a seed of its own.

    Adding a component therefore leaves the initial weights of all others as they were.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold(context.seed, "weights", component.kind, name))
        context = replace(context, name=name, key=component.key)
        with component.refusals():
            return component.cls(component.config, context)


def _network_name(view: str, spec: ViewSpec) -> str | None:
    """Return the name of a view's network: one of `networks:`, a private one named after the view, or None."""
    return f"{view}_network" if isinstance(spec.network, NetworkSpec) else spec.network


def network_specs(config: RunConfig, views: Mapping[str, ViewSpec]) -> dict[str, NetworkSpec]:
    """Return all networks besides the main one: those of `networks:`, then the private ones of views."""
    private = {
        f"{name}_network": spec.network
        for name, spec in views.items()
        if isinstance(spec.network, NetworkSpec)
    }
    return {**config.networks, **private}


# -- ties -----------------------------------------------------------------------------------------------------------


def tie(network: Encoder, main: Encoder, part: str, name: str) -> None:
    """Make a part of a network the very module, or parameter, of the main encoder.

    name: of the network. Raises ConfigError where one of them lacks the part, or their shapes differ.
    """
    for encoder, owner in ((network, f"network '{name}'"), (main, "the main encoder")):
        if part not in encoder.parts():
            raise ConfigError(
                f"networks.{name}.tie",
                f"{owner} has no part '{part}'{did_you_mean(part, encoder.parts())}",
            )
    path = network.parts()[part]
    shared = _part(main, part)
    shapes, shapes_of_main = _shapes(_part(network, part)), _shapes(shared)
    if shapes != shapes_of_main:
        raise ConfigError(
            f"networks.{name}.tie",
            f"'{part}' has the shapes {shapes} in this network and {shapes_of_main} in the main encoder; only equal "
            "shapes can be tied",
        )
    parent, _, attribute = path.rpartition(".")
    setattr(network.get_submodule(parent), attribute, shared)


def verify_ties(networks: Mapping[str, Encoder], specs: Mapping[str, NetworkSpec]) -> None:
    """Raise ConfigError where a constructor undid a tie, which would silently train two copies."""
    for name, spec in specs.items():
        for part in spec.tie:
            if _part(networks[name], part) is not _part(networks[MAIN], part):
                raise ConfigError(
                    f"networks.{name}.tie",
                    f"'{part}' is no longer shared with the main encoder after the build",
                )


def _part(encoder: Encoder, name: str) -> nn.Module | nn.Parameter:
    """Return a part of an encoder, which lists the attribute path of each."""
    value: nn.Module | nn.Parameter = encoder
    for attribute in encoder.parts()[name].split("."):
        value = getattr(value, attribute)
    return value


def _shapes(part: nn.Module | nn.Parameter) -> list[tuple[int, ...]]:
    parameters = part.parameters() if isinstance(part, nn.Module) else [part]
    return [tuple(parameter.shape) for parameter in parameters]
