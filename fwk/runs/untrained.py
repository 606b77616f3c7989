"""Which parts of a checkpoint were never trained: what they compute is noise, and no result.

A head is untrained where the encoder alone was imported, and where its run has not trained it: a criterion that a later
phase switches on, or whose examples never came. An import says so in its state. In a run, weights that are those that
the part was built with, to the last bit, were never stepped.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fwk.contracts.plain import PlainMapping
from fwk.engine.module import ObjectiveModule
from fwk.engine.saving.state import model_tensors

# the `imported` entry of a state that says nothing of `untrained`: encoders that older versions imported
ENCODERS_ALONE = ("BertModel", "ElectraModel")


def untrained_parts(
    fresh: ObjectiveModule, weights: Mapping[str, Tensor], state: PlainMapping
) -> tuple[str, ...]:
    """Return the names of the criteria and learned views of a checkpoint that were never trained.

    fresh: the module as it was built, before the weights are loaded. state: the checkpoint's.
    """
    alone = state.get("imported") in ENCODERS_ALONE
    said = state.get("untrained", list(fresh.criteria) if alone else [])
    initial = model_tensors(fresh)
    return tuple(
        name
        for name, part in fresh.parts.items()
        if name in said or _are_initial(f"{part.path}.", initial, weights)
    )


def _are_initial(prefix: str, initial: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> bool:
    """Return whether there are weights under a prefix, and all of them are the initial ones."""
    names = [name for name in initial if name.startswith(prefix) and name in weights]
    return bool(names) and all(
        weights[name].equal(initial[name].to(weights[name].dtype)) for name in names
    )
