"""A config and a task -> the module: networks, ties, noisers, criteria, each with an initialisation of its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from fwk.config.run_config import RunConfig
from fwk.config.spec import Component, NetworkSpec, ViewSpec
from fwk.contracts.context import BuildContext
from fwk.contracts.encoder import Encoder
from fwk.contracts.keyed import fold
from fwk.contracts.noiser import Noiser
from fwk.contracts.task import Task
from fwk.engine.module import ObjectiveModule
from fwk.engine.plan import BATCH
from fwk.errors import ConfigError, did_you_mean


def build_module(config: RunConfig, task: Task) -> ObjectiveModule:
    """ConfigError names the key when a part cannot be built or does not fit another."""
    views = config.views_by_name
    vocabulary = task.vocabulary()
    base = dict(
        seed=config.seed,
        vocabulary=vocabulary,
        length=task.length(),
        labels=task.labels(),
        inputs=task.inputs(),
        sources=task.source_names(),
        missing_sources=task.missing_sources(),
    )
    networks = {"main": _construct(config.model, "main", base)}
    for name, spec in _networks(config, views).items():
        networks[name] = _construct(spec.component, name, {**base, "encoder": networks["main"]})
        for part in spec.tie:
            tie(networks[name], networks["main"], part, name)
    verify_ties(networks, _networks(config, views))
    noisers: dict[str, Noiser] = {}
    for name, spec in views.items():
        network = _network_name(name, spec)
        noisers[name] = _construct(
            spec.component,
            name,
            {
                **base,
                "encoder": networks[spec.encoder],
                "network": networks.get(network),
                "of": spec.of or BATCH,
            },
        )
    criteria, reads, encoded = {}, {}, {}
    for label, spec in config.criterion.items():
        spec.component.cls.check_labels(spec.component.config, task.labels(), f"criterion.{label}")
        for wanted in spec.component.cls.needs_labels(spec.component.config):
            if wanted not in task.labels():
                raise ConfigError(
                    f"criterion.{label}",
                    f"reads the label '{wanted}', and task '{config.task.name}' has "
                    f"{f'no such label{did_you_mean(wanted, task.labels())}' if task.labels() else 'none'}",
                )
        declared = spec.component.cls.reads(spec.component.config)
        reads[label] = tuple(declared)
        encoded[label] = tuple(name for name, read in declared.items() if read.encoded)
        used = {views[view].encoder for view in encoded[label]}
        encoder = networks[min(used)] if len(used) == 1 else networks["main"]
        criteria[label] = _construct(spec.component, label, {**base, "encoder": encoder})
    return ObjectiveModule(
        networks=networks,
        noisers=noisers,
        criteria=criteria,
        views=views,
        reads=reads,
        encodes=encoded,
        seed=config.seed,
        weights={label: spec.weight for label, spec in config.criterion.items()},
        pad=max(vocabulary.pad, 0) if vocabulary else 0,
    )


def _construct(component: Component, name: str, build: Mapping) -> nn.Module | Noiser:
    """Each component is initialised from a word of its own, so adding one leaves the others' weights as they were."""
    config = component.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold(build["seed"], "weights", component.kind, name))
        return component.cls(config, BuildContext(name=name, key=component.key, **build))


def _network_name(view: str, spec: ViewSpec) -> str | None:
    """A view's network: one of `networks:` by name, or its own, which is called after it."""
    if spec.network is None or isinstance(spec.network, str):
        return spec.network
    return f"{view}_network"


def _networks(config: RunConfig, views: Mapping[str, ViewSpec]) -> dict[str, NetworkSpec]:
    found = dict(config.networks)
    for name, spec in views.items():
        if isinstance(spec.network, NetworkSpec):
            found[_network_name(name, spec)] = spec.network
    return found


def tie(network: Encoder, main: Encoder, part: str, name: str) -> None:
    """`part` of `network` becomes the very module (or parameter) of `main`."""
    for owner, whose in ((network, f"network '{name}'"), (main, "the main encoder")):
        if part not in owner.parts():
            raise ConfigError(
                f"networks.{name}.tie",
                f"{whose} has no part '{part}'{did_you_mean(part, owner.parts())}",
            )
    path, shared = network.parts()[part], _resolve(main, main.parts()[part])
    mine = _resolve(network, path)
    shapes = [_shapes(module) for module in (mine, shared)]
    if shapes[0] != shapes[1]:
        raise ConfigError(
            f"networks.{name}.tie",
            f"'{part}' has the shapes {shapes[0]} here and {shapes[1]} in the main "
            "encoder; only equal shapes can be tied",
        )
    parent, _, attribute = path.rpartition(".")
    setattr(network.get_submodule(parent), attribute, shared)


def verify_ties(networks: Mapping[str, Encoder], specs: Mapping[str, NetworkSpec]) -> None:
    """After everything is built: a tie that a constructor undid is an error, not a silent second copy."""
    main = networks["main"]
    for name, spec in specs.items():
        for part in spec.tie:
            if _resolve(networks[name], networks[name].parts()[part]) is not _resolve(
                main, main.parts()[part]
            ):
                raise ConfigError(
                    f"networks.{name}.tie",
                    f"'{part}' is no longer shared with the main encoder after the build",
                )


def _resolve(module: nn.Module, path: str) -> nn.Module | nn.Parameter:
    for name in path.split("."):
        module = getattr(module, name)
    return module


def _shapes(part: nn.Module | nn.Parameter) -> list[tuple[int, ...]]:
    return [tuple(p.shape) for p in (part.parameters() if isinstance(part, nn.Module) else [part])]
