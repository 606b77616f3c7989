"""Parameter groups by rule: no decay, layer-wise decay, rates per network or criterion."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch.nn import Module, Parameter

from fwk.contracts.optimizer import _NDIM, OptimizerConfig, check_patterns, without_decay

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


_ABOVE_THE_LAYERS = re.compile(r"(?:^|[._])(?:final|pooler|head|output)")


def parameter_groups(
    named_parameters: Iterable[tuple[str, Parameter]],
    config: OptimizerConfig,
    depth_of: Callable[[str], int | None] | None = None,
    kind_of: Callable[[str, Parameter], str] | None = None,
    every_name: Iterable[str] = (),
) -> list[dict[str, Any]]:
    """Named parameters -> groups for a torch optimizer.

    Each group holds `params`, `names` (in the same order), `kind`, `lr_scale`, `weight_decay` and `lr` = config.lr ·
    lr_scale. Parameters with the same kind, scale and decay share a group; groups stand in the order of their first
    parameter, so the same module gives the same groups. depth_of: name -> depth counted from the embedding (0), None
    for the top; without it `layer_depths` decides. kind_of: what the optimizer tells apart (`OptimizerFactory.kind`);
    one kind without it. every_name: of parameters that are not trained now, too. Raises ConfigError for a pattern that matches no
    parameter at all.
    """
    named = list(named_parameters)
    names = [name for name, _ in named]
    known = list(dict.fromkeys([*names, *every_name]))
    check_patterns("optimizer.no_decay", _own_rules(config), known)
    check_patterns("optimizer.lr_scales", config.lr_scales, known)
    check_patterns("optimizer.decay_scales", config.decay_scales, known)

    below_top = _distances(names, depth_of) if config.layer_decay != 1 else {}
    groups: dict[tuple[float, float, str], dict[str, Any]] = {}
    for name, parameter in named:
        scale = config.layer_decay ** below_top.get(name, 0) * _factor(name, config.lr_scales)
        decay = (
            0.0
            if without_decay(name, parameter, config.no_decay)
            else config.weight_decay * _factor(name, config.decay_scales)
        )
        kind = kind_of(name, parameter) if kind_of else ""
        group = groups.setdefault(
            (scale, decay, kind),
            {
                "params": [],
                "names": [],
                "kind": kind,
                "lr_scale": scale,
                "weight_decay": decay,
                "lr": config.lr * scale,
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def _factor(name: str, scales: Mapping[str, float]) -> float:
    """The product of the factors whose patterns match."""
    return math.prod(
        (factor for pattern, factor in scales.items() if fnmatchcase(name, pattern)), start=1.0
    )


def layer_depths(names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Parameter name -> (depth, depth of the top), for the parameters that lie in an encoder.

    An encoder is whatever has parameters called `PREFIX.layers.<i>.*`; criteria's heads are outside it, whatever they
    contain. Its embedding has depth 0, layer i has i + 1, what stands above the layers (final norm, pooler) is the top.
    Encoders of different depth in one module keep each their own count.
    """
    tops: dict[str, int] = {}
    for name in names:
        found = _LAYER.search(name)
        if found and not name.startswith("criteria."):
            prefix = name[: found.start()]
            tops[prefix] = max(tops.get(prefix, 0), int(found.group(1)) + 2)
    depths: dict[str, tuple[int, int]] = {}
    for name in names:
        inside = [prefix for prefix in tops if not prefix or name.startswith(prefix + ".")]
        if not inside or name.startswith("criteria."):
            continue
        prefix = max(inside, key=len)
        found = _LAYER.search(name)
        if found and name[: found.start()] == prefix:
            depth = int(found.group(1)) + 1
        else:
            depth = tops[prefix] if _ABOVE_THE_LAYERS.search(name[len(prefix) :]) else 0
        depths[name] = (depth, tops[prefix])
    return depths


def _distances(
    names: Sequence[str], depth_of: Callable[[str], int | None] | None
) -> dict[str, int]:
    """Parameter name -> number of steps below the top."""
    if depth_of is None:
        return {name: top - depth for name, (depth, top) in layer_depths(names).items()}
    depths = {name: depth for name in names if (depth := depth_of(name)) is not None}
    top = max(depths.values(), default=-1) + 1
    return {name: top - depth for name, depth in depths.items()}


def owners(module: Module) -> dict[str, tuple[Module, ...]]:
    """Parameter name -> the modules that hold it: several where it is tied, each parameter under its first name."""
    held: dict[int, list[Module]] = {}
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            held.setdefault(id(parameter), []).append(part)
    return {name: tuple(held[id(parameter)]) for name, parameter in module.named_parameters()}


def _own_rules(config: OptimizerConfig) -> list[str]:
    """The glob patterns among the no-decay rules that the user wrote; a default may well match nothing."""
    defaults = OptimizerConfig().no_decay
    return [rule for rule in config.no_decay if rule not in defaults and not _NDIM.fullmatch(rule)]
