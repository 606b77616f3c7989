"""Which layer of a network each parameter belongs to, for hooks that treat layers differently."""

from __future__ import annotations

from fwk.engine.module import ObjectiveModule
from fwk.engine.parameter_groups import layer_depths
from fwk.errors import ConfigError, did_you_mean


def named_depths(module: ObjectiveModule, network: str, key: str) -> tuple[dict[str, int], int]:
    """Return the depth of each parameter of a network, by its name in the module, and the depth of the top.

    The embedding has depth 0, layer i the depth i from 1, and what is above the layers the depth of the top. key: of
    the hook, for errors. Raises ConfigError where there is no such network, or it has no layers or several stacks.
    """
    if network not in module.networks:
        remedy = did_you_mean(network, module.networks.keys())
        raise ConfigError(f"{key}.network", f"there is no network '{network}'{remedy}")
    prefix = f"networks.{network}."
    names = [name for name, _ in module.named_parameters() if name.startswith(prefix)]
    depths = layer_depths(names)
    tops = {top for _, top in depths.values()}
    if len(tops) != 1:
        fact = "layers that can be told from their names" if not tops else "one stack of layers"
        raise ConfigError(f"{key}.network", f"expected a network with {fact}, got '{network}'")
    return {name: depth for name, (depth, _) in depths.items()}, tops.pop()
