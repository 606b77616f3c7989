"""From what components return to the numbers of a micro-batch: sums, statistics, and shares of the loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fwk.contracts.views import Output
from fwk.engine.update import StepOutput, Update
from fwk.errors import RunError


def sums_of(outputs: Mapping[str, Output], weights: Mapping[str, float]) -> StepOutput:
    """Return the sums, statistics and weights of a micro-batch, without any loss.

    weights: by component. Raises RunError for a sum in half precision.
    """
    sums: dict[str, Tensor] = {}
    statistics: dict[str, Tensor] = {}
    weights_of_terms: dict[str, float] = {}
    for name, output in outputs.items():
        for term, value in output.terms.items():
            if value.sum.dtype in (torch.float16, torch.bfloat16):
                raise RunError(
                    f"'{name}' summed the loss term '{term}' in {value.sum.dtype}; sum in float32 or wider"
                )
            sums[f"{name}/{term}"] = value.sum.detach()
            weights_of_terms[f"{name}/{term}"] = weights[name] * value.weight
        for key, statistic in output.statistics.items():
            statistics[f"{name}/{key}"] = statistic.detach()
    return StepOutput(None, sums, statistics, {}, weights_of_terms)


def shares_of(
    outputs: Mapping[str, Output],
    weights: Mapping[str, float],
    update: Update,
    world_size: int,
) -> dict[str, Tensor]:
    """Return every term's share of the loss by 'label/term', see `ObjectiveModule.weighted_loss`.

    update: with its counts. Raises RunError for a term without a count.
    """
    counts, shares = update.counts, {}
    for name, output in outputs.items():
        weight = weights[name] * update.shares.get(name, 1.0)
        for term, value in output.terms.items():
            path = f"{name}/{term}"
            if path not in counts:
                raise RunError(
                    f"'{name}' returned the loss term '{term}' without a count of that name; its normalizers gave "
                    f"{', '.join(sorted(counts)) or 'none'}"
                )
            if counts[path] > 0:
                factor = weight * value.weight * world_size / counts[path]
                shares[path] = value.sum * factor
    return shares
