"""Values of other keys that an option brings along, such as the tokenizer of a model.

An option declares it (`option(brings="task.tokenizer")`): where the user gives the option and not the other key, that
key has the option's value. So the resolved config states what the run uses, whoever chose it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fwk.config.run_config import RunConfig
from fwk.contracts.options import Plain


def with_brought_values(
    config: RunConfig, provenance: Mapping[str, str]
) -> tuple[RunConfig, dict[str, str]]:
    """Return the config with the values that options of its model bring, and the origins of all values."""
    origins = dict(provenance)
    for spec in config.model.entry.schema:
        value = config.model.values.get(spec.name)
        if spec.brings and value is not None:
            config = bring(config, origins, spec.brings, value, f"model.{spec.name}")
    return config, origins


def bring(
    config: RunConfig, origins: dict[str, str], key: str, value: Plain, origin: str
) -> RunConfig:
    """Return the config with the value at `key`, an option of the task, unless the user gave one.

    origins: by dotted key; changed in place. A task without the option stays as it is.
    """
    _, _, name = key.partition(".")
    if name not in config.task.values or origins.get(key) != "default":
        return config
    origins[key] = origin
    task = replace(config.task, values={**config.task.values, name: value})
    return replace(config, task=task)
