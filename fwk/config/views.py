"""The views of a config: the defaults of its criteria with the overrides of the user, checked as one graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf

from fwk.components.registry import registry
from fwk.config.checking import _filled, _known, _network
from fwk.config.spec import _VIEW_FIELDS, Component, NetworkSpec, RunConfig, ViewSpec
from fwk.contracts.options import convert, plain
from fwk.errors import ConfigError, did_you_mean


def complete_views(config: RunConfig) -> dict[str, ViewSpec]:
    """Every view of the run by name: what the criteria bring, overridden by name and key by what the config says.

    A noiser named by the config drops the options of the default one. Raises ConfigError naming the key: views that
    two criteria define differently, unknown views and networks, circles, options of no use. Imports the classes.
    """
    check(config)
    merged: dict[str, dict[str, Any]] = {}
    brought_by: dict[str, str] = {}
    read = [
        (label, name, read.default)
        for label, spec in config.criterion.items()
        for name, read in spec.component.cls.reads(spec.component.config).items()
    ]
    for only_reads in (False, True):
        for label, name, default in read:
            if (default is None) != only_reads or (only_reads and name in merged):
                continue
            view = _overridden(plain(default or {}), config.views.get(name, {}))
            if name in merged and merged[name] != view:
                raise ConfigError(
                    f"views.{name}",
                    f"criteria '{brought_by[name]}' and '{label}' mean different views by "
                    "this name; say under 'views' which it is, or give one of them another view",
                )
            if "noiser" not in view:
                raise ConfigError(
                    f"views.{name}",
                    f"criterion '{label}' reads this view, and nothing says how it is "
                    "made; give it a noiser under 'views'",
                )
            merged[name], brought_by[name] = view, label
    for name, view in config.views.items():
        if name not in merged:
            if "noiser" not in view:
                raise ConfigError(
                    f"views.{name}",
                    f"no criterion reads a view of this name, and it has no noiser"
                    f"{did_you_mean(name, merged)}",
                )
            merged[name] = dict(view)
    specs = {name: _view_spec(name, view) for name, view in merged.items()}
    _check_views(config, specs)
    return specs


def with_views(config: RunConfig) -> RunConfig:
    """The config with every view spelled out; the same config as far as training goes."""
    return replace(
        config, views={name: spec.to_mapping() for name, spec in complete_views(config).items()}
    )


def check(config: RunConfig) -> None:
    """Build every component's typed config, so that what its dataclass refuses is reported before any work."""
    for component in (
        config.task,
        config.model,
        config.optimizer,
        config.schedule,
        *config.hooks.values(),
        *(spec.component for spec in config.criterion.values()),
        *(spec.component for spec in config.networks.values()),
    ):
        component.config  # noqa: B018 raises ConfigError
    if config.train.evaluate_average and not config.train.ema:
        raise ConfigError(
            "train.evaluate_average",
            "there is no moving average of the weights; set train.ema to its decay, such as 0.999",
        )


def unused(config: RunConfig, views: Mapping[str, ViewSpec] | None = None) -> list[str]:
    """Dotted keys of views and networks that nothing reads."""
    views = complete_views(config) if views is None else views
    read = {
        name
        for spec in config.criterion.values()
        for name in spec.component.cls.reads(spec.component.config)
    }
    pending = list(read)
    while pending:
        source = views[pending.pop()].of
        if source and source in views and source not in read:
            read.add(source)
            pending.append(source)
    networks = {
        value
        for spec in views.values()
        for value in (spec.network, spec.encoder)
        if isinstance(value, str)
    }
    losers = [f"views.{n}" for n in views if n not in read and not views[n].component.cls.learned]
    return losers + [f"networks.{n}" for n in config.networks if n not in networks]


def _overridden(default: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    structural = ("of", "mode", "ema", "encoder")
    if "noiser" in said and said["noiser"] != default.get("noiser"):
        default = {k: v for k, v in default.items() if k in structural}
    networks = [view.get("network") for view in (default, said)]
    if all(isinstance(network, Mapping) for network in networks) and networks[0][
        "name"
    ] != networks[1].get("name", networks[0]["name"]):
        default = {**default, "network": None}  # of another model its options mean nothing
    return OmegaConf.to_container(
        OmegaConf.merge(
            OmegaConf.create(dict(default), flags={"allow_objects": True}), plain(said)
        ),
        resolve=False,
    )


def _view_spec(name: str, values: Mapping[str, Any]) -> ViewSpec:
    key = f"views.{name}"
    values = dict(values)
    noiser = values.pop("noiser")
    entry = registry.get("noiser", noiser, f"given in {key}.noiser")
    said = {
        f.name: convert(values.pop(f.name, f.default), f, f"{key}.{f.name}")
        for f in _VIEW_FIELDS[1:]
    }
    for option_name in values:
        _known(
            (key, option_name),
            option_name,
            [*(f.name for f in entry.schema), *(f.name for f in _VIEW_FIELDS)],
            f"noiser '{noiser}'",
            "",
        )
    component = Component(
        "noiser", noiser, _filled(entry.schema, values, key, f"noiser '{noiser}'"), key
    )
    if isinstance(said["network"], Mapping):
        said["network"] = _network(f"{key}.network", said["network"])
    return ViewSpec(name, component, **said)


def _line(name: str | None, views: Mapping[str, ViewSpec]) -> list[str]:
    """A view and those it is made of, as far as they are known; a circle is walked once."""
    line: list[str] = []
    while name is not None and name in views and name not in line:
        line.append(name)
        name = views[name].of
    return line


def _chosen(name: str | None, views: Mapping[str, ViewSpec]) -> bool:
    """Whether a view has chosen positions, as far as its noisers say."""
    return any(views[n].component.cls.chooses is not False for n in _line(name, views))


def _check_views(config: RunConfig, views: Mapping[str, ViewSpec]) -> None:
    networks = ["main", *config.networks]
    for name, spec in views.items():
        key = f"views.{name}"
        spec.component.config  # noqa: B018 raises ConfigError
        if name == "batch":
            raise ConfigError(key, "'batch' is the batch itself; choose another name")
        if spec.of is not None and spec.of not in views:
            raise ConfigError(
                f"{key}.of", f"there is no view '{spec.of}'{did_you_mean(spec.of, views)}"
            )
        if spec.encoder not in networks:
            raise ConfigError(
                f"{key}.encoder",
                f"there is no network '{spec.encoder}'{did_you_mean(spec.encoder, networks)}",
            )
        if isinstance(spec.network, str) and spec.network not in networks:
            raise ConfigError(
                f"{key}.network",
                f"there is no network '{spec.network}'{did_you_mean(spec.network, networks)}",
            )
        if isinstance(spec.network, NetworkSpec):
            spec.network.component.config  # noqa: B018 raises ConfigError
        learned = spec.component.cls.learned
        if spec.network is not None and not learned:
            raise ConfigError(
                f"{key}.network",
                f"noiser '{spec.noiser}' is not learned and has no use for a network",
            )
        if spec.prepare and not any(views[n].component.cls.learned for n in _line(name, views)):
            raise ConfigError(
                f"{key}.prepare",
                f"noiser '{spec.noiser}' is not learned, nor is any it builds on: the view "
                "is always known before the counts are taken",
            )
        if spec.ema and not config.train.ema:
            raise ConfigError(
                f"{key}.ema",
                "there is no moving average of the weights; set train.ema to its decay",
            )
        seen = [name]
        while (source := views[seen[-1]].of) is not None and source in views:
            if source in seen:
                raise ConfigError(
                    f"{key}.of",
                    f"views are made of each other in a circle: {' of '.join([*seen, source])}",
                )
            seen.append(source)
        if spec.component.cls.reads_positions and not _chosen(spec.of, views):
            source = f"view '{spec.of}'" if spec.of else "the batch itself"
            raise ConfigError(
                f"{key}.of",
                f"noiser '{spec.noiser}' changes the chosen positions of its source, and {source} has none; "
                "name a view whose noiser chooses some, such as 'bert_mask'",
            )
    for label, spec in config.criterion.items():
        for name, read in spec.component.cls.reads(spec.component.config).items():
            if read.positions and not _chosen(name, views):
                raise ConfigError(
                    f"views.{name}.noiser",
                    f"criterion '{label}' reads positions that were chosen, and "
                    f"'{views[name].noiser}' chooses none; expected one that does, such as 'bert_mask'",
                )
            if read.log_q and not views[name].component.cls.knows_log_q:
                known = [
                    e.name
                    for e in registry.entries("noiser")
                    if registry.get("noiser", e.name).cls.knows_log_q
                ]
                raise ConfigError(
                    f"views.{name}.noiser",
                    f"criterion '{label}' needs log q of every token, which '{views[name].noiser}' "
                    f"does not know; expected one of {', '.join(sorted(known)) or 'none there is'}",
                )
