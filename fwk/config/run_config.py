"""The resolved config of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from os import path

from fwk.config.spec import (
    DEFAULT_HOOKS,
    FROM,
    NEEDS,
    RUNS,
    Component,
    CriterionSpec,
    NetworkSpec,
    TrainConfig,
    ViewSpec,
)
from fwk.config.views import complete_views, unused_networks, unused_views
from fwk.contracts.options import Plain, plain
from fwk.contracts.plain import PlainMapping
from fwk.errors import ConfigError


def targets_file(folder: str, split: str) -> str:
    """Return the file of a needed run's targets of a split."""
    return path.join(folder, f"{split}.targets")


@dataclass(frozen=True, kw_only=True)
class NeededRun:
    """A run that another run needs; it is trained before that one where it is missing."""

    name: str  # in messages; every needed run of a config has its own
    run: str  # its folder
    split: str | None  # whose targets are stored once it is finished
    stated: (
        PlainMapping  # its config as plain data, as far as it is stated, interpolations replaced
    )
    config: RunConfig

    @property
    def key(self) -> str:
        """What messages call the run."""
        return f"{NEEDS}.{self.name}"

    @property
    def targets(self) -> str | None:
        """The file of its targets, where any are stored."""
        return None if self.split is None else targets_file(self.run, self.split)

    def to_mapping(self) -> dict[str, Plain]:
        """Return the run as an entry of `needs:`."""
        targets = {} if self.split is None else {"targets": self.split}
        stated = {key: plain(value) for key, value in self.stated.items() if key != "run"}
        return {"run": self.run, **targets, **stated}


@dataclass(frozen=True)
class Needs:
    """The runs that a run needs, those that they need in turn included and before them."""

    runs: tuple[NeededRun, ...] = ()
    stated: tuple[str, ...] = ()  # the folders of those that the config itself states
    parallel: int = 1  # of the runs are trained at the same time

    def to_mapping(self) -> dict[str, Plain]:
        """Return the keys of a config file that state them; {} where there are none."""
        if not self.runs:
            return {}
        runs = {needed.name: needed.to_mapping() for needed in self.runs}
        return {NEEDS: runs, RUNS: {"parallel": self.parallel}}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides what a run computes."""

    seed: int
    run: str | None  # the run's folder; None: a default name under runs/
    user_dirs: tuple[str, ...]
    task: Component
    model: Component
    networks: Mapping[str, NetworkSpec]
    views: Mapping[str, PlainMapping]  # as the config states them; complete: `views_by_name`
    criterion: Mapping[str, CriterionSpec]
    optimizer: Component
    schedule: Component
    hooks: Mapping[str, Component]
    train: TrainConfig
    provenance: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    # they are no part of what the run computes: what it reads of them is stated by other keys
    needs: Needs = field(default_factory=Needs, compare=False, repr=False)

    @cached_property
    def views_by_name(self) -> dict[str, ViewSpec]:
        """Every view of the run, those that criteria bring included; computed and checked once.

        Imports the classes. Raises ConfigError naming the key.
        """
        self.check()
        return complete_views(
            self.criterion, self.views, list(self.networks), averages=bool(self.train.ema)
        )

    def components(self) -> list[Component]:
        """Return every component of the run, those of its views included. Imports the classes."""
        components = self._stated_components()
        for view in self.views_by_name.values():
            components.append(view.component)
            if isinstance(view.network, NetworkSpec):
                components.append(view.network.component)
        return components

    def _stated_components(self) -> list[Component]:
        return [
            self.task,
            self.model,
            self.optimizer,
            self.schedule,
            *self.hooks.values(),
            *(spec.component for spec in self.criterion.values()),
            *(spec.component for spec in self.networks.values()),
        ]

    def check(self) -> None:
        """Raise ConfigError for a value that a component's `Config` refuses, before any work is done."""
        for component in self._stated_components():
            _ = component.config  # raises
        for name, spec in self.networks.items():
            if spec.frozen and spec.tie:
                raise ConfigError(
                    f"networks.{name}.tie",
                    "is shared with the main encoder, which is trained, and this network is frozen",
                )
        if self.train.evaluate_average and not self.train.ema:
            raise ConfigError(
                "train.evaluate_average",
                "there is no moving average of the weights; set train.ema to its decay, such as 0.999",
            )
        if self.train.patience and not (self.train.validate_every or self.train.validate_epochs):
            raise ConfigError(
                "train.patience",
                "counts evaluations on the valid split, but this run evaluates only at its end; set "
                "train.validate_every or train.validate_epochs",
            )

    def weights_from(self) -> dict[str, str]:
        """Return the `from` of every network that has one, by the network's key."""
        networks = {f"networks.{label}": spec for label, spec in self.networks.items()}
        components = {"model": self.model} | {k: spec.component for k, spec in networks.items()}
        places = {
            key: component.weights_from
            for key, component in components.items()
            if component.weights_from is not None
        }
        for name, view in self.views.items():
            network = view.get("network")
            if isinstance(network, Mapping) and network.get(FROM.name) is not None:
                places[f"views.{name}.network"] = network[FROM.name]
        return places

    def unused_keys(self) -> list[str]:
        """Return the dotted keys of views and networks that nothing reads."""
        views = self.views_by_name
        return [
            *(f"views.{name}" for name in unused_views(self.criterion, views)),
            *(f"networks.{name}" for name in unused_networks(self.networks, views)),
        ]

    def with_complete_views(self) -> RunConfig:
        """Return the same config with every view stated in full."""
        views = {name: spec.to_mapping() for name, spec in self.views_by_name.items()}
        return replace(self, views=views)

    def to_mapping(self) -> dict[str, Plain]:
        """Return plain data that `from_mapping` reads back to an equal config; needed runs are left out."""
        hooks: dict[str, Plain] = {name: hook.to_mapping() for name, hook in self.hooks.items()}
        if hooks:  # a default hook that was removed; an empty mapping removes all of them
            hooks |= {name: None for name in DEFAULT_HOOKS if name not in hooks}
        return {
            "seed": self.seed,
            "run": self.run,
            "user_dirs": list(self.user_dirs),
            "task": self.task.to_mapping(),
            "model": self.model.to_mapping(),
            "networks": {name: spec.to_mapping() for name, spec in self.networks.items()},
            "views": {name: plain(view) for name, view in self.views.items()},
            "criterion": {label: spec.to_mapping() for label, spec in self.criterion.items()},
            "optimizer": self.optimizer.to_mapping(),
            "schedule": self.schedule.to_mapping(),
            "train": {f.name: plain(getattr(self.train, f.name)) for f in fields(self.train)},
            "hooks": hooks,
        }


@dataclass(frozen=True)
class Resolved:
    """A config, and the origin of each value by dotted key."""

    config: RunConfig
    provenance: dict[str, str]
