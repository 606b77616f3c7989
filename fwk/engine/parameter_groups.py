"""Parameter groups by rule: no decay, layer-wise decay, rates per network or criterion."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch.nn import Module, Parameter

from fwk.contracts.optimizer import _NDIM, OptimizerConfig, check_patterns, without_decay

ParameterGroup = dict[str, Any]  # as torch optimizers take it: 'params', and settings of every type

# the layers of fwk's encoders, and of those of transformers (`encoder.layer.0`, `transformer.layer.0`, `h.0`). What
# holds them belongs to the match, so that its neighbours, such as `embeddings`, have the prefix of the encoder
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|\w+\.(?:layer|albert_layer_groups))\.(\d+)\.")
_ABOVE_THE_LAYERS = re.compile(r"(?:^|[._])(?:final|pooler|head|output|ln_f)")


def parameter_groups(
    named_parameters: Iterable[tuple[str, Parameter]],
    config: OptimizerConfig,
    depth_of: Callable[[str], int | None] | None = None,
    kind_of: Callable[[str, Parameter], str] | None = None,
    every_name: Iterable[str] = (),
) -> list[ParameterGroup]:
    """Return the groups for a torch optimizer.

    Each group holds `params`, `names` (in the same order), `kind`, `lr_scale`, `weight_decay` and `lr` = config.lr ·
    lr_scale. Parameters with the same kind, scale and decay share a group; groups have the order of their first
    parameter, so the same module gives the same groups.

    depth_of: returns a parameter's depth counted from the embedding (0), None for the top; by default
    `layer_depths` decides. kind_of: returns the kind that an optimizer distinguishes (`OptimizerFactory.kind`);
    by default there is one. every_name: the names of all parameters, trained or not. Raises ConfigError for a
    pattern that matches no parameter.
    """
    named = list(named_parameters)
    names = [name for name, _ in named]
    known = list(dict.fromkeys([*names, *every_name]))
    check_patterns("optimizer.no_decay", _rules_of_the_user(config), known)
    check_patterns("optimizer.lr_scales", config.lr_scales, known)
    check_patterns("optimizer.decay_scales", config.decay_scales, known)

    # frozen layers count, too: a phase that trains the lower ones alone leaves their rates as they were
    below_top = _distances(known, depth_of) if config.layer_decay != 1 else {}
    groups: dict[tuple[float, float, str], ParameterGroup] = {}
    for name, parameter in named:
        scale = config.layer_decay ** below_top.get(name, 0) * _factor(name, config.lr_scales)
        decay = 0.0
        if not without_decay(name, parameter, config.no_decay):
            decay = config.weight_decay * _factor(name, config.decay_scales)
        kind = kind_of(name, parameter) if kind_of else ""
        settings = {"kind": kind, "lr_scale": scale, "weight_decay": decay, "lr": config.lr * scale}
        group = groups.setdefault((scale, decay, kind), {"params": [], "names": [], **settings})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def _factor(name: str, scales: Mapping[str, float]) -> float:
    """Return the product of the factors whose patterns match."""
    return math.prod(
        (factor for pattern, factor in scales.items() if fnmatchcase(name, pattern)), start=1.0
    )


def layer_depths(names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return (depth, depth of the top) by name, for the parameters of encoders.

    An encoder is a module with parameters called `PREFIX.layers.<i>.*`, or as transformers calls them; the heads of
    criteria do not belong to one, whatever they contain. Its embedding has depth 0, layer i has depth i + 1, and what
    is above the layers (final norm, pooler) has the depth of the top. Encoders of different depth in one module are
    counted separately. Layers that share one set of weights, as ALBERT's, are one layer.
    """
    tops: dict[str, int] = {}
    for name in names:
        layer = _LAYER.search(name)
        if layer and not name.startswith("criteria."):
            prefix = name[: layer.start()]
            tops[prefix] = max(tops.get(prefix, 0), int(layer.group(1)) + 2)
    depths: dict[str, tuple[int, int]] = {}
    for name in names:
        prefixes = [prefix for prefix in tops if not prefix or name.startswith(f"{prefix}.")]
        if not prefixes or name.startswith("criteria."):
            continue
        prefix = max(prefixes, key=len)
        layer = _LAYER.search(name)
        if layer and name[: layer.start()] == prefix:
            depth = int(layer.group(1)) + 1
        elif _ABOVE_THE_LAYERS.search(name[len(prefix) :]):
            depth = tops[prefix]
        else:
            depth = 0
        depths[name] = (depth, tops[prefix])
    return depths


def _distances(
    names: Sequence[str], depth_of: Callable[[str], int | None] | None
) -> dict[str, int]:
    """Return the number of layers between each parameter and the top, by name."""
    if depth_of is None:
        return {name: top - depth for name, (depth, top) in layer_depths(names).items()}
    depths = {name: depth_of(name) for name in names}
    known = {name: depth for name, depth in depths.items() if depth is not None}
    top = max(known.values(), default=-1) + 1
    return {name: top - depth for name, depth in known.items()}


def owners(module: Module) -> dict[str, tuple[Module, ...]]:
    """Return the modules that hold each parameter, by its first name: several where it is tied."""
    owners_of: dict[int, list[Module]] = {}
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            owners_of.setdefault(id(parameter), []).append(part)
    return {name: tuple(owners_of[id(parameter)]) for name, parameter in module.named_parameters()}


def _rules_of_the_user(config: OptimizerConfig) -> list[str]:
    """Return the glob patterns of `no_decay` that the user wrote; a default may well match nothing."""
    defaults = OptimizerConfig().no_decay
    return [rule for rule in config.no_decay if rule not in defaults and not _NDIM.fullmatch(rule)]
